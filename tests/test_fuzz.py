"""A short run of benchmarks/fuzz.py: damaged models and bundles through the commands; and that it notices breaks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from bundle_mutations import mutate_bundle
from fuzz import KINDS, Fuzzer, Seed, make_seed
from model_mutations import mutate_model

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the fuzzer limits memory as Linux does")

NAMES = ("conv-float32", "conv-int8-io", "two", "step-float32", "conv-nameless")


@pytest.fixture(scope="module")
def seeds(tflite: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> list[Seed]:
    folder = tmp_path_factory.mktemp("seeds")
    return [make_seed(tflite(name), folder / name) for name in NAMES]


@pytest.mark.slow
@pytest.mark.parametrize(("commands", "cases"), [(("inspect",), 60), (("check", "verify"), 20)], ids=["look", "run"])
def test_damaged_files_through_the_commands(
    seeds: list[Seed], tmp_path: Path, commands: tuple[str, ...], cases: int
) -> None:
    fuzzer = Fuzzer(tmp_path / "fuzz", seeds, seed=11, commands=commands)
    for number in range(cases):
        for kind in KINDS:
            fuzzer.run(kind, number)
    fuzzer.worker.close()
    assert fuzzer.tally.broken == []
    codes = {code for _, _, code in fuzzer.tally.counts}
    assert {0, 2} <= codes <= {0, 1, 2, 3}  # Some damage is survived, some is refused.


def test_the_same_seed_gives_the_same_files(seeds: list[Seed], tmp_path: Path) -> None:
    others = [seed.model for seed in seeds]
    made: list[Any] = []
    for number in range(30):
        model = [mutate_model(seeds[0].model, np.random.default_rng(number), others) for _ in range(2)]
        assert model[0] == model[1]
        made.append(model[0][0])
    assert len(set(made)) > 25
    assert seeds[0].bundle is not None
    for number in range(10):
        written = []
        for _ in range(2):
            place = tmp_path / "case"
            (tmp_path / "outside").mkdir(exist_ok=True)
            (tmp_path / "outside" / "secret.txt").write_text("secret")
            what = mutate_bundle(seeds[0].bundle, place, np.random.default_rng(number), others)
            written.append((what, {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}))
            place.rename(tmp_path / f"{number}-{len(written)}")
        assert written[0] == written[1]


def test_a_damaged_model_can_be_damaged_again(seeds: list[Seed]) -> None:
    model = seeds[0].model[: len(seeds[0].model) // 2]
    for number in range(50):
        mutate_model(model, np.random.default_rng(number), [model])


@pytest.mark.parametrize(
    ("answer", "out", "err", "word"),
    [
        ({"code": 0, "escaped": ""}, "{}\n", "", ""),
        ({"code": 2, "escaped": ""}, "", "Error: A rule. Received: 3.\n", ""),
        ({"crash": "ended with -11"}, "", "", "crash"),
        ({"hang": "still running"}, "", "", "hang"),
        ({"code": None, "escaped": "ValueError: x"}, "", "", "escaped"),
        ({"code": 4, "escaped": ""}, "", "", "exit code 4"),
        ({"code": 3, "escaped": ""}, "", "Traceback (most recent call last):\nError: x\n", "traceback"),
        ({"code": 2, "escaped": ""}, "", "Error: a\nError: b\n", "not one line"),
        ({"code": 2, "escaped": ""}, "", "", "not one line"),
        ({"code": 0, "escaped": ""}, "a\x1b[2J", "", "control characters"),
        ({"code": 0, "escaped": "", "peak": 1 << 40}, "", "", "MiB"),
    ],
)
def test_what_breaks_is_noticed(
    seeds: list[Seed], tmp_path: Path, answer: dict[str, Any], out: str, err: str, word: str
) -> None:
    fuzzer = Fuzzer(tmp_path / "fuzz", seeds, seed=0, commands=("inspect",))
    fuzzer.worker.run = lambda arguments: (answer, out, err)  # type: ignore[method-assign]
    (outcome,) = fuzzer.run("models", 0)
    assert (word in "; ".join(outcome.problems)) if word else outcome.problems == []
    assert bool(fuzzer.tally.broken) == bool(word)


def test_stray_files_are_noticed(seeds: list[Seed], tmp_path: Path) -> None:
    fuzzer = Fuzzer(tmp_path / "fuzz", seeds, seed=0, commands=("inspect",))

    def run(arguments: Any) -> tuple[dict[str, Any], str, str]:
        (fuzzer.watched / "home" / "stray").write_text("")
        (fuzzer.watched / "outside" / "canary.txt").write_text("changed\n")
        (fuzzer.watched / "tmp" / "canary.txt").unlink()
        return {"code": 0, "escaped": ""}, "{}", ""

    fuzzer.worker.run = run  # type: ignore[method-assign]
    (outcome,) = fuzzer.run("models", 0)
    assert outcome.problems == ["made home/stray", "changed outside/canary.txt", "removed tmp/canary.txt"]
