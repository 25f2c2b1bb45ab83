"""The CI files that users copy: every command in them is run in a project as the README says to make it.

The services themselves are not here. What stands in for them: a scratch project with the copied files, the workflow's
own variables, a shell with `set -e`, and this environment in place of the install step, whose packages must be in it.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tflite_models
import yaml

EXAMPLES = Path(__file__).parent.parent / "examples" / "ci"
INSTALL = "python -m pip install "
SERVICES = ("github-actions.yml", "gitlab-ci.yml")


def read(service: str) -> Any:
    # "on" is a key of GitHub's, and true in YAML 1.1.
    return yaml.load((EXAMPLES / service).read_text(encoding="utf-8"), yaml.BaseLoader)


# GitHub's conditions that the workflow uses, and on which branches they hold.
CONDITIONS = {
    "github.ref == 'refs/heads/main'": {"main"},
    "github.ref != 'refs/heads/main'": {"work"},
    "always()": {"main", "work"},
    "": {"main", "work"},
}


def commands(service: str, branch: str) -> tuple[list[str], dict[str, str]]:
    """Commands in the order in which they run on a branch; and the job's variables."""
    content = read(service)
    if service.startswith("github"):
        job = content["jobs"]["parity"]
        assert all(("run" in step) != ("uses" in step) for step in job["steps"])
        return [step["run"] for step in job["steps"] if "run" in step and branch in CONDITIONS[step.get("if", "")]], (
            job["env"]
        )
    job = content["models"]
    variables = {**job["variables"], "CI_COMMIT_BRANCH": branch, "CI_DEFAULT_BRANCH": "main"}
    return [*job["before_script"], *job["script"]], variables


class Project:
    """A user's project with the files copied to where the README says."""

    def __init__(self, folder: Path, service: str, bundle: Path) -> None:
        self.folder = folder
        table = dict(re.findall(r"^\| `([\w.-]+)` \| `([\w./-]+)` \|", (EXAMPLES / "README.md").read_text(), re.M))
        for name in ("test_parity.py", service):
            (folder / table[name]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(EXAMPLES / name, folder / table[name])
        self.service = service
        self.variant = folder / "run" / "variants" / "float32"
        assert commands(service, "main")[1]["EDGE_DL_RUN"] == "run"
        shutil.copytree(bundle, self.variant)

    def run_all(self, branch: str) -> list[int]:
        """Exit codes of the commands on a branch, up to the first that fails."""
        found: list[int] = []
        steps, variables = commands(self.service, branch)
        for command in steps:
            found.append(self.run(command, variables))
            if found[-1]:
                break
        return found

    def run(self, command: str, variables: dict[str, str]) -> int:
        if command.startswith(INSTALL):
            for package in command.removeprefix(INSTALL).split():
                importlib.metadata.version(package)  # Raises where it is not installed.
            return 0
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {**os.environ, **variables, "PATH": path, "PYTEST_XDIST_AUTO_NUM_WORKERS": "2"}
        done = subprocess.run(["sh", "-e", "-c", command], cwd=self.folder, env=environment, capture_output=True,
                              text=True, timeout=300, check=False)  # fmt: skip
        print(command, done.stdout, done.stderr, sep="\n")
        return done.returncode

    def cases(self, name: str) -> dict[str, str]:
        """Verdict by test, from a JUnit file."""
        root = ElementTree.parse(self.folder / name)
        return {str(case.get("name")): (case[-1].tag if len(case) and case[-1].tag != "properties" else "passed")
                for case in root.iter("testcase")}  # fmt: skip


@pytest.fixture
def bundle(tflite: Callable[[str], Path], tmp_path: Path) -> Path:
    images = tflite_models.images(8, seed=4)
    golden = ({"image": images}, {"label": tflite_models.conv_reference(images).astype("float32")})
    return tflite_models.bundle_of(tmp_path / "bundle", tflite("conv-float32"), golden, task="classification")


@pytest.mark.parametrize("service", SERVICES)
def test_a_branch_is_held_to_the_main_branch(service: str, bundle: Path, tmp_path: Path) -> None:
    project = Project(tmp_path / "project", service, bundle)
    assert sum(command.startswith(INSTALL) for command in commands(service, "main")[0]) == 1
    assert project.run_all("work") == [0, 0, 0]  # Before there is a baseline.
    assert project.run_all("main") == [0, 0, 0]
    assert project.cases("parity.xml") == {
        "test_there_are_models": "passed",
        "test_same_answers[local-float32]": "passed",
    }
    assert project.cases("latency.xml") == {"test_speed[local-float32]": "passed"}
    baselines = project.folder / ".edge-dl" / "baselines"
    assert len(list((baselines / "models").iterdir())) == 1
    stored = {path: path.read_bytes() for path in baselines.rglob("*") if path.is_file()}

    # Another machine next time: its numbers are unknown here, the model is all there is.
    for path in baselines.glob("*-*.json"):
        path.unlink()
        del stored[path]
    assert project.run_all("work") == [0, 0, 0]

    # The same answers by a model that takes far longer: a branch fails, the main branch makes it the next baseline.
    images = tflite_models.images(8, seed=4)
    golden = ({"image": images}, {"label": tflite_models.conv_reference(images).astype("float32")})
    slow = tmp_path / "slow.tflite"
    slow.write_bytes(tflite_models.convert(slowed_function(), "predict", tmp_path / "saved"))
    shutil.rmtree(project.variant)
    tflite_models.bundle_of(project.variant, slow, golden, task="classification")
    assert project.run_all("work") == [0, 0, 1]
    assert project.cases("latency.xml") == {"test_speed[local-float32]": "failure"}
    assert {path: path.read_bytes() for path in stored} == stored
    assert project.run_all("main") == [0, 0, 0]
    assert project.run_all("work") == [0, 0, 0]


def slowed_function() -> Any:
    """What `conv_function` computes, plus the sum of some million products that is multiplied by zero."""
    tf = tflite_models.tensorflow()
    kernel, dense = tflite_models.weights(1, 3, 3, 1, 4), tflite_models.weights(2, 144, tflite_models.CLASSES)
    first, middle = tflite_models.weights(5, 64, 1024), tflite_models.weights(6, 1024, 1024)

    @tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 1), tf.float32, name="image")])
    def predict(image: Any) -> dict[str, Any]:
        hidden = tf.nn.relu(tf.nn.conv2d(image, kernel, 1, "VALID"))
        idle = tf.reduce_sum(tf.nn.relu(tf.reshape(image, (1, 64)) @ first) @ middle, 1, keepdims=True)
        return {"label": tf.matmul(tf.reshape(hidden, (-1, 144)), dense) + idle * 1e-12}

    return predict


