"""A run folder of a translation without its models: real scores, checks and files of made-up answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_dl.bundle import Manifest, Signature, TensorSpec
from edge_dl.checks.limits import limits_for
from edge_dl.checks.translation import (
    Answer,
    ReferenceAnswer,
    ReferenceAnswers,
    Translated,
    compare_translations,
    plain_answers,
    translation_checks,
)
from edge_dl.checks.translation_report import SentenceAlignment
from edge_dl.checks.verdicts import ParityReport, overall
from edge_dl.files import save_npz, write_json
from edge_dl.variants import VariantSpec

WORDS = (
    "le",
    "chat",
    "mange",
    "la",
    "souris",
    "dort",
    "sur",
    "un",
    "lit",
    "rouge",
    "et",
    "puis",
    "très",
    "tard",
    "<b>",
)
LONGEST = 24


def answer(tokens: list[int], *, ended: bool = True) -> Answer:
    return Answer(" ".join(WORDS[token] for token in tokens), tuple(tokens), ended)


def translated_sentences(count: int, wrong: float, forgets: float = 0.0) -> list[ReferenceAnswer]:
    """Sentences of 1 to 16 words, the same ones whatever the rest, and what a Keras model says to them.

    Args:
        count: how many.
        wrong: share of words that are wrong everywhere.
        forgets: share of words that are wrong beyond the eighth.
    """
    truth, errors = np.random.default_rng(0), np.random.default_rng(1)
    made = []
    for _ in range(count):
        tokens = truth.integers(0, len(WORDS), truth.integers(1, 17)).tolist()
        chances, others = errors.random(len(tokens)), errors.integers(0, len(WORDS), len(tokens)).tolist()
        said = [
            other if chance < (forgets if place >= 8 else wrong) else token
            for place, (token, chance, other) in enumerate(zip(tokens, chances, others, strict=True))
        ]
        source = " ".join(f"w{token}" for token in tokens)
        made.append(ReferenceAnswer(source, (answer(tokens).text,), answer(said)))
    return made


def changed(wanted: list[ReferenceAnswer], share: float) -> tuple[Answer, ...]:
    """The Keras model's answers, of which a share has its second half replaced."""
    rng = np.random.default_rng(2)
    answers = []
    for item in wanted:
        tokens = list(item.answer.tokens)
        if rng.random() < share:
            half = len(tokens) // 2
            tokens[half:] = [(token + 1) % len(WORDS) for token in tokens[half:]]
        answers.append(answer(tokens))
    return tuple(answers)


def make_translation_run(
    run: Path,
    *,
    name: str = "translate",
    attention: str = "additive",
    wrong: float = 0.1,
    forgets: float = 0.1,
    variants: dict[str, float] | None = None,
    count: int = 200,
    max_drop: float = 0.005,
) -> Path:
    """Write a run folder.

    Args:
        run: where.
        name: the recipe's.
        attention: of the model, as its recipe says.
        wrong, forgets: see `translated_sentences`.
        variants: by name, the share of sentences in which it differs from Keras.
        count: sentences.
        max_drop: limit of BLEU's loss.
    """
    recipe = {
        "name": name,
        "summary": "Translation",
        "task": "translation",
        "model": {"attention": attention, "family": "seq2seq"},
        "training": {"seed": 1},
    }
    write_json(run / "run.json", {"format": 1, "recipe": recipe, "command": ["edge-dl", "run", name], "stages": {}})
    write_json(
        run / "data" / "dataset.json", {"name": "made", "task": "translation", "synthetic": True, "sha256": name}
    )
    wanted = translated_sentences(count, wrong, forgets)
    ReferenceAnswers(tuple(wanted), LONGEST).write(run / "export" / "translations.json")
    weights = np.eye(3, 4) * 0.7 + 0.1
    alignment = SentenceAlignment(
        ("▁I", "▁love", "▁piz", "za"), ("▁j'", "adore", "▁<b>"), tuple(tuple(map(float, row)) for row in weights)
    )
    for variant, share in (variants or {"decode-float32": 0.0, "decode-int8": 0.1}).items():
        spec = VariantSpec.parse(variant)
        alignments = () if attention == "none" else (alignment,)
        translated = Translated(changed(wanted, share), alignments, 1.5)
        report, metrics, counts = compare_translations(wanted, translated, max_drop=max_drop)
        limits = limits_for(spec.quantization, task="translation")
        checks = translation_checks(report, metrics, limits)
        verdict, message = overall(checks)
        parity = ParityReport(
            variant, spec.quantization.value, "translation", verdict, message, samples=count, checks=checks,
            metrics=metrics, limits=limits, translation=report,
        )  # fmt: skip
        write_json(run / "checks" / f"{variant}.json", parity.to_json())
        write_json(run / "checks" / "translations" / f"{variant}.json", plain_answers(translated))
        save_npz(run / "checks" / "translations" / f"{variant}.npz", counts.arrays())
        manifest = Manifest(
            name=name,
            variant=variant,
            lowering=spec.lowering.value,
            quantization=spec.quantization.value,
            task="translation",
            signature=Signature("decode_step", (TensorSpec("target", (1, 1), "int32"),), (TensorSpec("n", (1, 1, 9)),)),
            limits=limits,
            files={"model.tflite": {"sha256": "0" * 64, "bytes": 90_000 if share == 0 else 30_000}},
        )
        write_json(run / "variants" / variant / "manifest.json", manifest.to_json())
        write_json(run / "variants" / f"{variant}.json", {"variant": variant, "status": "converted", "seconds": 1.0})
    return run
