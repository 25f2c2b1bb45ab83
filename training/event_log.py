"""Training curves for TensorBoard, written without TensorFlow."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType


class EventLog:
    """One event file in `folder`; use it as a context manager.

    Args:
        folder: made when missing. Each process adds a file of its own, as TensorBoard expects.
        first_step: TensorBoard forgets earlier events at or after this step: a resumed run says them again.

    Raises:
        ImportError: the tensorboard package is missing.
    """

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._events, self._summaries = event_pb2, summary_pb2
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        # TensorBoard's own file writer would import TensorFlow for its file system; a plain file serves as well.
        self._writer = RecordWriter((folder / name).open("wb"))
        self._write(event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2"))
        if first_step:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(event_pb2.Event(wall_time=time.time(), step=first_step, session_log=start))

    def add(self, values: Mapping[str, float | None], step: int) -> None:
        """Write one point of each curve; None is left out. The file is flushed, so that a live page follows."""
        points = [
            self._summaries.Summary.Value(tag=name, simple_value=value)
            for name, value in values.items()
            if value is not None
        ]
        summary = self._summaries.Summary(value=points)
        self._write(self._events.Event(wall_time=time.time(), step=step, summary=summary))

    def _write(self, event: object) -> None:
        self._writer.write(event.SerializeToString())  # type: ignore[attr-defined]
        self._writer.flush()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
