"""The run folder's record, its stages and its lock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_dl.errors import UsageError
from edge_dl.runfolder import OUTPUTS, STAGES, RunFolder, digest, installed_versions, machine

RECIPE = {"name": "lstm", "training": {"epochs": 2}}


def make(path: Path, **recipe: Any) -> RunFolder:
    return RunFolder.create(path, recipe={**RECIPE, **recipe}, command=["edge-dl", "run", "lstm"])


def test_a_finished_stage_with_the_same_inputs_is_done(tmp_path: Path) -> None:
    with make(tmp_path / "run") as run:
        assert not run.done("export", {"a": 1})
        with run.stage("export", {"a": 1}):
            pass
        assert run.done("export", {"a": 1})
        assert not run.done("export", {"a": 2})
    again = RunFolder.open(tmp_path / "run")
    assert again.done("export", {"a": 1})
    assert again.record["stages"]["export"]["seconds"] >= 0


def test_lost_data_is_read_again_and_training_stays(tmp_path: Path) -> None:
    def work(run: RunFolder, stage: str, inputs: int) -> None:
        with run.stage(stage, inputs):
            for name in OUTPUTS[stage]:
                (run.path / name).parent.mkdir(exist_ok=True)
                (run.path / name).touch()

    with make(tmp_path / "run") as run:
        work(run, "data", 1)
        work(run, "train", 1)
        assert run.done("data", 1)
        (run.path / "data" / "test.npz").unlink()
        assert not run.done("data", 1)
        work(run, "data", 1)
        assert run.done("train", 1)
        work(run, "data", 2)  # Other data.
        assert not run.done("train", 1)
        work(run, "train", 1)
        (run.path / "train" / "model.keras").unlink()
        assert not run.done("train", 1)


def test_doing_a_stage_again_undoes_the_later_ones(tmp_path: Path) -> None:
    with make(tmp_path / "run") as run:
        for stage in STAGES:
            with run.stage(stage, 1):
                pass
        with run.stage("train", 2):
            assert not run.done("train", 2)
        assert [stage for stage in STAGES if stage in run.record["stages"]] == ["data", "train"]


@pytest.mark.parametrize(("error", "status"), [(ValueError("broken"), "failed"), (KeyboardInterrupt(), "interrupted")])
def test_a_stage_that_breaks_is_recorded(tmp_path: Path, error: BaseException, status: str) -> None:
    with make(tmp_path / "run") as run, pytest.raises(type(error)), run.stage("train", 1):
        raise error
    entry = RunFolder.open(tmp_path / "run").record["stages"]["train"]
    assert entry["status"] == status
    assert entry["error"] in ("broken", "KeyboardInterrupt")
    assert not RunFolder.open(tmp_path / "run").done("train", 1)


def test_a_killed_stage_is_not_done(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom edge_dl.runfolder import RunFolder\n"
        "run = RunFolder.create(sys.argv[1], recipe={'name': 'lstm'}, command=[])\n"
        "with run, run.stage('train', 1):\n    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=False)
    run = RunFolder.open(tmp_path / "run")
    assert run.record["stages"]["train"]["status"] == "running"
    assert not run.done("train", 1)
    with run:  # The lock went with the process.
        pass


def test_two_commands_in_one_folder(tmp_path: Path) -> None:
    with make(tmp_path / "run") as run, run.stage("export", 1):
        code = (
            "import sys\nfrom edge_dl.errors import UsageError\nfrom edge_dl.runfolder import RunFolder\n"
            "try:\n    with RunFolder.open(sys.argv[1]):\n        sys.exit(0)\n"
            "except UsageError as error:\n    print(error)\n    sys.exit(error.exit_code)\n"
        )
        other = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, text=True, check=False
        )
        assert other.returncode == 2
        assert "One command at a time" in other.stdout
    assert RunFolder.open(tmp_path / "run").done("export", 1)


def test_other_recipes_and_other_folders_are_refused(tmp_path: Path) -> None:
    with make(tmp_path / "run"):
        pass
    with pytest.raises(UsageError, match="belongs to one recipe"):
        make(tmp_path / "run", name="gru")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="empty or a new folder"):
        make(tmp_path / "mine")
    with pytest.raises(UsageError, match="empty or a new folder"):
        make(tmp_path / "mine" / "letter.txt")
    assert os.listdir(tmp_path / "mine") == ["letter.txt"]
    with pytest.raises(UsageError, match=r"holds run\.json"):
        RunFolder.open(tmp_path / "mine")


def test_the_same_recipe_with_other_settings_keeps_the_stages(tmp_path: Path) -> None:
    with make(tmp_path / "run") as run, run.stage("export", 1):
        pass
    run = make(tmp_path / "run", training={"epochs": 5})
    assert run.done("export", 1)
    assert run.record["recipe"]["training"] == {"epochs": 5}


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{}", '{"format": 2, "stages": {}}', '{"format": 1, "stages": []}',
        '{"format": 1, "stages": {"data": 3}}', '{"format": 1, "stages": {}, "recipe": []}',
    ],
)  # fmt: skip
def test_a_broken_record(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UsageError, match=r"run\.json|JSON"):
        make(tmp_path)


JSON = st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=5)


@given(JSON, JSON)
def test_digests_tell_values_apart_and_ignore_order(one: dict, other: dict) -> None:
    assert digest(one) == digest(dict(reversed(one.items())))
    assert (digest(one) == digest(other)) == (one == other)


def test_the_record_says_what_a_result_depends_on(tmp_path: Path) -> None:
    with make(tmp_path / "run"):
        pass
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["command"] == ["edge-dl", "run", "lstm"]
    assert record["versions"]["numpy"] == __import__("numpy").__version__
    assert record["machine"]["cores"] >= 1
    assert {"python", "numpy", "edge-dl"} <= set(installed_versions())
    assert machine()["architecture"]
