"""Targets on this machine, their registry and addresses, and what is believed of their answers."""

from __future__ import annotations

import json
import os
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tflite_models as models
from typer.testing import CliRunner

from edge_dl.bundle import read_bundle
from edge_dl.checks.targets import compare_outputs, output_scales, verify_on
from edge_dl.cli.targets import target_app
from edge_dl.errors import EdgeError, StageError, UsageError
from edge_dl.runtime.targets import environment, pythons
from edge_dl.runtime.targets.answers import load_outputs, parse_facts, parse_pair, parse_run, parse_timing, read_answer
from edge_dl.runtime.targets.environment import EnvironmentTarget
from edge_dl.runtime.targets.opening import open_target
from edge_dl.runtime.targets.places import is_ready, making
from edge_dl.runtime.targets.processes import Completed, plain_text, run_command
from edge_dl.runtime.targets.registry import add_target, file_name, find_address, read_targets, remove_target
from edge_dl.runtime.targets.url import parse_address

Tflite = Callable[[str], Path]


@pytest.fixture(autouse=True)
def own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_DL_CONFIG", str(tmp_path / "configuration"))


@pytest.fixture
def bundle(tflite: Tflite, tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "conv-float32", **settings: Any) -> Path:
        images = models.images(4)
        golden = ({"image": images}, {"label": models.conv_reference(images).astype("float32")})
        return models.bundle_of(tmp_path / "bundle", tflite(name), golden, **settings)

    return make


# --- addresses and names ---


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("local:", ("local", "", "", 0)),
        ("local:tensorflow", ("local", "tensorflow", "", 0)),
        ("env:/opt/venv", ("env", "/opt/venv", "", 0)),
        ("env:tflite-runtime==2.14.0", ("env", "tflite-runtime==2.14.0", "", 0)),
        ("qemu-aarch64:", ("qemu-aarch64", "", "", 0)),
        ("ssh://pi@raspberrypi.local:2222", ("ssh", "raspberrypi.local", "pi", 2222)),
        ("ssh://board?keep=yes&python=/opt/py", ("ssh", "board", "", 0)),
        ("ssh://pi@[fe80::1]:22", ("ssh", "fe80::1", "pi", 22)),
        ("adb:", ("adb", "", "", 0)),
        ("adb:192.168.0.5:5555", ("adb", "192.168.0.5:5555", "", 0)),
    ],
)
def test_addresses(text: str, parts: tuple[str, str, str, int]) -> None:
    address = parse_address(text)
    assert (address.scheme, address.place, address.user, address.port) == parts


@pytest.mark.parametrize(
    "text",
    ["", "pi", "http://x", "ssh://", "ssh://-oProxyCommand=x", "ssh://-x@host", "ssh://host:99999", "ssh://a b", "env:",
     "ssh://host?keep=perhaps", "ssh://host?nothing=1", "local:onnx", "qemu-aarch64:numpy==1.0", "adb:$(reboot)",
     "adb:a;b", "ssh://host\n", "ssh://host?runtime=onnx", "ssh://user:secret@host"],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError):
        parse_address(text)


def test_the_registry_keeps_names(tmp_path: Path) -> None:
    assert read_targets() == {}
    add_target("pi", "ssh://pi@raspberrypi.local")
    add_target("old", "env:tflite-runtime==2.14.0")
    add_target("pi", "ssh://pi@10.0.0.7")
    assert read_targets() == {"pi": "ssh://pi@10.0.0.7", "old": "env:tflite-runtime==2.14.0"}
    assert find_address("pi") == "ssh://pi@10.0.0.7"
    assert find_address("local") == "local:"
    remove_target("pi")
    assert list(read_targets()) == ["old"]
    with pytest.raises(UsageError, match="must be added"):
        find_address("pi")
    with pytest.raises(UsageError, match="must be added"):
        remove_target("pi")
    (tmp_path / "configuration" / "targets.json").write_text('{"format": 1, "targets": [1]}')
    with pytest.raises(UsageError, match=r"targets\.json"):
        read_targets()


@pytest.mark.parametrize("name", ["", "a/b", "../x", "ssh", ".hidden", "a b", "x" * 65, "a:b"])
def test_a_name_that_cannot_be_one(name: str) -> None:
    with pytest.raises(UsageError):
        add_target(name, "local:")


