from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_dl.errors import UsageError
from edge_dl.training import checkpoint as checkpoints
from edge_dl.training.checkpoint import Checkpoint


def made() -> Checkpoint:
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(7, np.int32)]
    return Checkpoint("abc", 3, [{"epoch": 1, "loss": 0.5}], arrays, arrays[::-1], [arrays[0]], {"best_loss": 0.1})


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    checkpoints.save(made(), tmp_path)
    read = checkpoints.load(tmp_path)
    assert read is not None
    assert (read.fingerprint, read.epoch, read.history, read.state) == ("abc", 3, made().history, made().state)
    for kind in ("variables", "optimizer", "best"):
        for before, after in zip(getattr(made(), kind), getattr(read, kind), strict=True):
            np.testing.assert_array_equal(before, after)
            assert before.dtype == after.dtype


def test_the_order_of_many_variables_is_kept(tmp_path: Path) -> None:
    state = made()
    state.variables = [np.array(number) for number in range(120)]
    checkpoints.save(state, tmp_path)
    read = checkpoints.load(tmp_path)
    assert read is not None
    assert [int(value) for value in read.variables] == list(range(120))


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoints.load(tmp_path) is None


def test_a_failed_save_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints.save(made(), tmp_path)

    def full_disk(file: object, **arrays: np.ndarray) -> None:
        file.write(b"half of it")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    later = made()
    later.epoch = 4
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(later, tmp_path)
    read = checkpoints.load(tmp_path)
    assert read is not None
    assert read.epoch == 3
    assert [path.name for path in tmp_path.iterdir()] == [checkpoints.FILE]


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut short"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / checkpoints.FILE).write_bytes(content)
    with pytest.raises(UsageError, match=r"npz|checkpoint"):
        checkpoints.load(tmp_path)


def test_another_archive_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / checkpoints.FILE, something=np.zeros(3))
    with pytest.raises(UsageError, match="A checkpoint must be one that this version wrote"):
        checkpoints.load(tmp_path)
