"""How good a translator is on its test sentences: with and without attention, in every variant, greedy and with beams.

    edge-dl run translate --data fra_eng.zip --set data.vocabulary=4000 --set data.window=32 --set training.epochs=7
    edge-dl run seq2seq ...the same... --set conversion.quantizations=float32
    .venv/bin/python benchmarks/translation_quality.py runs/translate runs/seq2seq

Reads what `verify` counted sentence by sentence. BLEU and chrF are sacrebleu's, on text as it is read, against all
references of a sentence; intervals are paired bootstrap intervals over sentences (Koehn 2004). With beams, the bundles
of the first run translate anew, as many hypotheses as they were converted for.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from edge_dl.bundle import read_bundle
from edge_dl.checks.corpus_scores import corpus_scores
from edge_dl.checks.translation_pairs import Difference, TranslatedRun, compare_lengths, difference
from edge_dl.files import read_json, write_atomic, write_json
from edge_dl.runfolder import installed_versions, machine
from edge_dl.runtime import Translator
from edge_dl.runtime.search import Search
from edge_dl.text import Tables

RESULT = Path(__file__).parent / "results" / "translation_quality"


def trained(run: Path) -> str:
    """What a run trained on and how long, in words."""
    history, recipe = read_json(run / "train" / "history.json"), read_json(run / "run.json")["recipe"]
    last = history["epochs"][-1]
    seconds = sum(entry["seconds"] for entry in history["epochs"])
    model = recipe["model"]
    return (
        f"{recipe['name']}: {model['cell']} {'x'.join(map(str, model['units']))}, attention {model['attention']}, "
        f"{history['parameters']:,} parameters; {len(history['epochs'])} epochs in {seconds / 60:.0f} min "
        f"({seconds / len(history['epochs']) / 60:.1f} an epoch) on {history['device']}, {history['backend']}; "
        f"{history['padding']:.1%} padding; validation perplexity {last['validation_perplexity']:.2f}"
    )


def lost(score: str, first: Any, second: Any) -> Difference:
    found = difference(score, first, second)
    assert found is not None
    return found


def beam_scores(bundle: Path, tables: Tables, sentences: list[tuple[str, tuple[str, ...]]], beams: int) -> list[float]:
    """BLEU and chrF, 0 to 100, with beams; a source too long for the model is cut."""
    translator = Translator(bundle)
    longest = translator.length - 1
    texts = []
    for source, _ in sentences:
        tokens = tables.source.segment(source)
        cut = "".join(part for _, part in tokens[:longest]) if len(tokens) > longest else source
        texts.append(translator.translate(cut, Search(beams=beams), split=False)[0].text)
    scores = []
    for score in corpus_scores():
        rows = score.rows(texts, [references for _, references in sentences])
        scores.append(100 * float(score.value(rows.sum(axis=0))))
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("without", type=Path, nargs="?", help="the same network without attention")
    parser.add_argument("--beams", nargs="*", default=["decode-float32", "decode-dynamic"], help="variants to ask so")
    parser.add_argument("--out", type=Path, default=RESULT, help="results to write, without an ending")
    options = parser.parse_args()
    run = TranslatedRun(options.run)
    facts = machine()
    lines = [
        f"$ python benchmarks/translation_quality.py {' '.join(sys.argv[1:])}",
        trained(options.run),
        f"{len(run.sentences)} sentences, {sum(len(references) for _, references in run.sentences)} references; greedy",
        "",
        f"{'':24} {'KB':>7} {'BLEU':>6} {'less than Keras':>16} {'interval':>14} {'chrF':>6} {'identical':>10}",
    ]
    results: dict[str, Any] = {"variants": [], "beams": [], "lengths": []}
    for name in run.variants:
        report = read_json(options.run / "checks" / f"{name}.json")["translation"]
        counts = run.variants[name]
        bleu, chrf = (lost(kind, counts.reference, counts.variant) for kind in ("bleu", "chrf"))
        size = (options.run / "variants" / name / "model.tflite").stat().st_size
        share = report["identical"] / report["sentences"]
        results["variants"].append(
            {"variant": name, "bytes": size, "bleu": bleu.second, "loss": bleu.loss, "chrf": chrf.second,
             "interval": [bleu.interval.low, bleu.interval.high], "identical": share}
        )  # fmt: skip
        lines.append(
            f"{name:24} {size / 1024:7.0f} {100 * bleu.second:6.2f} {100 * bleu.loss:16.2f} "
            f"{100 * bleu.interval.low:6.2f} to {100 * bleu.interval.high:4.2f} {100 * chrf.second:6.2f} {share:10.1%}"
        )
    tables = Tables.read(options.run / "data" / "text.json")
    for name in options.beams:
        bundle = options.run / "variants" / name
        spec = read_bundle(bundle).manifest.beams
        assert spec is not None
        bleu_score, chrf_score = beam_scores(bundle, tables, run.sentences, spec.count)
        results["beams"].append({"variant": name, "beams": spec.count, "bleu": bleu_score, "chrf": chrf_score})
        lines.append(f"{name + f', {spec.count} beams':24} {'':7} {bleu_score:6.2f} {'':32} {chrf_score:6.2f}")
    if options.without:
        other = TranslatedRun(options.without)
        lines += [
            "",
            trained(options.without),
            "BLEU of the Keras models, greedy, by words of the source:",
            f"{'words':>10} {'sentences':>10} {'without':>8} {'with':>6} {'gain':>6} {'interval':>14}",
        ]
        groups = [
            ("all" if not first else f"{first} to {last}" if last else f"{first} on", item)
            for first, last, item in compare_lengths(run, other)
        ]
        for label, item in groups:
            results["lengths"].append({"words": label, "with": item.first, "without": item.second, "gain": item.loss,
                                       "interval": [item.interval.low, item.interval.high]})  # fmt: skip
            lines.append(
                f"{label:>10} {item.sentences:>10} {100 * item.second:8.2f} {100 * item.first:6.2f} "
                f"{100 * item.loss:6.2f} {100 * item.interval.low:6.2f} to {100 * item.interval.high:4.2f}"
            )
    lines += ["", f"{facts['processor']}, {facts['cores']} cores"]
    text = "\n".join(lines) + "\n"
    print(text)
    write_atomic(options.out.with_suffix(".txt"), text)
    write_json(
        options.out.with_suffix(".json"), {"machine": facts, "versions": installed_versions(), "results": results}
    )


if __name__ == "__main__":
    main()
