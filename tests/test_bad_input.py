"""Wrong use and damaged files: one clear line, the right exit code, nothing lost. Through the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_dl.bundle import MANIFEST, read_bundle
from edge_dl.runfolder import RunFolder


def edge_dl(*arguments: str | Path, cwd: Path, **options) -> subprocess.CompletedProcess:
    """Run the command in a process of its own, as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "edge_dl", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=300, **options,
    )  # fmt: skip


def refused(result: subprocess.CompletedProcess, *words: str, code: int = 2) -> None:
    """One error line that holds every word, and the exit code."""
    assert result.returncode == code, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in lines[0]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def save_data(path: Path, rng: np.random.Generator, **changes) -> Path:
    arrays = {
        "x_train": rng.normal(size=(60, 5, 3)).astype("float32"),
        "y_train": np.arange(60) % 3,
        "x_test": rng.normal(size=(30, 5, 3)).astype("float32"),
        "y_test": np.arange(30) % 3,
    }
    np.savez(path, **{**arrays, **changes})
    return path


def test_unknown_recipe_names_near_ones(tmp_path):
    refused(edge_dl("run", "lsmt", cwd=tmp_path), "lsmt", "lstm")


def test_unknown_key_names_near_ones(tmp_path):
    refused(edge_dl("run", "lstm", "--set", "training.epoch=3", cwd=tmp_path), "training.epoch", "epochs")
    assert not (tmp_path / "runs").exists()


def test_setting_of_the_wrong_type(tmp_path):
    refused(edge_dl("run", "lstm", "--set", "training.epochs=many", cwd=tmp_path), "whole number", "many")


def test_setting_without_a_value(tmp_path):
    refused(edge_dl("run", "lstm", "--set", "training.epochs", cwd=tmp_path), "key=value")


def test_config_that_is_not_yaml(tmp_path):
    (tmp_path / "bad.yaml").write_text("a: [1, 2")
    refused(edge_dl("run", "lstm", "--config", "bad.yaml", cwd=tmp_path), "YAML", "bad.yaml")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x_train": np.zeros((0, 5, 3), "float32"), "y_train": np.zeros(0, int)}, ["x_train"]),
        ({"x_test": np.full((30, 5, 3), np.nan, "float32")}, ["NaN"]),
        ({"x_test": np.zeros((30, 4, 3), "float32")}, ["shape"]),
        ({"y_train": np.arange(59) % 3}, ["59", "60"]),
        ({"y_test": np.arange(30) % 4}, ["3"]),
        ({"y_train": np.arange(60) % 3 - 1}, ["-1"]),
        ({"y_train": np.zeros(60, int), "y_test": np.zeros(30, int)}, ["class"]),
    ],
    ids=["empty", "nan", "wrong shape", "ragged", "label too high", "label negative", "single class"],
)
def test_bad_arrays(tmp_path, rng, changes, words):
    save_data(tmp_path / "data.npz", rng, **changes)
    result = edge_dl("run", "lstm", "--data", "data.npz", cwd=tmp_path)
    refused(result, *words)


def test_pickled_objects_are_never_loaded(tmp_path, rng):
    ragged = np.empty(60, dtype=object)
    ragged[:] = [list(range(n % 4 + 1)) for n in range(60)]
    save_data(tmp_path / "data.npz", rng, x_train=ragged)
    refused(edge_dl("run", "lstm", "--data", "data.npz", cwd=tmp_path), "pickle")


def test_truncated_npz(tmp_path, rng):
    path = save_data(tmp_path / "data.npz", rng)
    path.write_bytes(path.read_bytes()[:500])
    refused(edge_dl("run", "lstm", "--data", "data.npz", cwd=tmp_path), "npz")


@pytest.mark.parametrize("command", ["inspect", "bench", "verify"])
@pytest.mark.parametrize("content", [b"", b"TFL3", bytes(range(256)) * 8], ids=["empty", "short", "random"])
def test_a_file_that_is_no_model(tmp_path, command, content):
    (tmp_path / "model.tflite").write_bytes(content)
    np.savez(tmp_path / "x.npz", **{"x/a": np.zeros((1, 2), "float32")})
    np.savez(tmp_path / "y.npz", **{"y/b": np.zeros((1, 2), "float32")})
    extra = ["--data", "x.npz", "--reference", "y.npz"] if command == "verify" else []
    refused(edge_dl(command, "model.tflite", *extra, cwd=tmp_path), "model.tflite")


