"""Targets from the command line: `verify --on`, `bench --on`, `run --on`, and what they leave in a run folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tflite_models as models
from click.testing import Result
from typer.testing import CliRunner

from edge_dl.cli.main import app
from edge_dl.files import read_json, write_json
from edge_dl.runtime.targets.environment import EnvironmentTarget
from edge_dl.runtime.targets.local import LocalTarget

Tflite = Callable[[str], Path]


@pytest.fixture(autouse=True)
def own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_DL_CONFIG", str(tmp_path / "configuration"))


def edge(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def bundle_at(folder: Path, tflite: Tflite, *, shift: float = 0.0) -> Path:
    images = models.images(4)
    golden = ({"image": images}, {"label": models.conv_reference(images).astype("float32") + shift})
    return models.bundle_of(folder, tflite("conv-float32"), golden)


def test_a_bundle_on_targets(tflite: Tflite, tmp_path: Path) -> None:
    bundle = bundle_at(tmp_path / "bundle", tflite)
    missing = f"env:{tmp_path}/nowhere"
    assert edge("target", "add", "here", "local:").exit_code == 0
    good = edge("verify", bundle, "--on", "here", "--json")
    assert good.exit_code == 0, good.output
    (result,) = json.loads(good.stdout)
    assert (result["target"], result["parity"]["verdict"], result["error"]) == ("here", "pass", "")
    assert result["model"] == read_json(bundle / "manifest.json")["files"]["model.tflite"]["sha256"]
    # One that fails does not stop the other, and the exit code says that an answer is missing.
    both = edge("verify", bundle, "--on", f"{missing}, here")
    assert both.exit_code == 3
    assert "not run" in both.stdout
    assert "pass" in both.stdout
    wrong = edge("verify", bundle_at(tmp_path / "wrong", tflite, shift=0.5), "--on", "here")
    assert wrong.exit_code == 1, wrong.output
    timed = edge("bench", bundle, "--on", "here", "--json")
    assert timed.exit_code == 0, timed.output
    (latency,) = json.loads(timed.stdout)
    assert latency["meaningful"]
    assert latency["timing"]["p50_ms"] > 0
    assert edge("bench", bundle, "--on", missing).exit_code == 3


@pytest.mark.parametrize(
    ("command", "words", "say"),
    [
        ("verify", ["--on", "nowhere"], "must be added"),
        ("verify", ["--on", ""], "different targets"),
        ("verify", ["--on", "local:,local"], "different targets"),
        ("verify", ["--on", "local:", "--runtime", "tensorflow"], "--runtime is for this machine"),
        ("verify", ["--on", "local:", "--data", "x.npz"], "--data is for this machine"),
        ("verify", ["--samples", "3"], "--samples goes with --on"),
        ("bench", ["--on", "local:", "--threads", "2"], "--threads is for this machine"),
        ("bench", ["--on", "local:", "--against", "x"], "--against is for this machine"),
        ("bench", ["--time-limit", "3"], "--time-limit goes with --on"),
        ("run", ["--time-limit", "3"], "--time-limit goes with --on"),
        ("run", ["--on", "nowhere"], "must be added"),
    ],
)
def test_wrong_use_is_told_before_anything_is_done(
    tflite: Tflite, tmp_path: Path, command: str, words: list[str], say: str
) -> None:
    bundle = bundle_at(tmp_path / "bundle", tflite)
    found = edge(command, bundle, *words)
    assert found.exit_code == 2
    assert say in found.output
    assert not (tmp_path / "runs").exists()


def test_a_target_slower_than_its_time_limit(tflite: Tflite, tmp_path: Path) -> None:
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nsleep 60\n")
    slow.chmod(0o755)
    found = edge("verify", bundle_at(tmp_path / "bundle", tflite), "--on", f"env:{slow},local:", "--time-limit", "1")
    # This machine's own Python may or may not answer within the second; the other one cannot.
    assert found.exit_code == 3
    assert "within 1 seconds" in found.stdout


def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the targets that are reached from now on."""
    names: list[str] = []
    for kind in (LocalTarget, EnvironmentTarget):
        connect = kind.connect

        def counted(self: Any, connect: Any = connect) -> Any:
            names.append(self.name)
            return connect(self)

        monkeypatch.setattr(kind, "connect", counted)
    return names


