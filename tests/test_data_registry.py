"""Named sets: what is known of them, what the built-in ones hold, and how cached files are read."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edge_dl.data import load, public, registry
from edge_dl.data.source import finish
from edge_dl.errors import StageError, UsageError
from edge_dl.recipe import DataConfig, Task


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("EDGE_DL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_every_set_says_where_it_comes_from() -> None:
    described = [registry.describe(item) for item in registry.list_sets()]
    assert json.loads(json.dumps(described)) == described
    assert {"digits-rows", "python-topics", "adding", "seasonal", "uci-har", "etth1", "text8"} <= set(registry.SETS)
    for item in described:
        assert item["summary"]
        assert item["licence"]
        assert Task(item["task"])
        assert item["synthetic"] == (item["kind"] == "generated")
        if item["kind"] == "download":
            assert item["url"].startswith(("https://", "http://"))
            assert not item["cached"]
            # A hash, or the reason why there is none: never both, never neither.
            assert (item["sha256"] is None) == bool(item["sha256_unknown_because"])
            assert item["sha256"] is None or len(bytes.fromhex(item["sha256"])) == 32


def test_unknown_set_is_refused() -> None:
    with pytest.raises(UsageError, match="Did you mean etth1"):
        registry.info("etth2")
    with pytest.raises(UsageError):
        registry.get("nothing-like-it")


def test_sets_without_a_file_need_no_download() -> None:
    assert registry.get("digits-rows") is None
    assert registry.default_task("adding") is Task.REGRESSION
    assert registry.default_task("some/file.npz") is None


def test_digits_rows() -> None:
    dataset = load(DataConfig("digits-rows"), Task.CLASSIFICATION, seed=0)
    assert dataset.train.x["sequence"].shape[1:] == (8, 8)
    assert dataset.labels == tuple("0123456789")
    assert not dataset.synthetic
    assert sum(map(len, dataset.parts.values())) == 1797
    rows = np.sort(np.concatenate([split.index for split in dataset.parts.values()]))
    np.testing.assert_array_equal(rows, np.arange(1797))
    counts = np.bincount(dataset.test.y["label"])
    assert counts.max() - counts.min() <= 3  # stratified
    assert dataset.scaling == "shared"


def test_adding_targets_are_the_sum_of_the_marked_numbers() -> None:
    dataset = load(DataConfig("adding", length=30, samples=400), Task.REGRESSION, seed=1)
    assert dataset.synthetic
    for split in dataset.parts.values():
        numbers, markers = split.x["sequence"][..., 0], split.x["sequence"][..., 1]
        np.testing.assert_array_equal(markers.sum(axis=1), 2)
        np.testing.assert_array_equal(markers[:, :15].sum(axis=1), 1)
        np.testing.assert_allclose((numbers * markers).sum(axis=1), split.y["value"][:, 0], rtol=1e-6)
    # Always answering 1 has a mean squared error of 1/6.
    assert np.mean((dataset.train.y["value"] - 1) ** 2) == pytest.approx(1 / 6, rel=0.25)
    assert len(dataset.train) == 400
    assert len(dataset.test) == 100


def test_generated_sets_are_flagged_and_seeded() -> None:
    for source, task in (("seasonal", Task.FORECAST), ("adding", Task.REGRESSION)):
        first, again, other = (load(DataConfig(source, samples=600), task, seed=seed) for seed in (0, 0, 1))
        assert first.synthetic
        assert first.describe()["source"].startswith("generated")
        assert first.sha256 == again.sha256 != other.sha256


def test_seasonal_series_has_its_season() -> None:
    dataset = load(DataConfig("seasonal"), Task.FORECAST, seed=0)
    assert dataset.forecast is not None
    assert dataset.forecast.season == 24
    assert dataset.forecast.seasonal_error[0] < dataset.forecast.scale[0] / 2


def test_python_topics_is_english_text() -> None:
    pytest.importorskip("pydoc_data.topics", reason="this Python was packaged without pydoc_data")
    dataset = load(DataConfig("python-topics", window=50), Task.LANGUAGE_MODEL, seed=0)
    text = "".join(dataset.vocabulary[token] for token in dataset.train.x["tokens"][:100].ravel())
    assert "the" in text
    assert " statement" in text
    assert not dataset.synthetic
    assert dataset.licence == "PSF-2.0"


def test_python_topics_names_the_way_out_when_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(UsageError, match="tiny-shakespeare"):
        load(DataConfig("python-topics"), Task.LANGUAGE_MODEL, seed=0)


@pytest.mark.parametrize(
    ("source", "task", "settings", "message"),
    [
        ("digits-rows", Task.FORECAST, {}, "data for classification"),
        ("adding", Task.CLASSIFICATION, {}, "data for regression"),
        ("adding", Task.REGRESSION, {"length": 3}, "at least 4 steps"),
        ("seasonal", Task.LANGUAGE_MODEL, {}, "forecast or regression"),
        ("python-topics", Task.CLASSIFICATION, {}, "language model"),
        ("digits-rows", Task.CLASSIFICATION, {"validation": 0.0}, "above 0"),
    ],
)
def test_wrong_use_of_sets_is_refused(source: str, task: Task, settings: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(DataConfig(source, **settings), task, seed=0)  # type: ignore[arg-type]


def test_set_defaults_give_way_to_settings() -> None:
    assert registry.with_defaults(DataConfig("etth1")).window == 96
    assert registry.with_defaults(DataConfig("etth1", window=48)).window == 48
    assert registry.with_defaults(DataConfig("a.csv")).window == 0


def test_cached_archive_is_used_without_a_network(cache: Path) -> None:
    header = "@problemName GunPoint\n@timeStamps false\n@univariate true\n@classLabel true 1 2\n@data\n"

    def body(first: int, count: int) -> str:
        return header + "".join(f"{n},{n + 1},{n * n}:{n % 2 + 1}\n" for n in range(first, first + count))

    path = cache / "ucr-gunpoint" / "GunPoint.zip"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("GunPoint_TRAIN.ts", body(0, 20))
        archive.writestr("GunPoint_TEST.ts", body(20, 10))
        archive.writestr("GunPoint_TRAIN.txt", "not this one")
    dataset = load(DataConfig("ucr-gunpoint"), Task.CLASSIFICATION, seed=0)
    assert dataset.name == "ucr-gunpoint"
    assert dataset.source == registry.SETS["ucr-gunpoint"].remote.url  # type: ignore[union-attr]
    assert len(dataset.test) == 10
    assert registry.info("ucr-gunpoint")["cached"]
    record = json.loads(path.with_name("GunPoint.zip.json").read_text())
    assert record["basis"] == "first use"
    path.write_bytes(path.read_bytes() + b"tampered")
    with pytest.raises(StageError, match="recorded on first use"):
        load(DataConfig("ucr-gunpoint"), Task.CLASSIFICATION, seed=0)


def make_har(path: Path, *, leave_out: str = "") -> Path:
    """An archive laid out as UCI HAR's, with 5 windows of 4 steps a subject."""
    inner = io.BytesIO()
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(inner, "w") as archive:
        members = {"activity_labels.txt": "1 WALKING\n2 SITTING\n"}
        for part, subjects in (("train", range(1, 7)), ("test", range(7, 9))):
            rows = len(subjects) * 5
            for number, signal in enumerate(public.HAR_SIGNALS):
                values = rng.normal(size=(rows, 4)) + 10 * number
                lines = "\n".join("  ".join(f"{value: .7e}" for value in row) for row in values)
                members[f"{part}/Inertial Signals/{signal}_{part}.txt"] = lines
            members[f"{part}/y_{part}.txt"] = "\n".join(str(row % 2 + 1) for row in range(rows))
            members[f"{part}/subject_{part}.txt"] = "\n".join(str(subject) for subject in subjects for _ in range(5))
        for name, text in members.items():
            if name != leave_out:
                archive.writestr(f"UCI HAR Dataset/{name}", text)
    with zipfile.ZipFile(path, "w") as outer:
        outer.writestr("UCI HAR Dataset.zip", inner.getvalue())
    return path


