"""Running models: interpreters behind one small interface, sessions with state, decoding, evaluation.

Nothing here imports Keras or TensorFlow, and the interpreter itself is imported when the first model is opened.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

from edge_dl.bundle import read_bundle
from edge_dl.errors import StageError, UsageError
from edge_dl.runtime import agent
from edge_dl.runtime.agent import RUNTIMES, Interpreter, Session, Spec, escape_label, unescape_label

if TYPE_CHECKING:
    from edge_dl.runtime.decoders import SessionDecoder
    from edge_dl.runtime.evaluation import predict_all
    from edge_dl.runtime.generation import Sampling, Vocabulary, generate, generate_text
    from edge_dl.runtime.guard import run_guarded
    from edge_dl.runtime.search import Decoder, Hypothesis, Search
    from edge_dl.runtime.spelling import SpellingSession
    from edge_dl.runtime.streams import Detection, Detector, Score, StreamSession
    from edge_dl.runtime.translation import Translation, Translator

__all__ = [
    "RUNTIMES",
    "Decoder",
    "Detection",
    "Detector",
    "Hypothesis",
    "Interpreter",
    "Sampling",
    "Score",
    "Search",
    "Session",
    "SessionDecoder",
    "Spec",
    "SpellingSession",
    "StreamSession",
    "Translation",
    "Translator",
    "Vocabulary",
    "agent",
    "escape_label",
    "generate",
    "generate_text",
    "measure",
    "open_session",
    "predict_all",
    "run_guarded",
    "unescape_label",
    "verify",
]

_HOMES = {
    "predict_all": "evaluation",
    "run_guarded": "guard",
    "Detection": "streams",
    "Detector": "streams",
    "Score": "streams",
    "StreamSession": "streams",
    "SpellingSession": "spelling",
    "Sampling": "generation",
    "Vocabulary": "generation",
    "generate": "generation",
    "generate_text": "generation",
    "Decoder": "search",
    "SessionDecoder": "decoders",
    "Hypothesis": "search",
    "Search": "search",
    "Translation": "translation",
    "Translator": "translation",
}

# The agent runs alone on devices; here it raises edge-dl's own errors.
agent.set_error_types(usage=UsageError, stage=partial(StageError, stage="run"))

measure = agent.measure
verify = agent.verify


def open_session(
    bundle_or_model: str | os.PathLike[str],
    *,
    runtime: str = "auto",
    threads: int = 1,
    delegate: bool = True,
    signature: str = "",
    keep_tensors: bool = False,
) -> Session:
    """Open a bundle (its manifest and hashes are checked) or a bare .tflite.

    Args:
        bundle_or_model: a bundle's folder or the path of a .tflite.
        runtime: "auto", or one of `RUNTIMES`; "auto" takes LiteRT, tflite-runtime, TensorFlow, in this order.
        threads: threads of the interpreter.
        delegate: whether the default delegate (XNNPACK) may take over operators.
        signature: which signature of a bare .tflite to run; "" chooses.
        keep_tensors: whether `session.interpreter.get_tensor` gives what operators computed on the way.

    Raises:
        UsageError: bad arguments, a file that is no bundle or .tflite, or no runtime.
        StageError: the runtime cannot load the model; its own words are in the message.
    """
    path = os.fspath(bundle_or_model)
    if os.path.isdir(path):
        read_bundle(path)
        return Session(
            path, runtime=runtime, threads=threads, delegate=delegate, check_hashes=False, keep_tensors=keep_tensors
        )
    return Session(
        path, runtime=runtime, threads=threads, delegate=delegate, signature=signature, keep_tensors=keep_tensors
    )


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