@pytest.mark.parametrize("service", SERVICES)
def test_a_model_that_answers_otherwise_fails(service: str, bundle: Path, tmp_path: Path) -> None:
    project = Project(tmp_path / "project", service, bundle)
    images = tflite_models.images(8, seed=4)
    shutil.rmtree(project.variant)
    wrong = -tflite_models.conv_reference(images).astype("float32")
    tflite_models.bundle_of(project.variant, bundle / "model.tflite", ({"image": images}, {"label": wrong}),
                            task="classification")  # fmt: skip
    assert project.run_all("work") == [0, 1]
    assert project.cases("parity.xml")["test_same_answers[local-float32]"] == "failure"
    shutil.rmtree(project.variant)
    assert project.run_all("work") == [0, 1]  # A project without models does not pass.


def test_github_keeps_reports_and_baselines() -> None:
    steps = {step.get("name", step.get("uses")): step for step in read("github-actions.yml")["jobs"]["parity"]["steps"]}
    assert steps["Keep the reports"]["if"] == "always()"
    restored = steps["Models of the main branch, to time these beside them"]
    kept = steps["Keep the baselines"]
    assert kept["if"] == steps["Store baselines"]["if"] == "github.ref == 'refs/heads/main'"
    assert restored["with"]["path"] == kept["with"]["path"] == ".edge-dl/baselines"
    # A cache is never written twice under one key: each run has its own, and takes the newest of the others.
    assert restored["with"]["key"] == kept["with"]["key"]
    assert "github.run_id" in kept["with"]["key"]
    assert kept["with"]["key"].startswith(restored["with"]["restore-keys"])
    order = [*map(list(steps).index, (
        "Models of the main branch, to time these beside them", "Not slower than the main branch", "Store baselines",
        "Keep the baselines",
    ))]  # fmt: skip
    assert order == sorted(order)


def test_gitlab_keeps_reports_and_baselines() -> None:
    job = read("gitlab-ci.yml")["models"]
    assert job["artifacts"]["when"] == "always"
    assert job["artifacts"]["reports"]["junit"] == ["*.xml"]
    assert job["cache"]["paths"] == [".edge-dl/baselines"]
    assert job["cache"]["unprotect"] == "true"
    # Branches read, the main branch writes.
    assert job["cache"]["policy"] == "$BASELINES"
    assert job["variables"]["BASELINES"] == "pull"
    first, second = job["rules"]
    assert first["if"] == "$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH"
    assert first["variables"] == {"BASELINES": "pull-push"}
    assert second == {"if": "$CI_COMMIT_BRANCH"}
