"""The adb target: the real adb client against a small adbd on loopback, and with no device."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tflite_models as models
import translation_bundles as translations
import translation_models as networks
from fake_adbd import FakeAdbd
from target_hosts import find_tool, free_port

from edge_dl.bundle import Bundle, read_bundle
from edge_dl.checks.targets import TargetResult, bench_on, verify_on
from edge_dl.errors import StageError
from edge_dl.runtime.targets.adb import parse_benchmark
from edge_dl.runtime.targets.opening import open_target
from edge_dl.runtime.targets.processes import Completed

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the fake adbd needs a Linux shell")

PROGRAMS = {
    "getprop": 'case "$1" in *model) echo Fake;; *abi) echo arm64-v8a;; *release) echo 14;; *sdk) echo 34;; esac',
    "dumpsys": 'if [ "$1" = battery ]; then echo "  level: 81"; echo "  temperature: 312"; echo "  USB powered: true"; '
    'else echo "Thermal Status: 1"; fi',
    "python3": f'exec "{sys.executable}" "$@"',
}


@pytest.fixture(scope="module")
def bundle(tflite: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = models.images(4)
    golden = ({"image": images}, {"label": models.conv_reference(images).astype("float32")})
    return models.bundle_of(tmp_path_factory.mktemp("bundles") / "bundle", tflite("conv-float32"), golden)


@pytest.fixture(autouse=True)
def adb_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An adb server of our own: other port, other keys, so that no real phone is touched."""
    program, environment = find_tool("adb")
    # A script and not a changed LD_LIBRARY_PATH: that would reach every other child too.
    (tmp_path / "client").mkdir()
    words = " ".join(f'{key}="{value}"' for key, value in environment.items())
    (tmp_path / "client" / "adb").write_text(f'#!/bin/sh\n{words} exec "{program}" "$@"\n')
    (tmp_path / "client" / "adb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/client:{os.environ['PATH']}")
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ANDROID_SDK_HOME", str(tmp_path))
    # The server must not be a child that ends with the first command's session.
    subprocess.run(["adb", "start-server"], check=True, capture_output=True, timeout=60, start_new_session=True)
    yield
    subprocess.run(["adb", "kill-server"], check=False, capture_output=True, timeout=60)


@pytest.fixture
def phone(tmp_path: Path) -> Iterator[Callable[..., FakeAdbd]]:
    made: list[FakeAdbd] = []

    def make(**settings: str) -> FakeAdbd:
        folder = tmp_path / "phone-bin"
        folder.mkdir(exist_ok=True)
        for name, content in PROGRAMS.items():
            (folder / name).write_text(f"#!/bin/sh\n{content}\n")
            (folder / name).chmod(0o755)
        made.append(FakeAdbd(folder, **settings))
        return made[-1]

    yield make
    for device in made:
        device.close()


def address(device: FakeAdbd, tmp_path: Path) -> str:
    return f"adb:{device.serial}?folder={tmp_path}/tmp&python={tmp_path}/phone-bin/python3"


def check(bundle: Path, where: str, *, time_limit: float = 60) -> TargetResult:
    """What a phone answers, and that this machine beside it was not disturbed."""
    results = verify_on(bundle, [open_target(where), open_target("local:")], time_limit=time_limit)
    assert not results[1].error
    assert results[1].parity.passed
    return results[0]


def test_a_bundle_is_pushed_run_and_fetched(phone: Callable[..., FakeAdbd], bundle: Path, tmp_path: Path) -> None:
    device = phone()
    found = check(bundle, address(device, tmp_path))
    assert not found.error, found.received
    assert found.parity.passed
    assert found.differences[0].differing == 0
    assert found.facts == {
        "device": "Fake", "abi": "arm64-v8a", "android": "14", "sdk": 34, "thermal_status": 1, "battery_percent": 81,
        "battery_temperature_c": 31.2, "charging": True, **{k: v for k, v in found.facts.items() if k == "governor"},
    }  # fmt: skip
    assert len([path for path in device.pushed if path.endswith("model.tflite")]) == 1
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.slow
def test_an_encoder_decoder_is_pushed_with_its_tables(phone: Callable[..., FakeAdbd], tmp_path: Path) -> None:
    translator = translations.bundle(
        translations.lively(networks.tutorial("gru", "dot")), tmp_path / "made", words=translations.tables()
    )
    device = phone()
    found = check(translator.folder, address(device, tmp_path))
    assert not found.error, found.received
    assert found.parity.passed, found.parity.message
    assert [item.differing for item in found.differences] == [0] * len(found.differences)
    assert len([path for path in device.pushed if path.endswith("text.json")]) == 1
    assert list((tmp_path / "tmp").iterdir()) == []


