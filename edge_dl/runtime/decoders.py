"""What a search needs of a model (`Decoder`), from a session of a bundle with an encoder and steps of its decoder."""

from __future__ import annotations

import numpy as np

from edge_dl.errors import UsageError
from edge_dl.runtime.agent import ATTENTION, Session
from edge_dl.text.subwords import PADDING


class SessionDecoder:
    """A `decode` session as a `Decoder`: encodes when the first step tells how many hypotheses there are.

    A step of one hypothesis and one of `beams` are two signatures of the same loaded model.

    Attributes:
        session: what takes one hypothesis a step.
        beams: the most hypotheses that one step takes; 1 where the model was converted without beams.
        steps: tokens of a target in training, its end among them.
        length: tokens of a source that the model takes, its end among them; shorter ones are padded.
        vocabulary: tokens that it tells apart.
        attends: whether it gives its attention.
    """

    def __init__(self, session: Session) -> None:
        """Find out what is what.

        Args:
            session: of a bundle of a `decode` lowering. Names are those of the manifest's `translation`; where there
                is none (a model whose tokens are not known), the output `attention` is that, and another the answer.

        Raises:
            UsageError: a session of another kind; more than one source, input of steps or answer.
        """
        if not session.has_encoder or session.manifest is None:
            raise UsageError(
                "A search needs a model that is cut into an encoder and steps of its decoder.",
                received=f"{session.path}, which is not",
                todo="Name a bundle of the lowering decode or decode-unroll.",
            )
        fed = session.sequence_inputs
        sources = [name for name in session.inputs if name not in fed]
        answers = [name for name in session.outputs if name != ATTENTION]
        named = session.manifest.get("translation") or {}
        if len(sources) != 1 or len(fed) != 1 or (not named and len(answers) != 1) or session.batch != 1:
            raise UsageError(
                "A search needs a model of one source, one target and one answer, and of batch 1.",
                received=f"sources {sources}, targets {list(fed)}, answers {answers}, batch {session.batch}",
            )
        if len(session.inputs[sources[0]].shape) != 2:
            raise UsageError(
                "A search needs a model whose source is tokens, one number each.",
                received=f"{sources[0]!r} of shape {list(session.inputs[sources[0]].shape)}",
            )
        self.session = session
        self._many = session.beam_session() if session.beams else None
        self._running: Session | None = None
        self._source = np.zeros(0, np.int32)
        self._answer = named.get("output", answers[0] if answers else "")
        self._attention = named.get("attention") if named else ATTENTION if ATTENTION in session.outputs else None
        self.beams = session.beams or 1
        self.steps = int(session.manifest["sequence"]["steps"])
        self.length = session.inputs[sources[0]].shape[1]
        self.vocabulary = session.outputs[self._answer].shape[-1]
        self.attends = self._attention is not None

    def begin(self, source: np.ndarray) -> None:
        """Take a source (S,) int32, at most `length` tokens.

        Raises:
            UsageError: it is longer.
        """
        if len(source) > self.length:
            raise UsageError(f"The model takes sources of at most {self.length} tokens.", received=f"{len(source)}")
        self._source = np.full(self.length, PADDING, np.int32)
        self._source[: len(source)] = source
        self._running = None

    def step(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Probabilities (B, V) and attention (B, length) or None after `tokens` (B,); B is 1 or `beams`."""
        running = self._running
        if running is None:
            running = self.session if len(tokens) == 1 else self._many
            if running is None:
                raise UsageError("The model takes one hypothesis a step.", received=f"{len(tokens)}")
            running.encode(self._source)
            self._running = running
        answers = running.step(tokens[:, np.newaxis])
        rows = len(tokens)
        attention = answers[self._attention].reshape(rows, -1) if self._attention else None
        return answers[self._answer].reshape(rows, -1), attention

    def reorder(self, parents: np.ndarray) -> None:
        """Let hypothesis i go on from the states of hypothesis `parents[i]`."""
        if self._running is None:
            raise UsageError("Hypotheses are reordered after a step.", received="no step")
        self._running.reorder(parents)