def test_results_are_filed_under_plain_names() -> None:
    assert file_name("pi-4") == "pi-4"
    for odd in ("ssh://pi@h/../../x", "local:", "..", "env:/a b/c"):
        name = file_name(odd)
        assert name
        assert name not in (".", "..")
        assert "/" not in name


def test_the_command_line(tmp_path: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(target_app, ["add", "here", "local:"]).exit_code == 0
    assert json.loads(runner.invoke(target_app, ["list", "--json"]).stdout) == {"here": "local:"}
    found = runner.invoke(target_app, ["doctor", "here", "--json"])
    assert found.exit_code == 0
    assert [item["ok"] for item in json.loads(found.stdout)] == [True, True]
    assert runner.invoke(target_app, ["doctor", f"env:{tmp_path}/nowhere"]).exit_code == 1
    assert runner.invoke(target_app, ["add", "x", "ftp://y"]).exit_code == 2
    assert runner.invoke(target_app, ["remove", "here"]).exit_code == 0
    assert runner.invoke(target_app, ["remove", "here"]).exit_code == 2


# --- this machine ---


def test_two_targets_at_once_and_one_that_fails(bundle: Callable[..., Path], tmp_path: Path) -> None:
    missing = EnvironmentTarget("missing", parse_address(f"env:{tmp_path}/nowhere"))
    found = verify_on(bundle("conv-int8", quantization="int8"), [missing, open_target("local:")])
    assert [bool(result.error) for result in found] == [True, False]
    assert "venv" in found[0].todo
    assert found[0].parity.failed
    assert found[1].parity.passed
    assert found[1].differences[0].steps == {}
    assert found[1].differences[0].scale > 0
    with pytest.raises(UsageError, match="different targets"):
        verify_on(tmp_path / "bundle", [open_target("local:"), open_target("local:")])
    with pytest.raises(UsageError):
        verify_on(tmp_path / "nothing", [open_target("local:")])


def test_a_step_model_answers_whole_sequences_elsewhere(step_bundle: Callable[..., Path]) -> None:
    (found,) = verify_on(step_bundle(), [open_target("local:")])
    assert not found.error, found.received
    assert found.parity.passed, found.parity.message
    assert {item.name for item in found.differences} == {"label", "frames"}


def test_an_environment_of_ones_own(bundle: Callable[..., Path]) -> None:
    (found,) = verify_on(bundle(), [open_target(f"env:{sys.executable}")])
    assert not found.error, found.received
    assert found.parity.passed


@pytest.mark.slow
def test_an_environment_is_made_for_an_old_runtime(bundle: Callable[..., Path]) -> None:
    target = open_target("env:tflite-runtime==2.14.0")
    try:
        with target.open():
            pass
    except UsageError as error:
        pytest.skip(f"{error}")  # No Python that has wheels of it.
    path = bundle("conv-int8-io", quantization="int8", variant="int8")
    (found,) = verify_on(path, [target])
    assert not found.error, found.received
    assert found.run is not None
    assert (found.run.runtime, found.run.version) == ("tflite_runtime", "2.14.0")
    assert found.run.machine.numpy.startswith("1.")
    assert found.parity.passed
    assert set(found.differences[0].steps) <= {"1", "2"}
    assert all(finding.ok for finding in target.doctor())


def test_no_python_for_a_runtime_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pythons, "_candidates", lambda version: iter([str(tmp_path / "python")]))
    monkeypatch.setenv("EDGE_DL_CACHE", str(tmp_path / "cache"))
    target = open_target("env:tflite-runtime==2.14.0")
    with pytest.raises(UsageError, match=r"apt install python3\.11-venv"):
        target.connect()
    findings = target.doctor()
    assert not findings[0].ok
    assert "3.11" in findings[0].todo


def test_a_failed_environment_is_made_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGE_DL_CACHE", str(tmp_path / "cache"))
    made: list[Path] = []

    def fail(folder: Path, package: str, version: str) -> None:
        made.append(folder)
        (folder / "half").write_text("")
        raise StageError("pip must work.", stage="target")

    monkeypatch.setattr(environment, "make_environment", fail)
    for _ in range(2):
        with pytest.raises(StageError):
            open_target("env:tflite-runtime==2.14.0").connect()
    assert len(made) == 2
    assert not made[0].exists()
    with making(made[0]) as needed:
        assert needed
    assert is_ready(made[0])
    with making(made[0]) as needed:
        assert not needed


