"""What the tables say of a runtime, against the runtime itself: a disagreement fails."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import compatibility_models as models
import numpy as np
import pytest
import tflite_models

from edge_dl.bundle import read_bundle
from edge_dl.checks.compatibility import check_model
from edge_dl.checks.runtime_profiles import Profile, find_profile, find_profiles
from edge_dl.checks.trials import REAL, ask, find_real
from edge_dl.converters.conversion import run_conversion
from edge_dl.converters.export_stage import run_export
from edge_dl.converters.isolation import Isolation
from edge_dl.errors import StageError, UsageError
from edge_dl.recipe import ConversionConfig
from edge_dl.variants import Quantization

RUNTIMES = ("ai-edge-litert", "litert-compiled-model", "tensorflow", "tflite-runtime==2.14.0", "ai-edge-litert==1.4.0")
OLD = "tflite-runtime==2.14.0"


def installed(name: str) -> Profile:
    """The runtime of a name; in the release that is installed here where the name has none."""
    profile = find_profile(name)
    package = REAL[profile.runtime][1]
    return profile if "==" in name else dataclasses.replace(profile, release=metadata.version(package))


def asked(profile: Profile, arguments: Sequence[str | Path]) -> dict[str, Any]:
    """What the real runtime says; skips where it is not here and the package index is out of reach."""
    try:
        python = find_real(profile)
    except (StageError, UsageError) as error:
        pytest.skip(f"{profile.name}: {error}")
    return ask(profile, [str(item) for item in arguments], python=python)


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Run folders of the small networks: every lowering that the model allows, in every quantization."""
    config = ConversionConfig(quantizations=tuple(Quantization), calibration_samples=10)
    runs = []
    with Isolation() as isolation:
        for name in models.NAMES:
            run = tmp_path_factory.mktemp("networks") / name
            run_export(models.save(name, run), run, config, isolation=isolation)
            run_conversion(run, config, isolation=isolation)
            runs.append(run)
    return runs


def variants(run: Path) -> list[Path]:
    return sorted(run.glob("variants/*/model.tflite"))


@pytest.fixture(scope="session")
def every_model(converted: list[Path], finished_run: Path, tflite: Callable[[str], Path]) -> list[str]:
    found = [path for run in (*converted, finished_run) for path in variants(run)]
    found += [tflite(name) for name in tflite_models.BUILDERS if "free" not in name]
    return [str(path) for path in found]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNTIMES)
def test_what_the_table_says_is_what_the_runtime_does(name: str, every_model: list[str]) -> None:
    assert len(every_model) > 70
    profile = installed(name)
    real = asked(profile, every_model)
    wrong = {}
    for path in every_model:
        answer = check_model(path, [profile])[0]
        if answer.loads == bool(real[path]):
            wrong[path] = {"table": answer.reason or "loads", "runtime": real[path] or "runs"}
    assert not wrong, json.dumps(wrong, indent=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RUNTIMES if name not in ("litert-compiled-model", "tensorflow")])
def test_every_operator_version_is_as_the_table_says(name: str, tmp_path: Path) -> None:
    """Every builtin of the schema in its versions: which of them the runtime opens a file for."""
    files = tmp_path / "operators.json"
    operators = models.operator_files()
    files.write_text(json.dumps(operators))
    profile = installed(name)
    real = asked(profile, ["--operators", files])
    said = {
        operator: [number for number in range(1, models.HIGHEST_VERSION + 1) if profile.knows(operator, number)]
        for operator in operators
    }
    assert len(real) > 140
    assert {key: value for key, value in said.items() if value} == real


@pytest.fixture(scope="session")
def for_old(converted: list[Path]) -> dict[str, Any]:
    """conv, decoder and lstm again, for tflite-runtime 2.14: outcomes by network and variant, and the files."""
    config = ConversionConfig(
        quantizations=(Quantization.FLOAT32, Quantization.DYNAMIC, Quantization.INT4, Quantization.INT16X8),
        calibration_samples=10,
        runtime=(OLD,),
    )
    found: dict[str, Any] = {"files": []}
    with Isolation() as isolation:
        for run in converted:
            if run.name in ("conv", "decoder", "gru"):
                target = run.parent / f"{run.name}-old"
                target.mkdir()
                (target / "export").symlink_to(run / "export")
                found[run.name] = {item.variant: item for item in run_conversion(target, config, isolation=isolation)}
                found["files"] += variants(target)
    return found


@pytest.mark.slow
def test_variants_made_for_a_runtime_load_there(for_old: dict[str, Any]) -> None:
    files = [str(path) for path in for_old["files"]]
    assert all(answer.loads for path in files for answer in check_model(path, find_profiles(OLD)))
    assert set(asked(find_profile(OLD), files).values()) == {""}


