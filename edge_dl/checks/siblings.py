"""What a quantized model is compared with, layer by layer: its float32 sibling, and samples that both take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_dl.bundle import MANIFEST, read_bundle
from edge_dl.checks.jobs import chosen_inputs
from edge_dl.checks.layers import LayerReport, measure_layers
from edge_dl.errors import UsageError
from edge_dl.files import load_npz
from edge_dl.names import values_under
from edge_dl.runtime import open_session, run_guarded
from edge_dl.variants import Lowering, Quantization, VariantSpec

TIME_LIMIT = 1800.0
SPLITS = ("validation", "test")  # The first that is there: the test split is for verdicts.


@dataclass(frozen=True)
class Siblings:
    """Two models of one network, and where their samples come from.

    Attributes:
        name: the quantized model's name.
        variant: its bundle's folder, or its .tflite.
        reference: the float32 model, likewise.
        data: .npz of samples; None: the bundle's golden samples.
        run: the run folder that the variant belongs to; None: it stands alone.
    """

    name: str
    variant: Path
    reference: Path
    data: Path | None
    run: Path | None = None


def find_in_run(
    run: str | Path, variant: str, reference: str | Path | None = None, data: str | Path | None = None
) -> Siblings:
    """A variant of a run folder, with the float32 variant of the same lowering and the validation split.

    Args:
        run: the run folder.
        variant: the variant's name.
        reference: another float32 model.
        data: other samples.

    Raises:
        UsageError: no such variant, it is the float32 one, or there is no float32 model of its lowering.
    """
    folder = Path(run)
    there = sorted(path.parent.name for path in folder.glob(f"variants/*/{MANIFEST}"))
    if variant not in there:
        raise UsageError(
            "The variant must exist in the run folder.",
            received=f"{variant!r}" if variant else "no variant's name",
            todo=f"There are: {', '.join(there) or 'none; run `edge-dl convert`'}.",
        )
    bundle = folder / "variants" / variant
    manifest = read_bundle(bundle).manifest
    if manifest.quantization == Quantization.FLOAT32.value:
        raise _is_float(str(bundle))
    lowering = Lowering(manifest.lowering)
    sibling = folder / "variants" / VariantSpec(lowering, Quantization.FLOAT32).name
    raw = folder / "export" / lowering.value / "float32.tflite"
    if reference is None:
        # The export's own file does for a whole model; one with states needs a bundle, which knows them.
        found = [sibling] if (sibling / MANIFEST).is_file() else [raw] if raw.is_file() else []
        if not found or (found[0] == raw and lowering in (Lowering.STEP, Lowering.STREAM)):
            raise UsageError(
                "A variant is compared with the float32 variant of its lowering.",
                received=f"{folder} without {sibling.name}",
                todo=f"Make it (conversion.quantizations={sibling.name.split('-')[-1]},...), or name a float32 .tflite "
                "with --reference.",
            )
        reference = found[0]
    splits = [path for name in SPLITS if (path := folder / "data" / f"{name}.npz").is_file()]
    chosen = Path(data) if data is not None else splits[0] if splits else None
    return Siblings(variant, bundle, Path(reference), chosen, folder)


def find_alone(path: str | Path, reference: str | Path | None, data: str | Path | None) -> Siblings:
    """A bundle or a .tflite that stands anywhere.

    A bundle in the variants/ of a run folder is that run's variant.

    Args:
        path: the quantized model.
        reference: its float32 model; needed unless the bundle belongs to a run.
        data: .npz of inputs, x/<input> or <input>; needed for a .tflite, a bundle has golden samples.

    Raises:
        UsageError: something that is needed was not given.
    """
    path = Path(path)
    run = path.resolve().parent.parent
    if path.is_dir() and path.resolve().parent.name == "variants" and (run / "export").is_dir():
        return find_in_run(run, path.resolve().name, reference, data)
    if reference is None:
        raise UsageError(
            "A quantized model is compared with its float32 sibling.",
            received=f"{path} without --reference",
            todo="Name the float32 .tflite of the same network, or a variant of a run folder, which has one.",
        )
    if data is None and not path.is_dir():
        raise UsageError(
            "A bare .tflite needs samples to run on.",
            received=f"{path} without --data",
            todo="Name an .npz of inputs (x/NAME).",
        )
    name = path.resolve().name if path.is_dir() else path.stem
    return Siblings(name, path, Path(reference), None if data is None else Path(data))


def measure(siblings: Siblings, samples: int, *, time_limit: float = TIME_LIMIT) -> LayerReport:
    """Compare the two on so many samples, evenly taken, in a child process: a model may crash the runtime.

    Raises:
        UsageError: the data does not fit, or the two models do not.
        StageError: a model cannot be loaded or run, or it took too long.
    """
    report: LayerReport = run_guarded(
        "edge_dl.checks.siblings:measure_here", (siblings, samples), timeout=time_limit, stage="debug",
        variant=siblings.name,
    )  # fmt: skip
    return report


def measure_here(siblings: Siblings, samples: int) -> LayerReport:
    """`measure` in this process."""
    names = list(open_session(siblings.variant).inputs)
    if siblings.data is None:
        arrays, where = read_bundle(siblings.variant).golden()[0], "golden samples"
    else:
        loaded = load_npz(siblings.data)
        arrays, where = values_under(loaded, "x/") or loaded, str(siblings.data)
    inputs = chosen_inputs(arrays, names, where)
    count = len(next(iter(inputs.values())))
    rows = np.unique(np.linspace(0, count - 1, min(samples, count)).round().astype(int))
    return measure_layers(
        siblings.variant,
        siblings.reference,
        {name: value[rows] for name, value in inputs.items()},
        names=(siblings.name, _shown(siblings.reference, siblings.run)),
    )


def _shown(path: Path, run: Path | None) -> str:
    """A path as the reader of a run folder's files knows it."""
    if run is not None and path.is_relative_to(run):
        return str(path.relative_to(run))
    return str(path)


def _is_float(what: str) -> UsageError:
    return UsageError(
        "A quantized model is compared with its float32 sibling, layer by layer.",
        received=f"{what}, which is the float32 one",
        todo="Name another variant, such as int8.",
    )