def test_a_run_on_targets_is_recorded_and_not_done_again(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    names = asked(monkeypatch)
    words = ("run", run, "--samples", "8", "--on")
    first = edge(*words, "local:")
    assert first.exit_code == 0, first.output
    assert "verify: done before" in first.output
    assert names == ["local:", "local:"]
    assert read_json(run / "run.json")["stages"]["targets"]["status"] == "done"
    (target,) = read_json(run / "results.json")["targets"]
    variants = {item["variant"]: item for item in target["results"]}
    assert set(variants) == {"while-float32", "while-dynamic", "step-float32", "step-dynamic"}
    for item in variants.values():
        assert item["verdict"] == "pass"
        assert item["samples"] == 8
        assert item["max_abs"] == 0
        assert item["latency"]["p50_ms"] > 0
    again = edge(*words, "local:")
    assert again.exit_code == 0
    assert "targets: done before" in again.output
    assert len(names) == 2
    # Other samples are another question; --force asks again whatever was answered.
    assert edge("run", run, "--samples", "4", "--on", "local:").exit_code == 0
    assert len(names) == 4


def test_a_target_without_an_answer_fails_the_run_and_is_asked_again(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    names = asked(monkeypatch)
    missing = tmp_path / "later"
    words = ("run", run, "--samples", "4", "--on", f"local:,env:{missing}")
    broken = edge(*words)
    assert broken.exit_code == 3
    results = read_json(run / "results.json")
    assert results["verdict"]["status"] == "fail"
    failures = results["verdict"]["failures"]
    assert {failure["target"] for failure in failures} == {f"env:{missing}"}
    assert all("python -m venv" in failure["message"] for failure in failures)
    assert [target["results"][0]["verdict"] for target in results["targets"]] == ["not-run", "pass"]
    # The report alone says the same.
    assert edge("report", run).exit_code == 3
    # The environment is there now: only what gave no answer is asked again.
    missing.symlink_to(sys.prefix)
    names.clear()
    mended = edge(*words)
    assert mended.exit_code == 0, mended.output
    assert set(names) == {f"env:{missing}"}
    assert read_json(run / "results.json")["verdict"]["status"] == "pass"


def test_answers_about_an_earlier_model_do_not_count(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    assert edge("verify", run, "--on", "local:", "--samples", "4").exit_code == 0
    path = run / "targets" / "local" / "while-dynamic.json"
    write_json(path, {**read_json(path), "model": "00" * 32, "error": "It broke."})
    found = edge("report", run)
    assert found.exit_code == 0, found.output
    results = read_json(run / "results.json")
    assert [item["variant"] for item in results["targets"][0]["results"]] == [
        "while-float32",
        "step-float32",
        "step-dynamic",
    ]
    assert any("while-dynamic is about an earlier model" in note for note in results["notes"])
    path.write_text("[1")
    assert edge("report", run).exit_code == 0


@pytest.mark.parametrize(
    "words", [["verify"], ["bench"], ["inspect"], ["verify", "--on", "local:"], ["bench", "--on", "local:"]]
)
def test_a_bundle_needs_no_tensorflow_and_no_keras(tflite: Tflite, tmp_path: Path, words: list[str]) -> None:
    bundle = bundle_at(tmp_path / "bundle", tflite)
    decoys, marks = tmp_path / "decoys", tmp_path / "marks"
    decoys.mkdir()
    marks.mkdir()
    for name in ("tensorflow", "keras"):
        # In front of the real one, also in child processes.
        (decoys / f"{name}.py").write_text(f"open({str(marks / name)!r}, 'w').close()\nraise ImportError({name!r})\n")
    command = [sys.executable, "-m", "edge_dl", words[0], str(bundle), *words[1:]]
    environment = {**os.environ, "PYTHONPATH": str(decoys)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(marks.iterdir()) == []


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from edge_dl.cli.main import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'rich', 'keras', 'tensorflow', 'jinja2', 'ai_edge_litert', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stderr.strip() == "[]"
    for name in ("target", "verify", "bench", "compare"):
        assert f"\n  {name} " in done.stdout