def test_uci_har_keeps_subjects_apart(tmp_path: Path) -> None:
    source = public.uci_har(make_har(tmp_path / "har.zip"), DataConfig("uci-har"), Task.CLASSIFICATION)
    assert source.labels == ("walking", "sitting")
    dataset = finish(source, DataConfig("uci-har"), Task.CLASSIFICATION, seed=0)
    assert dataset.train.x["sequence"].shape[1:] == (4, 9)
    np.testing.assert_allclose(dataset.train.x["sequence"].mean(axis=(0, 1)), np.arange(9) * 10, atol=1)
    subjects = np.repeat(np.arange(1, 9), 5)
    groups = [set(subjects[split.index]) for split in dataset.parts.values()]
    assert groups[2] == {7, 8}
    assert not groups[0] & groups[1]


def test_uci_har_signals_and_broken_archives(tmp_path: Path) -> None:
    path = make_har(tmp_path / "har.zip")
    chosen = DataConfig("uci-har", columns=("total_acc_x", "body_gyro_z"))
    assert public.uci_har(path, chosen, Task.CLASSIFICATION).parts["test"].x["sequence"].shape == (10, 4, 2)
    with pytest.raises(UsageError, match="total_acc_w"):
        public.uci_har(path, DataConfig("uci-har", columns=("total_acc_w",)), Task.CLASSIFICATION)
    broken = make_har(tmp_path / "broken.zip", leave_out="train/y_train.txt")
    with pytest.raises(UsageError, match="archive of UCI HAR"):
        public.uci_har(broken, DataConfig("uci-har"), Task.CLASSIFICATION)


def test_data_packages_are_light() -> None:
    code = (
        "import sys, edge_dl.data, edge_dl.models\n"
        "from edge_dl.data import registry\n"
        "registry.list_sets()\n"
        "heavy = {'keras', 'tensorflow', 'jax', 'torch', 'sklearn', 'pandas'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