@pytest.mark.slow
def test_each_quantization_that_can_run_there_is_made_and_the_rest_refused(
    for_old: dict[str, Any], converted: list[Path]
) -> None:
    decoder, conv, gru = for_old["decoder"], for_old["conv"], for_old["gru"]
    assert decoder["dynamic"].status == "converted"
    assert "weight_only" in decoder["dynamic"].notes[-1]
    assert decoder["int16x8"].status == "refused"
    assert "TILE version" in decoder["int16x8"].message
    assert OLD in decoder["int16x8"].message
    assert "int8" in decoder["int16x8"].todo
    assert conv["dynamic"].status == "converted"
    assert "per_channel_dense = False" in conv["dynamic"].notes[-1]
    # Loads in 2.14 and answers NaN: no option changes that.
    assert conv["int4"].status == "refused"
    assert conv["int4"].todo == "Use dynamic (int8 weights)."
    assert {gru[f"{lowering}-int4"].status for lowering in ("while", "unroll", "step")} == {"converted"}
    # Without the setting the same network gets what only newer runtimes load.
    (plain,) = (run for run in converted if run.name == "conv")
    assert not check_model(plain / "variants" / "dynamic" / "model.tflite", find_profiles(OLD))[0].loads


def test_profiles_by_name() -> None:
    assert find_profile("android-tflite-2.16").release == "2.16.1"
    assert find_profile("litert-2.3").release == "2.3.0"
    assert find_profile("litert-2.1").release == "2.1.6"
    assert find_profile("litert-micro").family == "micro"
    assert [item.name for item in find_profiles("litert-2.3, litert-micro,litert-2.3")] == [
        "litert-2.3",
        "litert-micro",
    ]
    assert any("newer than what was measured" in note for note in find_profile("litert-9.9").notes)
    for name in (
        "",
        "onnx",
        "tflite-runtime==2.4.0",
        "litert-0.9",
        "litert-micro-2.0",
        "tflite-runtime==x",
        "litert=2",
    ):
        with pytest.raises(UsageError):
            find_profiles(name)
    old, android = find_profile(OLD), find_profile("android-tflite-2.16")
    assert (old.highest("FULLY_CONNECTED"), android.highest("FULLY_CONNECTED")) == (10, 11)
    assert old.highest("STABLEHLO_ADD") == 0
    assert not old.knows("BROADCAST_TO", 1)


def test_an_answer_names_operator_reason_and_way_out(tflite: Callable[[str], Path]) -> None:
    fused = check_model(tflite("fused"), find_profiles("litert-compiled-model,litert-2.3"))
    assert [answer.loads for answer in fused] == [False, True]
    problem = fused[0].problems[0]
    assert problem.operator == "UNIDIRECTIONAL_SEQUENCE_LSTM"
    assert "variable tensors" in problem.reason
    assert "unroll" in problem.todo
    assert fused[0].options is None
    plain = fused[0].to_json()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def edge_dl(*arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-X", "importtime", "-m", "edge_dl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_and_its_exit_codes(tflite: Callable[[str], Path], tmp_path: Path) -> None:
    good = edge_dl("check", tflite("conv-int8"), "--runtime", f"{OLD},litert-micro", "--json")
    assert good.returncode == 0, good.stderr
    assert [item["loads"] for item in json.loads(good.stdout)["runtimes"]] == [True, True]
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in good.stderr.splitlines() if "|" in line}
    assert "edge_dl" in imported
    assert not imported & {"tensorflow", "keras", "tf_keras", "jax"}
    bad = edge_dl("check", tflite("fused"), "--runtime", "litert-2.3,litert-compiled-model")
    assert bad.returncode == 1
    assert "litert-compiled-model (2.3.0): will not load" in bad.stdout
    assert "Use the lowering while" in bad.stdout
    assert edge_dl("check", tflite("fused"), "--runtime", "onnx").returncode == 2
    assert edge_dl("check", tmp_path / "none.tflite", "--runtime", "litert-2.3").returncode == 2
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(tflite("conv-int8").read_bytes()[:900])
    damaged = edge_dl("check", broken, "--runtime", "litert-2.3")
    assert damaged.returncode == 2  # As for inspect and verify: a bad file is wrong use.
    assert "must be whole" in damaged.stderr
    wrong = edge_dl("convert", "lstm", "--runtime", "litert-0.1", "--out", tmp_path / "run")
    assert wrong.returncode == 2
    assert not (tmp_path / "run").exists()