def test_an_exit_code_comes_back_without_shell_v2(phone: Callable[..., FakeAdbd], tmp_path: Path) -> None:
    with open_target(address(phone(), tmp_path)).open() as connection:
        done = connection.shell("echo out; echo err >&2; exit 3", timeout=30)  # type: ignore[attr-defined]
        assert (done.returncode, done.stdout.strip(), done.stderr.strip()) == (3, b"out", "err")


def test_the_doctor_looks_at_the_phone(phone: Callable[..., FakeAdbd], tmp_path: Path) -> None:
    findings = {finding.what: finding for finding in open_target(address(phone(), tmp_path)).doctor()}
    assert all(finding.ok for finding in findings.values()), findings
    assert "Android Debug Bridge" in findings["adb"].found
    assert "battery_percent 81" in findings["phone"].found
    bare = open_target(f"adb:{phone().serial}?folder={tmp_path}/tmp&python=/nowhere").doctor()
    assert not bare[-1].ok
    assert "?python=PATH" in bare[-1].todo


def test_no_device(bundle: Path) -> None:
    found = check(bundle, "adb:")
    assert found.error == "The phone must be connected."
    assert "USB debugging" in found.todo
    findings = open_target("adb:no-such-phone").doctor()
    assert [finding.ok for finding in findings] == [True, False]


def test_an_unauthorised_phone(phone: Callable[..., FakeAdbd], bundle: Path, tmp_path: Path) -> None:
    found = check(bundle, address(phone(mode="unauthorized"), tmp_path))
    assert found.error == "The phone must allow this computer to debug it."
    assert "answer its question" in found.todo
    assert found.parity.failed


def test_a_phone_that_is_offline(phone: Callable[..., FakeAdbd], bundle: Path, tmp_path: Path) -> None:
    found = check(bundle, address(phone(mode="offline"), tmp_path))
    assert found.error == "The phone must be online."
    assert "adb kill-server" in found.todo
    assert found.parity.failed


def test_a_phone_without_room(phone: Callable[..., FakeAdbd], bundle: Path, tmp_path: Path) -> None:
    device = phone(mode="full")
    found = check(bundle, address(device, tmp_path))
    assert found.error == "The target must have room for the bundle and its answers."
    assert "Make room there" in found.todo
    assert device.pushed == []
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("when", ["sync:", "--inputs", "exec:cat"], ids=["push", "run", "fetch"])
def test_a_phone_lost_in_the_middle(phone: Callable[..., FakeAdbd], bundle: Path, tmp_path: Path, when: str) -> None:
    device = phone(mode="lost", lose_at=when)
    found = check(bundle, address(device, tmp_path))
    assert found.error in ("The connection to the phone must hold.", "The phone must be online."), found.received
    assert found.parity.failed
    assert found.run is None
    assert device.commands  # It was there at first.
    assert bool(device.pushed) is (when != "sync:")


def test_a_phone_lost_while_it_is_timed(phone: Callable[..., FakeAdbd], bundle: Path, tmp_path: Path) -> None:
    device = phone(mode="lost", lose_at="agent.py bench")
    lost, local = bench_on(bundle, [open_target(address(device, tmp_path)), open_target("local:")], rounds=2)
    assert lost.error in ("The connection to the phone must hold.", "The phone must be online."), lost.received
    assert lost.timing is None
    assert local.timing is not None


def test_a_phone_slower_than_its_time_limit(phone: Callable[..., FakeAdbd], bundle: Path, tmp_path: Path) -> None:
    device = phone()
    (tmp_path / "phone-bin" / "python3").write_text("#!/bin/sh\nexec sleep 90\n")
    # The time is the other target's limit too, which has to answer on a busy machine.
    found = check(bundle, address(device, tmp_path), time_limit=15)
    assert found.error == "The target must answer within 15 seconds."
    assert "--time-limit" in found.todo
    assert found.parity.failed