def test_a_command_ends_with_all_that_it_started(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(StageError, match="within 1 seconds"):
        run_command(["sh", "-c", f"(sleep 5; : > {tmp_path}/late) & sleep 30"], timeout=1)
    assert time.monotonic() - started < 20
    with pytest.raises(StageError, match="at most 1000 bytes"):
        run_command(["sh", "-c", "yes"], timeout=30, limit=1000)
    with pytest.raises(UsageError, match="must be there"):
        run_command([str(tmp_path / "nothing")], timeout=1)
    time.sleep(max(0.0, 6 - (time.monotonic() - started)))
    assert not (tmp_path / "late").exists()


# --- what is believed ---

MACHINE = {"system": "Linux", "cores": 4, "architecture": "aarch64", "temperature_c": 41.5, "governor": None}
MODEL = {"runtime": "tflite_runtime", "version": "2.14.0", "delegated": True, "load_ms": 1.5}
RUN: dict[str, Any] = {"outputs": "/etc/passwd", "seconds": 0.5, "model": MODEL, "machine": MACHINE}
TIMES = {"p50_us": 10.0, "p90_us": 11, "p99_us": 12, "mean_us": 10.5, "calls": 50, "steady": True}


def test_answers_that_keep_to_the_schema() -> None:
    run = parse_run(RUN)
    assert (run.runtime, run.seconds, run.machine.cores, run.machine.governor) == ("tflite_runtime", 0.5, 4, "")
    timing = parse_timing({"models": [{**MODEL, **TIMES}], "machine": MACHINE, "machine_after": MACHINE})
    assert (timing.p50_ms, timing.first_call_ms) == (0.01, None)


def test_a_pair_of_timings_holds_as_many_rounds_as_were_asked_for() -> None:
    one, other = ({**MODEL, **TIMES, "round_us": times} for times in ([10, 11.5], [20, 22]))
    answer = {"models": [one, other], "machine": MACHINE, "machine_after": MACHINE}
    assert parse_pair(answer, 2).rounds_ms == ((0.01, 0.0115), (0.02, 0.022))
    for wrong in ([10], [10, "11"], [10, float("inf")], [10, -1], None, [10, True]):
        with pytest.raises(StageError, match="round_us"):
            parse_pair({**answer, "models": [one, {**other, "round_us": wrong}]}, 2)
    with pytest.raises(StageError, match="a list of 2"):
        parse_pair({**answer, "models": [one]}, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"seconds": "1"}, {"seconds": -1}, {"seconds": 1e300}, {"seconds": True}, {"model": []}, {"machine": None},
        {"model": {**MODEL, "runtime": "mine"}}, {"model": {**MODEL, "delegated": 1}}, {"machine": {"cores": "many"}},
        {"machine": {"temperature_c": {}}}, {"model": {**MODEL, "version": 3}},
    ],
)  # fmt: skip
def test_answers_that_do_not(change: dict[str, Any]) -> None:
    with pytest.raises(StageError, match="must hold"):
        parse_run({**RUN, **change})


def test_text_of_a_target_cannot_play_tricks_on_a_terminal() -> None:
    assert plain_text("a\x1b[31mred\x07\n\r\u202e b") == "a [31mred b"
    assert len(plain_text("x" * 10_000)) < 500
    assert parse_run(
        {**RUN, "machine": {**MACHINE, "processor": "\x1b]0;x\x07" + "y" * 999}}
    ).machine.processor.isprintable()


@pytest.mark.parametrize(
    ("done", "rule"),
    [
        (Completed(0, b"", ""), "answer with JSON"),
        (Completed(0, b"[1]", ""), "answer with JSON"),
        (Completed(0, b'{"a": NaN}', ""), "answer with JSON"),
        (Completed(0, b"[" * 100_000, ""), "answer with JSON"),
        (Completed(-11, b"", ""), "SIGSEGV"),
        (Completed(137, b"", "Killed"), "memory"),
        (Completed(1, b"", "ModuleNotFoundError: No module named 'numpy'"), "needs NumPy"),
        (Completed(127, b"", "sh: python3: not found"), "needs Python"),
        (Completed(1, b"", "OSError: [Errno 28] No space left on device"), "must have room"),
        (Completed(3, b'{"error": {"rule": "It must.", "message": "No space left on device"}}', ""), "must have room"),
        (Completed(2, b'{"error": {"rule": "It must."}, "exit_code": 2}', ""), "It must"),
    ],
)
def test_answers_that_are_errors(done: Completed, rule: str) -> None:
    with pytest.raises(EdgeError, match=rule):
        read_answer(done)