def test_a_runtime_is_a_recipe_setting_and_set_wins() -> None:
    from edge_dl.cli.compatibility import with_runtime
    from edge_dl.cli.workflow import parse_settings
    from edge_dl.recipe import apply_overrides

    given = with_runtime(f"{OLD},litert-2.3", ["conversion.batch=2"])
    config = apply_overrides(ConversionConfig(), {"runtime": parse_settings(given)["conversion.runtime"]})
    assert config.runtime == (OLD, "litert-2.3")
    assert parse_settings(with_runtime(OLD, ["conversion.runtime=litert-2.3"]))["conversion.runtime"] == "litert-2.3"
    with pytest.raises(UsageError, match="must be known"):
        with_runtime("", ["conversion.runtime=onnx"])


# --- float16 constants in several graphs ---


PAIRS = [(first, "weights") for first in models.HALF_GRAPHS if first != "none"]
PAIRS += [("add", "none"), ("none", "add"), ("weights", "add"), ("loop", ""), ("add", "")]


@pytest.fixture(scope="session")
def halves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """Files with float16 constants in one or two graphs, and what is in them."""
    folder = tmp_path_factory.mktemp("halves")
    found = {}
    for first, second in PAIRS:
        path = folder / f"{first}-{second or 'alone'}.tflite"
        path.write_bytes(models.half_model(folder / path.stem, first, second))
        found[str(path)] = (first, second)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [OLD, "ai-edge-litert==1.0.1", "ai-edge-litert==1.1.2", "ai-edge-litert", "tensorflow"]
)
def test_float16_constants_that_xnnpack_loses_are_named(name: str, halves: dict[str, tuple[str, str]]) -> None:
    """Each file is answered with XNNPACK and without by the real runtime; the table says which it gets wrong."""
    profile = installed(name)
    try:
        python = find_real(profile)
    except (StageError, UsageError) as error:
        pytest.skip(f"{profile.name}: {error}")
    module = {"tflite-runtime": "tflite_runtime.interpreter", "tensorflow": "tensorflow.lite.python.interpreter"}
    script = Path(__file__).with_name("delegate_difference.py")
    command = [python, str(script), module.get(profile.runtime, "ai_edge_litert.interpreter"), *halves]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    differences = json.loads(done.stdout.splitlines()[-1])
    wrong = {path: max(found.values()) > 0.01 for path, found in differences.items()}
    said = {path: not check_model(path, [profile])[0].right for path in halves}
    assert said == wrong, differences
    if name in (OLD, "ai-edge-litert==1.0.1"):
        right = {("weights", "weights"), ("add", "none"), ("none", "add"), ("weights", "add"), ("add", "")}
        # XNNPACK knew no BATCH_MATMUL then.
        right |= {("matmul", "weights")} if name == OLD else set()
        assert {halves[path] for path in halves if not wrong[path]} == right
    else:
        assert not any(wrong.values())


def test_a_wrong_answer_is_no_refusal_and_fails_the_command_all_the_same(halves: dict[str, tuple[str, str]]) -> None:
    (path,) = (path for path, kind in halves.items() if kind == ("loop", ""))
    old, new = check_model(path, find_profiles(f"{OLD},litert-2.3"))
    assert (old.loads, old.right, new.loads, new.right) == (True, False, True, True)
    assert old.word == "answers wrongly with XNNPACK"
    (problem,) = old.problems
    assert (problem.operator, problem.effect.value, problem.count) == ("MUL", old.word, 1)
    assert old.fatal == ()
    done = edge_dl("check", path, "--runtime", f"{OLD},litert-2.3")
    assert done.returncode == 1
    assert f"{OLD}: answers wrongly with XNNPACK" in done.stdout
    assert "BUILTIN_WITHOUT_DEFAULT_DELEGATES" in done.stdout
    assert [line.split()[-2:] for line in done.stdout.splitlines() if line.split()[:1] == ["MUL"]] == [["wrong", "yes"]]


@pytest.mark.slow
def test_the_agent_answers_rightly_where_xnnpack_would_not(halves: dict[str, tuple[str, str]], tmp_path: Path) -> None:
    from edge_dl.errors import EdgeError
    from edge_dl.runtime.targets import open_target

    (path,) = (path for path, kind in halves.items() if kind == ("loop", ""))
    x = np.random.default_rng(3).standard_normal((5, models.HALF_SIZE)).astype("float32")
    golden = ({"x": x}, {"y": models.loop_answer(x).astype("float32")})
    folder = tflite_models.bundle_of(tmp_path / "bundle", Path(path), golden, quantization="float16")
    for name in (f"env:{OLD}", "local:"):
        try:
            connection = open_target(name).connect()
        except EdgeError as error:
            pytest.skip(f"{name}: {error}")
        try:
            answers, run = connection.predict(read_bundle(folder), golden[0])
        finally:
            connection.close()
        np.testing.assert_allclose(answers["y"], golden[1]["y"], atol=0.01)
        assert run.delegated is (name == "local:")
