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


def commands(service: str) -> tuple[list[str], dict[str, str]]:
    """Commands in the order in which they run, on the main branch; and the job's variables."""
    content = read(service)
    if service.startswith("github"):
        job = content["jobs"]["parity"]
        assert all(("run" in step) != ("uses" in step) for step in job["steps"])
        return [step["run"] for step in job["steps"] if "run" in step], job["env"]
    job = content["models"]
    branch = {"CI_COMMIT_BRANCH": "main", "CI_DEFAULT_BRANCH": "main"}
    return [*job["before_script"], *job["script"]], {**job["variables"], **branch}


class Project:
    """A user's project with the files copied to where the README says."""

    def __init__(self, folder: Path, service: str, bundle: Path) -> None:
        self.folder = folder
        table = dict(re.findall(r"^\| `([\w.-]+)` \| `([\w./-]+)` \|", (EXAMPLES / "README.md").read_text(), re.M))
        for name in ("test_parity.py", service):
            (folder / table[name]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(EXAMPLES / name, folder / table[name])
        self.commands, self.variables = commands(service)
        shutil.copytree(bundle, folder / self.variables["EDGE_DL_RUN"] / "variants" / "float32")

    def run(self, command: str) -> int:
        if command.startswith(INSTALL):
            for package in command.removeprefix(INSTALL).split():
                importlib.metadata.version(package)  # Raises where it is not installed.
            return 0
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {**os.environ, **self.variables, "PATH": path, "PYTEST_XDIST_AUTO_NUM_WORKERS": "2"}
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
def test_every_command_works(service: str, bundle: Path, tmp_path: Path) -> None:
    project = Project(tmp_path / "project", service, bundle)
    assert sum(command.startswith(INSTALL) for command in project.commands) == 1
    assert [project.run(command) for command in project.commands] == [0] * len(project.commands)
    assert project.cases("parity.xml") == {
        "test_there_are_models": "passed",
        "test_same_answers[local-float32]": "passed",
    }
    assert project.cases("latency.xml") == {"test_speed[local-float32]": "passed"}
    kept = list((project.folder / ".edge-dl" / "baselines").glob("*.json"))
    assert len(kept) == 1

    # Another model under the same golden answers: the job must fail, and its report say which test.
    images = tflite_models.images(8, seed=4)
    variant = project.folder / "run" / "variants" / "float32"
    shutil.rmtree(variant)
    wrong = -tflite_models.conv_reference(images).astype("float32")
    tflite_models.bundle_of(variant, bundle / "model.tflite", ({"image": images}, {"label": wrong}),
                            task="classification")  # fmt: skip
    parity = next(command for command in project.commands if "parity.xml" in command)
    assert project.run(parity) == 1
    assert project.cases("parity.xml")["test_same_answers[local-float32]"] == "failure"

    shutil.rmtree(variant)
    assert project.run(parity) == 1  # A project without models does not pass.


def test_github_keeps_reports_and_baselines() -> None:
    steps = {step.get("name", step.get("uses")): step for step in read("github-actions.yml")["jobs"]["parity"]["steps"]}
    assert steps["Keep the reports"]["if"] == "always()"
    assert steps["Baselines of this kind of machine"]["with"]["path"] == ".edge-dl/baselines"
    assert steps["Store baselines"]["if"] == "github.ref == 'refs/heads/main'"
    # The cache is restored before anything is compared, and saved when the job ends.
    names = list(steps)
    assert names.index("Baselines of this kind of machine") < names.index("Not slower") < names.index("Store baselines")


def test_gitlab_keeps_reports_and_baselines() -> None:
    job = read("gitlab-ci.yml")["models"]
    assert job["artifacts"]["when"] == "always"
    assert job["artifacts"]["reports"]["junit"] == ["*.xml"]
    assert job["cache"]["paths"] == [".edge-dl/baselines"]