def test_a_python_without_numpy_on_the_phone(phone: Callable[..., FakeAdbd], bundle: Path, tmp_path: Path) -> None:
    device = phone()
    bare = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    (tmp_path / "phone-bin" / "python3").write_text(f'#!/bin/sh\nexec "{bare}" -I -S "$@"\n')
    found = check(bundle, address(device, tmp_path))
    assert found.error == "The target's Python needs NumPy.", found.received
    assert list((tmp_path / "tmp").iterdir()) == []


def test_two_models_are_timed_in_turns_there(
    phone: Callable[..., FakeAdbd], bundle: Path, tflite: Callable[[str], Path], tmp_path: Path
) -> None:
    images = models.images(2)
    golden = ({"image": images}, {"label": models.conv_reference(images).astype("float32")})
    other = models.bundle_of(tmp_path / "other", tflite("conv-int8"), golden)
    device = phone()
    with open_target(address(device, tmp_path)).open() as connection:
        pair = connection.measure_pair(read_bundle(bundle), read_bundle(other), rounds=3, round_seconds=0.002)
    assert [len(times) for times in pair.rounds_ms] == [3, 3]
    assert min(*pair.rounds_ms[0], *pair.rounds_ms[1]) > 0
    assert len([command for command in device.commands if "agent.py bench" in command]) == 1


def test_a_phone_without_python(phone: Callable[..., FakeAdbd], bundle: Path, tmp_path: Path) -> None:
    found = check(bundle, address(phone(), tmp_path).replace("phone-bin/python3", "none"))
    assert found.error.startswith("The phone needs a Python")
    assert "?benchmark=PATH" in found.todo


def test_a_benchmark_program_is_pushed_with_the_bundle(
    phone: Callable[..., FakeAdbd], bundle: Path, tmp_path: Path
) -> None:
    program = tmp_path / "benchmark_model"
    program.write_text(
        '#!/bin/sh\nfor word in "$@"; do case "$word" in --graph=*) [ -s "${word#--graph=}" ] || exit 4;; esac; done\n'
        'echo "count=5 first=900 curr=700 min=690 max=900 avg=800.5 std=80"\n'
        'echo "count=50 first=610 curr=600 min=590 max=700 avg=605.25 std=9"\n'
        'echo "Inference timings in us: Init: 1200, First inference: 900, Warmup (avg): 800, Inference (avg): 605"\n'
    )
    (found,) = bench_on(bundle, [open_target(f"{address(phone(), tmp_path)}&benchmark={program}")])
    assert found.timing is not None, found.received
    assert (found.timing.mean_ms, found.timing.calls, found.timing.p50_ms) == (0.60525, 50, None)
    assert (found.timing.load_ms, found.timing.first_call_ms) == (1.2, 0.9)
    assert found.facts_after["battery_percent"] == 81


def test_a_benchmark_program_times_two_models_one_after_the_other(
    phone: Callable[..., FakeAdbd], bundle: Path, tmp_path: Path
) -> None:
    # Its answer follows from the size of the model that it was given.
    program = tmp_path / "benchmark_model"
    program.write_text(
        '#!/bin/sh\nfor word in "$@"; do case "$word" in --graph=*) size=$(wc -c < "${word#--graph=}");; esac; done\n'
        'echo "count=50 first=610 curr=600 min=590 max=700 avg=$size std=9 p5=1 median=$size p95=1"\n'
        'echo "Inference timings in us: Init: 1200, First inference: 900, Warmup (avg): 800, Inference (avg): 605"\n'
    )
    larger = tmp_path / "larger"
    shutil.copytree(bundle, larger)
    with (larger / "model.tflite").open("ab") as file:
        file.write(bytes(5000))
    sizes = [(folder / "model.tflite").stat().st_size for folder in (bundle, larger)]
    changed = Bundle(larger, read_bundle(bundle).manifest)
    with open_target(f"{address(phone(), tmp_path)}&benchmark={program}").open() as connection:
        pair = connection.measure_pair(read_bundle(bundle), changed, rounds=3, round_seconds=0.002)
    assert pair.rounds_ms == ((sizes[0] / 1e3,), (sizes[1] / 1e3,))


def test_a_benchmark_that_prints_something_else() -> None:
    with pytest.raises(StageError, match="print its timings"):
        parse_benchmark(Completed(0, b"count=nonsense", ""))