def test_truncated_model(tmp_path, tflite):
    content = Path(tflite("conv-float32")).read_bytes()
    (tmp_path / "model.tflite").write_bytes(content[: len(content) // 2])
    for command in ("inspect", "bench"):
        refused(edge_dl(command, "model.tflite", cwd=tmp_path), "model.tflite")


def test_bundle_that_was_changed(tmp_path, finished_run):
    bundle = copy_bundle(finished_run, tmp_path)
    model = bundle / "model.tflite"
    model.write_bytes(model.read_bytes()[:-4] + b"\0\1\2\3")
    for command in ("verify", "bench", "inspect"):
        refused(edge_dl(command, bundle, cwd=tmp_path), "hash", "model.tflite")


def test_bundle_whose_member_escapes(tmp_path, finished_run):
    bundle = copy_bundle(finished_run, tmp_path)
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["files"]["../outside.txt"] = {"sha256": "0" * 64, "bytes": 1}
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    (tmp_path / "outside.txt").write_text("x")
    refused(edge_dl("verify", bundle, cwd=tmp_path), "inside its folder", "../outside.txt")


def test_a_run_into_a_folder_of_other_things(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("three years of work")
    refused(edge_dl("run", "lstm", "--out", "mine", cwd=tmp_path), "--out")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "three years of work"


def test_two_commands_in_one_folder(tmp_path, finished_run):
    with RunFolder.open(finished_run):
        refused(edge_dl("report", finished_run, cwd=tmp_path), "One command at a time")


def test_another_recipe_in_the_folder(tmp_path, finished_run):
    refused(edge_dl("run", "gru", "--out", finished_run, cwd=tmp_path), "belongs to one recipe")


def test_lambda_layer_is_refused(tmp_path, rng):
    import keras

    model = keras.Sequential([keras.Input((5, 3)), keras.layers.Lambda(lambda x: x * 2), keras.layers.GRU(4),
                              keras.layers.Dense(3, activation="softmax")])  # fmt: skip
    model.save(tmp_path / "model.keras")
    save_data(tmp_path / "data.npz", rng)
    refused(edge_dl("convert", "model.keras", "--data", "data.npz", cwd=tmp_path), "Lambda", "--unsafe")


def test_truncated_keras_file(tmp_path, rng):
    save_data(tmp_path / "data.npz", rng)
    (tmp_path / "model.keras").write_bytes(b"PK\3\4 not really")
    refused(edge_dl("convert", "model.keras", "--data", "data.npz", cwd=tmp_path), "model.keras")


def test_own_model_without_data(tmp_path):
    (tmp_path / "model.keras").write_bytes(b"")
    refused(edge_dl("run", "model.keras", cwd=tmp_path), "--data")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes where others may not")
def test_a_folder_without_permission(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    refused(edge_dl("run", "lstm", "--out", "locked/run", cwd=tmp_path), "write", code=3)


def test_full_disk_keeps_what_was_made(tmp_path, finished_run):
    import resource

    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    before = {path: path.read_bytes() for path in (run / "variants").rglob("*") if path.is_file()}

    def small_files() -> None:
        # Stands for a full disk: a write beyond the limit fails with EFBIG, in the child as well.
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))

    result = edge_dl("report", run, cwd=tmp_path, preexec_fn=small_files)
    refused(result, "could not be written", code=3)
    after = {path: path.read_bytes() for path in (run / "variants").rglob("*") if path.is_file()}
    assert before == after
    assert edge_dl("report", run, cwd=tmp_path).returncode == 0


def copy_bundle(run: Path, tmp_path: Path) -> Path:
    bundle = next(path for path in sorted((Path(run) / "variants").iterdir()) if (path / MANIFEST).is_file())
    read_bundle(bundle)
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))
