"""Does a runtime load these .tflite files, and run them? Each is loaded and called once, in a process of its own.

A file that any Python from 3.8 on can run where one of the runtimes is; nothing else of edge-dl is needed:

    python trial.py RUNTIME FILE ...
    python trial.py RUNTIME --operators FILES.json

RUNTIME: ai_edge_litert, tflite_runtime, tensorflow, compiled_model (LiteRT's CompiledModel on the CPU) or tflite_micro.
Prints a JSON object: FILE -> "" when it ran, else the runtime's words. The runtime is imported once and the process is
forked for each file (POSIX only): what crashes or hangs is an answer too.

`--operators` asks only which operator versions the runtime takes. FILES.json: {OPERATOR: [a .tflite that names version
1 of it in base64, version 2, ...]}; the answer is {OPERATOR: [versions that it opened]}.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

RUNTIMES = ("ai_edge_litert", "tflite_runtime", "tensorflow", "compiled_model", "tflite_micro")
SECONDS = 60.0
MICRO_ARENA = 16 << 20
# What the runtimes print about themselves, not about the file.
_CHATTER = re.compile(r"^(INFO|WARNING|VERBOSE|DEBUG|[IW]\d{4} |[IW]\d{10}|\d{4}-\d\d-\d\d |To enable|\s*$)")


def opener(runtime: str) -> Callable[[str], None]:
    """A function that loads a file and calls it once with made-up numbers; imports the runtime.

    Raises:
        ImportError: it is not installed.
        KeyError: no such runtime.
    """
    import numpy

    def numbers(entry: Any) -> Any:
        """Floats between -1 and 1; 1 for integers, which may be tokens."""
        kind, count = numpy.dtype(entry["dtype"]), int(numpy.prod(entry["shape"]))
        values = numpy.sin(numpy.arange(count)) if kind.kind == "f" else numpy.ones(count)
        return values.astype(kind).reshape(entry["shape"])

    def check(values: Any) -> None:
        if values.dtype.kind == "f" and not numpy.isfinite(values).all():
            raise ValueError("answers with NaN or infinity")

    def with_interpreter(interpreter: Any) -> None:
        interpreter.allocate_tensors()
        for entry in interpreter.get_input_details():
            interpreter.set_tensor(entry["index"], numbers(entry))
        interpreter.invoke()
        for entry in interpreter.get_output_details():
            check(interpreter.get_tensor(entry["index"]))

    def compiled(path: str) -> None:
        model = compiled_class.from_file(path)
        inputs, outputs = model.create_input_buffers(0), model.create_output_buffers(0)
        for buffer in inputs:
            entry = buffer.get_tensor_details()
            with contextlib.suppress(ValueError):  # Python cannot write int16; what is in the buffer does as well.
                buffer.write(numbers(entry))
        model.run_by_index(0, inputs, outputs)

    def micro(path: str) -> None:
        interpreter = micro_class.from_file(path, arena_size=MICRO_ARENA)
        index = 0
        while True:
            try:
                entry = interpreter.get_input_details(index)
            except (IndexError, ValueError, RuntimeError):
                break
            interpreter.set_input(numbers(entry), index)
            index += 1
        interpreter.invoke()

    if runtime == "compiled_model":
        from ai_edge_litert.compiled_model import CompiledModel as compiled_class

        return compiled
    if runtime == "tflite_micro":
        from tflite_micro.python.tflite_micro.runtime import Interpreter as micro_class

        return micro
    interpreter_class = _interpreter(runtime)
    return lambda path: with_interpreter(interpreter_class(model_path=path, num_threads=1))


def attempt(open_file: Callable[[str], None], path: str, seconds: float = SECONDS) -> str:
    """Load one file in a child of this process; "" when it ran, else the runtime's words."""
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as raised:
        child = os.fork()
        if child == 0:
            os.dup2(printed.fileno(), 1)
            os.dup2(printed.fileno(), 2)
            code = 0
            try:
                open_file(path)
            except BaseException as error:
                code = 1
                os.write(raised.fileno(), str(error).encode("utf-8", "replace"))
            os._exit(code)
        status = _wait(child, seconds)
        raised.seek(0)
        printed.seek(0)
        words = raised.read().decode("utf-8", "replace")
        words += "\n" + "\n".join(
            line for line in printed.read().decode("utf-8", "replace").splitlines() if not _CHATTER.match(line)
        )
    words = " ".join(words.split())[:600]
    if status is None:
        return f"did not end within {seconds:g} seconds"
    if os.WIFSIGNALED(status):
        return f"signal {signal.Signals(os.WTERMSIG(status)).name} {words}".strip()
    return "" if os.WEXITSTATUS(status) == 0 else words or "no words"


def opened_versions(runtime: str, files: str) -> dict[str, list[int]]:
    """The operator versions that a runtime opens a file for; see `--operators`. Nothing is run: no fork needed."""
    open_content = _interpreter(runtime)
    with open(files, encoding="utf-8") as stream:
        contents = json.load(stream)
    found: dict[str, list[int]] = {}
    for name, versions in contents.items():
        for number, content in enumerate(versions, 1):
            try:
                open_content(model_content=base64.b64decode(content))
            except (ValueError, RuntimeError):
                continue
            found.setdefault(name, []).append(number)
    return found


def _interpreter(runtime: str) -> Any:
    if runtime == "tensorflow":
        import tensorflow

        return tensorflow.lite.Interpreter
    if runtime == "tflite_runtime":
        from tflite_runtime.interpreter import Interpreter

        return Interpreter
    if runtime == "ai_edge_litert":
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter
    raise KeyError(runtime)


def _wait(child: int, seconds: float) -> int | None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def main(arguments: list[str]) -> int:
    """See above."""
    if len(arguments) < 2 or arguments[0] not in RUNTIMES:
        print(__doc__, file=sys.stderr)
        return 2
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if arguments[1] == "--operators":
        print(json.dumps(opened_versions(arguments[0], arguments[2])))
        return 0
    open_file = opener(arguments[0])
    print(json.dumps({path: attempt(open_file, path) for path in arguments[1:]}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
