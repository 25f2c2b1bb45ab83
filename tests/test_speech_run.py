"""A speech recipe through all stages, on wav files with a manifest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sound_files import tone, wav

from edge_dl.bundle import read_bundle
from edge_dl.data import vowels
from edge_dl.files import read_json
from edge_dl.runtime import open_session


def make_set(root: Path, each: int = 30) -> Path:
    """Two made words and silence, at 11,025 Hz, with a manifest beside the sounds."""
    rng = np.random.default_rng(0)
    rows = ["file,label,speaker,split"]
    for number in range(each):
        voice = vowels.random_voice(rng)
        for label in ("ai", "uoi", vowels.SILENCE):
            sound = vowels.record(label, voice, 11_025, 11_025, rng) / 32_768
            name = f"{label}-{number}.wav"
            (root / name).write_bytes(wav(sound, 11_025))
            part = "test" if number < each // 3 else "val" if number < each // 2 else "train"
            rows.append(f"{name},{label},{number},{part}")
    (root / "broken.wav").write_bytes(wav(tone())[:100])
    (root / "manifest.csv").write_text("\n".join([*rows, "broken.wav,ai,99,train"]) + "\n")
    return root


@pytest.mark.slow
def test_a_folder_of_sounds_becomes_checked_variants(tmp_path: Path) -> None:
    (tmp_path / "sounds").mkdir()
    data = make_set(tmp_path / "sounds")
    run = tmp_path / "run"
    command = [sys.executable, "-m", "edge_dl", "run", "speech-cnn", "--data", str(data), "--out", str(run)]
    for setting in (
        "training.epochs=25",
        "training.batch_size=15",
        "model.units=32,32,32",
        "conversion.quantizations=float32,dynamic,int8",
        "conversion.integer_io=true",
        "checks.rounds=3",
        "checks.limits.int8.min_top1=0.9",
    ):
        command += ["--set", setting]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=tmp_path)
    assert (run / "report.html").is_file(), done.stdout + done.stderr
    described = read_json(run / "data" / "dataset.json")
    assert described["rate"] == 8_000
    notes = " ".join(described["notes"])
    assert "90 sounds were resampled to 8000 Hz" in notes
    assert "1 files are no whole sounds" in notes
    for variant in ("float32", "dynamic", "int8-io"):
        bundle = read_bundle(run / "variants" / variant)
        assert bundle.manifest.rate == 8_000
        assert bundle.manifest.signature.inputs[0].dtype == "int16"
        inputs, outputs = bundle.golden()
        answer = open_session(bundle.folder).predict(inputs)["label"]
        assert np.abs(answer - outputs["label"]).max() < 0.15
    results = read_json(run / "checks" / "float32.json")
    assert results["verdict"] != "fail", results["message"]
    [metric] = [check for check in results["checks"] if check["name"] == "metric"]
    assert float(metric["message"].split()[1]) > 0.8, metric["message"]
