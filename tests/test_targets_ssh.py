"""The ssh target against a real sshd on loopback, with its faults: each a clear error, and a result for the others."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tflite_models as models
import translation_bundles as translations
import translation_models as networks
from target_hosts import Server

from edge_dl.bundle import read_bundle
from edge_dl.checks.targets import TargetResult, bench_on, verify_on
from edge_dl.errors import EdgeError
from edge_dl.files import write_json
from edge_dl.runtime.targets import processes, ssh
from edge_dl.runtime.targets.opening import open_target
from edge_dl.runtime.targets.ssh import SshConnection
from edge_dl.variants import Quantization

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the tests' sshd needs Linux"),
]


def python_script(folder: Path, python: str = sys.executable, before: str = "") -> Path:
    """A folder with a `python3` that starts a Python, whatever else is on the path."""
    folder.mkdir(exist_ok=True)
    (folder / "python3").write_text(f'#!/bin/sh\n{before}\nexec "{python}" "$@"\n')
    (folder / "python3").chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def bundle(tflite: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = models.images(4)
    golden = ({"image": images}, {"label": models.conv_reference(images).astype("float32")})
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    return models.bundle_of(folder, tflite("conv-int8-io"), golden, variant="int8", quantization="int8",
                            labels="abcd", task="classification")  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("ssh")
    server = Server(folder / "sshd", bin_folder=python_script(folder / "bin"))
    yield server
    server.stop()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def make(before: str = "", **settings: int) -> Server:
        made.append(Server(tmp_path / "sshd", bin_folder=python_script(tmp_path / "bin", before=before), **settings))
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "PAUSE", 0.05)


def check(bundle: Path, address: str, **settings: float) -> tuple[TargetResult, TargetResult]:
    """A result of the ssh target, and of this machine beside it."""
    results = verify_on(bundle, [open_target(address), open_target("local:")], **settings)  # type: ignore[arg-type]
    assert results[1].parity.passed, results[1].parity.message
    assert not results[1].error
    return results[0], results[1]


def test_a_bundle_is_verified_and_nothing_stays_behind(server: Server, bundle: Path) -> None:
    there, here = check(bundle, server.address)
    assert not there.error, there.received
    assert there.parity.passed
    assert there.parity.samples == 4
    assert there.run is not None
    assert (there.run.runtime, there.run.machine.system) == ("ai_edge_litert", "Linux")
    assert there.differences == here.differences  # The same runtime on the same processor.
    assert there.differences[0].differing == 0
    assert there.differences[0].scale > 0
    assert there.facts["load_average"] >= 0
    assert not there.emulated
    assert list((server.folder / "work").iterdir()) == []


def test_latency_is_measured_there(server: Server, bundle: Path) -> None:
    (found,) = bench_on(bundle, [open_target(server.address)], rounds=2)
    assert not found.error, found.received
    assert found.meaningful
    assert found.timing is not None
    assert found.timing.p50_ms is not None
    assert 0 < found.timing.p50_ms <= found.timing.p99_ms  # type: ignore[operator]
    assert found.timing.calls > 0
    assert "load_average" in found.facts_after


def test_two_models_are_timed_in_turns_there(
    server: Server, bundle: Path, tflite: Callable[[str], Path], tmp_path: Path
) -> None:
    images = models.images(2)
    golden = ({"image": images}, {"label": models.conv_reference(images).astype("float32")})
    other = models.bundle_of(tmp_path / "other", tflite("conv-float32"), golden)
    with open_target(server.address).open() as connection:
        pair = connection.measure_pair(read_bundle(bundle), read_bundle(other), rounds=4, round_seconds=0.002)
        with pytest.raises(EdgeError, match="must answer within"):
            connection.measure_pair(read_bundle(bundle), read_bundle(other), rounds=5000, round_seconds=60, timeout=1)
    assert [len(times) for times in pair.rounds_ms] == [4, 4]
    assert min(*pair.rounds_ms[0], *pair.rounds_ms[1]) > 0
    assert [timing.p50_ms > 0 for timing in pair.timings] == [True, True]  # type: ignore[operator]
    assert list((server.folder / "work").iterdir()) == []


def test_uploads_are_kept_when_asked_and_then_not_sent_again(
    server: Server, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = f"kept-{tmp_path.name.replace('[', '-').replace(']', '')}"
    address = server.address.replace("/work", f"/{kept}") + "&keep=yes"
    sent: list[str] = []
    upload = SshConnection.upload

    def count(self: SshConnection, pairs: list[tuple[Path, str, bool]], *, timeout: float) -> None:
        sent.extend(target for _, target, _ in pairs)
        upload(self, pairs, timeout=timeout)

    monkeypatch.setattr(SshConnection, "upload", count)
    first, _ = check(bundle, address)
    assert not first.error, first.received
    assert len([path for path in sent if path.endswith("model.tflite")]) == 1
    sent.clear()
    with open_target(address).open() as connection:
        connection.predict(read_bundle(bundle), {"image": models.images(4)})
    assert sent == []
    left = sorted(path.name for path in (server.folder / kept).iterdir())
    assert not [name for name in left if name.startswith("run-") or name.endswith(".part")]
    assert len(left) == 4  # The agent, the bundle, and two sets of inputs.


def test_a_broken_upload_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(3_000_000)
    file = tmp_path / "large"
    file.write_bytes(content)
    connection = open_target(server.address).connect()
    assert isinstance(connection, SshConnection)
    try:
        connection._make_root(30)
        from edge_dl.runtime.targets.base import content_hash

        part = Path(connection.root) / (content_hash({"large": file})[:40] + ".part")
        part.mkdir()
        (part / "large").write_bytes(content[:1_000_000])
        stamp = (part / "large").stat().st_ino
        seen: list[bool] = []
        upload = connection.upload
        connection.upload = lambda pairs, timeout: (
            seen.extend(r for _, _, r in pairs),
            upload(pairs, timeout=timeout),
        )[1]  # type: ignore[method-assign, misc]
        place = Path(connection.put({"large": file}, timeout=60))
        assert seen == [True]
        assert (place / "large").read_bytes() == content
        assert (place / "large").stat().st_ino == stamp
    finally:
        connection.close()
    assert not Path(connection.root).exists()


def test_half_an_upload_of_something_else_is_noticed(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(b"a" * 1000)
    with open_target(server.address).open() as connection:
        assert isinstance(connection, SshConnection)
        connection._make_root(30)
        from edge_dl.runtime.targets.base import content_hash

        part = Path(connection.root) / (content_hash({"data": file})[:40] + ".part")
        part.mkdir()
        (part / "data").write_bytes(b"b" * 500)
        assert (Path(connection.put({"data": file}, timeout=60)) / "data").read_bytes() == b"a" * 1000


def test_a_connection_that_breaks_once_is_survived(own_server: Callable[..., Server], bundle: Path) -> None:
    # The first agent hangs until its connection is cut; the second one finds the mark and works.
    server = own_server(before='if [ ! -e "$0.cut" ]; then : > "$0.cut"; sleep 60; fi')
    mark = server.bin_folder / "python3.cut"

    def cut() -> None:
        while not mark.exists():
            time.sleep(0.05)
        server.cut()

    thread = threading.Thread(target=cut, daemon=True)
    thread.start()
    there, _ = check(bundle, server.address, time_limit=60)
    assert mark.exists()
    assert not there.error, there.received
    assert there.parity.passed


def stop_once_started(server: Server) -> None:
    """End a server, in a thread, as soon as the Python there has begun; it runs `before=': > "$0.started"; ...'`."""

    def stop() -> None:
        while not (server.bin_folder / "python3.started").exists():
            time.sleep(0.05)
        server.stop()

    threading.Thread(target=stop, daemon=True).start()


def test_a_killed_server_is_an_error_and_the_others_go_on(own_server: Callable[..., Server], bundle: Path) -> None:
    server = own_server(before=': > "$0.started"; sleep 60')
    stop_once_started(server)
    there, _ = check(bundle, server.address, time_limit=60)
    assert there.error == "The connection to the target must hold.", there.received
    assert "may be left there" in there.todo
    assert there.parity.failed
    assert there.run is None


@pytest.mark.parametrize("times", [1, 99])
def test_a_killed_client_is_survived_once_and_then_an_error(
    own_server: Callable[..., Server], bundle: Path, times: int
) -> None:
    """SIGKILL for the ssh program on this machine, while the agent runs there."""
    server = own_server(before=': > "$0.started"; sleep 2')
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        while not over.is_set() and len(killed) < times:
            if (server.bin_folder / "python3.started").exists():
                for child in tuple(processes._running):
                    if list(child.args)[:1] == ["ssh"] and child.poll() is None and len(killed) < times:
                        child.kill()
                        killed.append(child.pid)
            time.sleep(0.05)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        there, _ = check(bundle, server.address, time_limit=60)
    finally:
        over.set()
        thread.join()
    assert killed
    if times == 1:
        assert not there.error, there.received
        assert there.parity.passed
    else:
        assert there.error == "The connection to the target must hold.", there.received
        assert there.parity.failed


def test_a_server_killed_while_it_is_timed(own_server: Callable[..., Server], bundle: Path) -> None:
    server = own_server(before=': > "$0.started"; sleep 60')
    stop_once_started(server)
    there, local = bench_on(bundle, [open_target(server.address), open_target("local:")], rounds=2, time_limit=60)
    assert there.error == "The connection to the target must hold.", there.received
    assert there.timing is None
    assert local.timing is not None


def test_a_slow_target_is_an_error(own_server: Callable[..., Server], bundle: Path) -> None:
    server = own_server(before="sleep 300")
    started = time.monotonic()
    # The time is the other target's limit too, which has to answer on a busy machine.
    there, _ = check(bundle, server.address, time_limit=15)
    assert there.error == "The target must answer within 15 seconds."
    assert "--time-limit" in there.todo
    assert there.parity.failed
    assert time.monotonic() - started < 120
    assert list((server.folder / "work").iterdir()) == []


def test_a_full_disk_is_an_error(own_server: Callable[..., Server], bundle: Path) -> None:
    server = own_server(file_limit_kib=4)  # The agent's file is larger.
    there, _ = check(bundle, server.address)
    assert there.error == "The target must have room for the bundle and its answers."
    assert "Make room there" in there.todo


@pytest.mark.parametrize("disk_kib", [32, 96])
def test_a_disk_that_is_really_full_is_an_error(own_server: Callable[..., Server], bundle: Path, disk_kib: int) -> None:
    # 32 KiB do not take the agent; 96 take it and the model, and then no answers to many samples.
    server = own_server(disk_kib=disk_kib)
    if disk_kib == 32:
        there, _ = check(bundle, server.address)
        error, todo, failed = there.error, there.todo, there.parity.failed
        assert failed
    else:
        with open_target(server.address).open() as connection, pytest.raises(EdgeError) as caught:
            connection.predict(read_bundle(bundle), {"image": models.images(4000)})
        error, todo = caught.value.rule, caught.value.todo
    assert error == "The target must have room for the bundle and its answers."
    assert "Make room there" in todo


def test_another_host_key_is_refused_and_no_setting_changes_that(server: Server, bundle: Path, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    try:
        server.trust((tmp_path / "other.pub").read_text())
        there, _ = check(bundle, server.address)
        assert there.error == "The host must have the key that is known for it."
        (server.folder / "known_hosts").write_text("")
        (there,) = verify_on(bundle, [open_target(server.address)])
        assert there.error == "The host's key must be known."
        assert "Connect once by hand" in there.todo
    finally:
        server.trust((server.folder / "host_key.pub").read_text())


def test_a_refused_user_and_a_host_that_is_not_there(server: Server, bundle: Path) -> None:
    keys = server.folder / "authorized_keys"
    content = keys.read_text()
    keys.write_text("")
    try:
        (there,) = verify_on(bundle, [open_target(server.address)])
    finally:
        keys.write_text(content)
    assert there.error == "The host must let you in without a password."
    (there,) = verify_on(bundle, [open_target("ssh://127.0.0.1:9")])
    assert there.error == "The host must be within reach."
    assert open_target("ssh://127.0.0.1:9").doctor()[0].ok is False


def test_a_python_without_numpy(own_server: Callable[..., Server], bundle: Path, tmp_path: Path) -> None:
    bare = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    python_script(tmp_path / "bare", bare)
    server = own_server()
    address = server.address.replace(f"python={server.bin_folder}", f"python={tmp_path}/bare")
    # -S is no environment variable: an empty folder in place of the site's packages is.
    (tmp_path / "bare" / "python3").write_text(f'#!/bin/sh\nexec "{bare}" -I -S "$@"\n')
    there, _ = check(bundle, address)
    assert there.error == "The target's Python needs NumPy."
    findings = {finding.what: finding for finding in open_target(address).doctor()}
    assert findings["connection"].ok
    assert not findings["Python"].ok
    assert "numpy" in findings["Python"].todo


def test_no_python_at_all(server: Server, bundle: Path) -> None:
    (there,) = verify_on(bundle, [open_target(server.address.replace("python=/", "python=/nowhere/"))])
    assert there.error == "The target needs Python 3.8 or newer."
    assert "?python=PATH" in there.todo


def test_an_agent_older_than_the_bundle(
    server: Server, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "agent.py"
    old.write_text(SshConnection.agent.read_text().replace("FORMAT = 1\n", "FORMAT = 0\n"))
    monkeypatch.setattr(SshConnection, "agent", old)
    there, _ = check(bundle, server.address)
    assert "reads bundles of format 0" in there.error
    assert "older than the bundle" in there.todo
    assert there.parity.failed


def test_paths_in_an_answer_are_not_used(own_server: Callable[..., Server], bundle: Path, tmp_path: Path) -> None:
    # The real agent answers, and somebody on the way names another file as the one with the outputs.
    (tmp_path / "secret.npz").write_bytes(b"not for you")
    script = (
        f'"{sys.executable}" "$@" | sed "s#\\"outputs\\": \\"[^\\"]*\\"#\\"outputs\\": \\"{tmp_path}/secret.npz\\"#g" '
        f'| tee -a "{tmp_path}/said"; exit 0'
    )
    server = own_server(before=script)
    there, here = check(bundle, server.address)
    assert f'"outputs": "{tmp_path}/secret.npz"' in (tmp_path / "said").read_text()
    assert not there.error, there.received
    assert there.differences == here.differences
    assert (tmp_path / "secret.npz").read_bytes() == b"not for you"


def test_what_a_target_answers_is_not_believed(own_server: Callable[..., Server], bundle: Path) -> None:
    server = own_server(before='echo "{\\"model\\": {\\"runtime\\": \\"\\", \\"version\\": 3}}"; exit 0')
    there, _ = check(bundle, server.address)
    assert there.error.startswith("A target's answer must hold one of ai_edge_litert")
    (server.bin_folder / "python3").write_text("#!/bin/sh\nyes 0123456789\n")
    (there,) = verify_on(bundle, [open_target(server.address)], time_limit=30)
    assert "may answer with at most" in there.error
    (server.bin_folder / "python3").write_text("#!/bin/sh\necho gibberish; kill -SEGV $$\n")
    (there,) = verify_on(bundle, [open_target(server.address)])
    assert there.error == "The target must answer with JSON."
    assert "SIGSEGV" in there.received


def test_results_go_into_the_run_folder(server: Server, tflite: Callable[[str], Path], tmp_path: Path) -> None:
    from edge_dl.files import read_json, save_npz

    run = tmp_path / "run"
    images = models.images(40)
    reference = models.conv_reference(images).astype("float32")
    save_npz(run / "data" / "test.npz", {"x/image": images, "y/label": reference.argmax(1), "index": np.arange(40)})
    write_json(run / "data" / "dataset.json", {"task": "classification", "labels": list("abcd")})
    save_npz(run / "export" / "reference.npz", {"y/label": reference})
    for name in ("float32", "int8"):
        golden = ({"image": images[:4]}, {"label": reference[:4]})
        settings = {"quantization": name, "task": "classification", "labels": "abcd"}
        models.bundle_of(run / "variants" / name, tflite(f"conv-{name}"), golden, variant=name, **settings)
    results = verify_on(run, [open_target(server.address), open_target("local:")], samples=10)
    assert [result.variant for result in results] == ["float32", "int8"] * 2
    assert all(result.parity.samples == 10 and not result.error for result in results)
    for result in results:
        folder = "local" if result.target == "local:" else next(
            path.name for path in (run / "targets").iterdir() if path.name.startswith("ssh"))  # fmt: skip
        assert TargetResult.from_json(read_json(run / "targets" / folder / f"{result.variant}.json")) == result
    assert results[1].differences[0].scale > 0  # Float at the edge, integers one operator before.


@pytest.mark.parametrize("quantization", [Quantization.FLOAT32, Quantization.FLOAT16])
def test_an_encoder_decoder_answers_there(server: Server, tmp_path: Path, quantization: Quantization) -> None:
    """Three signatures in one file, tables beside it: every position's answers come back as they are here."""
    translator = translations.bundle(
        translations.lively(networks.tutorial("lstm", "additive")), tmp_path / "made", quantization,
        words=translations.tables(),
    )  # fmt: skip
    there, local = check(translator.folder, server.address)
    assert not there.error, there.received
    assert there.parity.passed, there.parity.message
    assert {item.name for item in there.differences} == {"next_token", "attention"}
    assert [item.differing for item in there.differences] == [0, 0]
    assert there.run is not None
    assert local.run is not None
    (timed,) = bench_on(translator.folder, [open_target(server.address)], rounds=2)
    assert timed.timing is not None, timed.received
    assert list((server.folder / "work").iterdir()) == []
