"""Labels that stand for no word: one rule for what never fires, what is noise to mix in, and what is in no string."""

from __future__ import annotations

# Names of classes whose sounds hold no speech, and of those that gather all other words; as Speech Commands has them.
NOISE = frozenset({"silence", "noise", "background", "background_noise"})
UNKNOWN = frozenset({"unknown", "unk"})


def is_noise(label: str) -> bool:
    """Whether sounds of this class are silence or noise: `_silence_`, `Noise`, `background noise` and the like."""
    return _bare(label) in NOISE


def is_word(label: str) -> bool:
    """Whether a label is a word that can be said.

    It is none where it stands between underscores, as `_silence_`, `_unknown_` and `_blank_` do, or is called silence,
    noise, background or unknown without them.
    """
    marked = len(label) > 1 and label.startswith("_") and label.endswith("_")
    return not marked and _bare(label) not in NOISE | UNKNOWN


def _bare(label: str) -> str:
    return label.lower().replace(" ", "_").replace("-", "_").strip("_")
