"""The emulated Raspberry Pi, really made from Debian and PyPI; alone, and behind a real sshd as its remote Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tflite_models as models
import translation_bundles as translations
import translation_models as networks
from target_hosts import Server

from edge_dl.checks.targets import bench_on, verify_on
from edge_dl.errors import StageError, UsageError
from edge_dl.runtime.targets import debian
from edge_dl.runtime.targets.opening import open_target
from edge_dl.runtime.targets.processes import run_command
from edge_dl.runtime.targets.qemu import QemuTarget

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tflite: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = models.images(4)
    golden = ({"image": images}, {"label": models.conv_reference(images).astype("float32")})
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    return models.bundle_of(folder, tflite("conv-int8-io"), golden, variant="int8", quantization="int8")


@pytest.fixture(scope="module")
def python() -> str:
    """The emulated Python with this machine's LiteRT; made once, and then kept in the cache."""
    if obstacles := debian.find_obstacles():
        pytest.skip(f"the emulated Raspberry Pi needs {obstacles[0].what}: {obstacles[0].found}; {obstacles[0].todo}")
    target = open_target("qemu-aarch64:")
    assert isinstance(target, QemuTarget)
    try:
        return str(target.python())
    except StageError as error:
        pytest.skip(f"Debian's packages and PyPI's wheels must be within reach: {error}")


@pytest.fixture
def server(python: str, tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(python)
    server = Server(tmp_path / "sshd", bin_folder=tmp_path / "bin")
    yield server
    server.stop()


def test_its_python_is_arm64_and_starts_itself(python: str) -> None:
    code = (
        "import platform, subprocess, sys; print(platform.machine()); "
        "print(subprocess.run([sys.executable, '-c', 'import platform; print(platform.machine())'], "
        "capture_output=True, text=True).stdout)"
    )
    done = run_command([python, "-c", code], timeout=60)
    assert done.stdout.split() == [b"aarch64", b"aarch64"], done.stderr


def test_arm64_arithmetic_of_the_same_runtime_agrees_in_every_integer(python: str, bundle: Path) -> None:
    (found,) = verify_on(bundle, [open_target("qemu-aarch64:")])
    assert not found.error, found.received
    assert found.run is not None
    assert found.run.machine.architecture == "aarch64"
    assert found.local_runtime == f"{found.run.runtime} {found.run.version}"
    assert found.emulated
    assert found.parity.passed, found.parity.message
    assert found.differences[0].scale > 0
    assert found.differences[0].differing == 0
    assert all(finding.ok for finding in open_target("qemu-aarch64:").doctor())


def test_its_latency_is_marked_as_meaningless(python: str, bundle: Path) -> None:
    (found,) = bench_on(bundle, [open_target("qemu-aarch64:")], rounds=1)
    assert found.timing is not None, found.received
    assert not found.meaningful


def test_it_can_be_the_remote_python_of_an_ssh_host(server: Server, bundle: Path) -> None:
    (found,) = verify_on(bundle, [open_target(server.address)], time_limit=120)
    assert not found.error, found.received
    assert found.run is not None
    assert found.run.machine.architecture == "aarch64"
    assert found.differences[0].differing == 0
    assert list((server.folder / "work").iterdir()) == []


def test_an_encoder_decoder_answers_alike_there_and_over_ssh(python: str, server: Server, tmp_path: Path) -> None:
    """arm64 kernels on three signatures of one file; what ssh carries is what emulation gave."""
    translator = translations.bundle(
        translations.lively(networks.tutorial("lstm", "additive")), tmp_path / "made", words=translations.tables()
    )
    found = verify_on(translator.folder, [open_target("qemu-aarch64:"), open_target(server.address)], time_limit=240)
    assert [result.error for result in found] == ["", ""], [result.received for result in found]
    for result in found:
        assert result.run is not None
        assert result.run.machine.architecture == "aarch64"
        assert result.parity.passed, result.parity.message
        assert all(item.max_abs is not None and item.max_abs < 1e-5 for item in result.differences)
    assert found[0].differences == found[1].differences
    assert list((server.folder / "work").iterdir()) == []


def test_where_it_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGE_DL_CACHE", str(tmp_path))
    monkeypatch.setattr(debian, "KEYRING", str(tmp_path / "no-keys"))
    with pytest.raises(UsageError, match="debian-archive-keyring"):
        open_target("qemu-aarch64:").connect()
    assert not all(finding.ok for finding in open_target("qemu-aarch64:").doctor())