def arrays(path: Path, **content: np.ndarray) -> Path:
    np.savez(path, **{f"y/{name}": value for name, value in content.items()})
    return path


def test_outputs_must_be_what_the_manifest_says(bundle: Callable[..., Path], tmp_path: Path) -> None:
    manifest = read_bundle(bundle()).manifest
    inputs = {"image": models.images(3)}
    path = tmp_path / "o.npz"
    good = np.arange(12, dtype="float32").reshape(3, 4)
    loaded = load_outputs(arrays(path, label=good), manifest, inputs, 3)
    np.testing.assert_array_equal(loaded["label"], good)
    np.testing.assert_array_equal(
        load_outputs(arrays(path, label=np.asfortranarray(good)), manifest, inputs, 3)["label"], good
    )
    for content in (
        {"label": good[:2]}, {"label": good.astype("float64")}, {"label": good, "more": good}, {"other": good},
        {"label": good.astype(">f4")}, {"label": good.astype("U8")},
    ):  # fmt: skip
        with pytest.raises(StageError, match="nothing else"):
            load_outputs(arrays(path, **content), manifest, inputs, 3)
    np.savez(path, **{"y/label": np.array([[{}] * 4] * 3)})
    with pytest.raises(StageError, match="nothing else"):
        load_outputs(path, manifest, inputs, 3)
    # A member that grows to a gigabyte when it is unpacked, behind a header that says 12 numbers.
    arrays(path, label=good)
    with zipfile.ZipFile(path) as archive:
        head = archive.read("y/label.npy")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("y/label.npy", "w") as member:
        member.write(head)
        for _ in range(64):
            member.write(bytes(1 << 20))
    with pytest.raises(StageError, match="another length"):
        load_outputs(path, manifest, inputs, 3)
    for content in (b"", b"PK\x03\x04", path.read_bytes()[:60]):
        path.write_bytes(content)
        with pytest.raises(StageError, match="nothing else"):
            load_outputs(path, manifest, inputs, 3)


def test_differences_are_counted_in_steps(bundle: Callable[..., Path]) -> None:
    want = {"label": np.array([[0.0, 0.5, 1.0], [1.5, 2.0, 2.5]], "float32")}
    have = {"label": want["label"] + np.array([[0, 0.5, -0.5], [1.0, 0, 20.0]], "float32")}
    (found,) = compare_outputs(have, want, {"label": 0.5})
    assert found.steps == {"1": 2, "2": 1, "17+": 1}
    assert (found.differing, found.elements, found.max_abs) == (4, 6, 20.0)
    have["label"][0, 0] = np.nan
    assert compare_outputs(have, want, {"label": 0.5})[0].max_abs is None
    path = bundle("conv-int8", quantization="int8")
    scale = output_scales(read_bundle(path))["label"]
    answers = open_session_outputs(path)
    np.testing.assert_allclose(answers / scale, np.rint(answers / scale), atol=1e-3)


def open_session_outputs(path: Path) -> np.ndarray:
    from edge_dl.runtime import open_session

    return open_session(path).predict(models.images(4))["label"]


def test_facts_in_text() -> None:
    patterns = {"level": (r"^level=(.+)$", int), "heat": (r"^heat=(\S+)$", float)}
    assert parse_facts("level=3\nheat=inf\n", patterns) == {"level": 3}
    assert parse_facts("level=many\n", patterns) == {}


def test_what_ends_the_command_ends_the_targets(bundle: Callable[..., Path], tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nsleep 60\n")
    script.chmod(0o755)

    class Interrupted:
        """A progress that is interrupted by the first result, while the other target is at work."""

        def step(self, description: str, total: float | None = None) -> Interrupted:
            return self

        def __enter__(self) -> Interrupted:
            return self

        def __exit__(self, *exception: object) -> None:
            pass

        def say(self, message: str) -> None:
            pass

        def advance(self, amount: float = 1.0, note: str = "") -> None:
            while not (tmp_path / "pid").exists():
                time.sleep(0.05)
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        verify_on(bundle(), [open_target(f"env:{script}"), open_target("local:")], progress=Interrupted())
    assert time.monotonic() - started < 50
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
