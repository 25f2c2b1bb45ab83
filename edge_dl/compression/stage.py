"""The compress stage: a trained Keras model in, a smaller Keras model out, with proof of what was kept.

Writes into the run folder's compress/:

    model.keras        the Keras 3 model with the compressed weights
    qat/               SavedModel and record of the quantization-aware model, for the variant `qat`
    history.json       every method's epochs
    compression.json   what was done to which layer, sizes, metrics before and after
    checkpoint/        what each finished method left: a stage that was interrupted goes on after it
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from edge_dl.bundle import Signature, TensorSpec
from edge_dl.checks.comparison import compare_metric
from edge_dl.checks.metrics import Target, metrics_for, prepare_target, task_beside
from edge_dl.compression import kernels
from edge_dl.compression.bridge import Bridge, Weights, answers, load
from edge_dl.compression.clustering import cluster
from edge_dl.compression.kernels import Kernel
from edge_dl.compression.phase import Phase
from edge_dl.compression.pruning import prune
from edge_dl.compression.quantizing import quantize, rounded_weights
from edge_dl.compression.settings import check_settings, ordered
from edge_dl.compression.tuning import Part, judge, loss_values, make_loss, tune
from edge_dl.converters.exporting import Export, save_signature, trace_signature, versions
from edge_dl.converters.jobs import split_inputs
from edge_dl.converters.loading import load_model
from edge_dl.data.dataset import Dataset, Split
from edge_dl.errors import StageError, UsageError
from edge_dl.files import atomic_path, sha256_file, write_json
from edge_dl.progress import SILENT, Progress
from edge_dl.recipe import Method, Recipe, to_json
from edge_dl.runfolder import digest
from edge_dl.training import checkpoint as checkpoints
from edge_dl.training.batches import Arrays, Augmentation, balanced, training_rows
from edge_dl.training.checkpoint import Checkpoint
from edge_dl.variants import Lowering

FOLDER = "compress"
MODEL = "model.keras"
QAT = "qat"
RECORD = "compression.json"
PROOF_SAMPLES = 256
# What else decides a method's result, beside those before it.
_SETTINGS = {
    Method.PRUNE: ("sparsity", "schedule", "begin", "end"),
    Method.CLUSTER: ("clusters",),
    Method.QAT: (),
}


def compress(
    recipe: Recipe,
    dataset: Dataset,
    source: Path,
    folder: Path,
    *,
    custom: Sequence[str] = (),
    unsafe: bool = False,
    progress: Progress = SILENT,
) -> None:
    """Compress a trained model by the methods that the recipe names, and write `folder`.

    Args:
        recipe: `compression` says what to do, `training` the batch size, seed, random changes and clipping.
        dataset: its training part trains, its validation part shows how it goes, on its test part the model before and
            the one after are compared.
        source: the model: .keras or .h5. It is read only.
        folder: where the results go.
        custom: the user's classes as "module:name".
        unsafe: whether Lambda layers may run.
        progress: hears of steps done.

    Raises:
        UsageError: a setting is wrong, or the data does not fit the model.
        RefusedError: a layer cannot be carried to tf-keras, or a method finds no layer; it is named.
        StageError: training failed, or did not keep what it must keep.
    """
    check_settings(recipe.compression, recipe.task)
    _Compression(recipe, dataset, source, folder, custom, unsafe, progress).run()


class _Compression:
    """One compression under way."""

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        source: Path,
        folder: Path,
        custom: Sequence[str],
        unsafe: bool,
        progress: Progress,
    ) -> None:
        self.recipe, self.config, self.folder, self.progress = recipe, recipe.compression, folder, progress
        self.methods = ordered(self.config)
        self.source_hash = sha256_file(source) if source.is_file() else str(source)
        self.model = load_model(source, custom=custom, unsafe=unsafe)
        shapes = {name: array.shape[1:] for name, array in dataset.train.x.items()}
        if len(self.model.inputs) == 1 and len(shapes) == 1:
            shapes = {self.model.inputs[0].name: next(iter(shapes.values()))}
        self.bridge = Bridge(self.model, shapes)
        self.inputs = [spec.name for spec in self.bridge.inputs]
        self.outputs = self.bridge.outputs
        self.kinds = {layer.name: type(layer).__name__ for layer in self.bridge.model.layers}
        _require_names(self.config.skip, list(self.kinds))
        self.dataset = self._renamed(dataset)
        few = {name: array[:PROOF_SAMPLES] for name, array in self.dataset.train.x.items()}
        self.proof = few
        self.before = self.bridge.prove(few)
        self.reference = answers(self.model, [self.dataset.test.x[name] for name in self.inputs])
        whole = self.recipe.training.use_validation
        training = (
            Arrays.joined(self.dataset.train, self.dataset.validation) if whole else Arrays.of(self.dataset.train)
        )
        if self.recipe.training.balance:
            training = balanced(training, self.outputs[0])
        self.training = self._part(training)
        self.validation = None if whole else self._part(Arrays.of(self.dataset.validation))
        self.history: list[dict[str, Any]] = []
        self.phases: list[dict[str, Any]] = []
        self.kernels: dict[Method, list[Kernel]] = {}
        self.touched: dict[Method, tuple[str, ...]] = {}

    def run(self) -> None:
        """Do every method, and write the results."""
        self.progress.say(
            f"Compressing by {', '.join(self.methods)}: an equal tf-keras model answers within {self.before:.1g}"
        )
        first = self.bridge.read_source()
        weights = first
        trained = self._judge(self.bridge.model)
        qat: Phase | None = None
        for place, method in enumerate(self.methods):
            phase = self._wrap(method, weights)
            for name, reason in phase.left_alone.items():
                if self._has_weights(name):
                    self.progress.say(f"{method.value} leaves layer {name!r} as it is: {reason}")
            self._train(phase, place)
            weights = phase.read()
            if method is Method.QAT:
                qat = phase
            self._measure(method, weights, phase)
        self.bridge.write_back({name: arrays for name, arrays in weights.items() if arrays})
        load(self.bridge.model, weights)
        after = self.bridge.prove(self.proof)
        self.folder.mkdir(parents=True, exist_ok=True)
        if qat is not None:
            self._save_qat(qat)
        with atomic_path(self.folder / MODEL) as temporary:
            self.model.save(temporary)
        write_json(self.folder / "history.json", {"trained": trained, "phases": self.history})
        record = {
            "methods": [method.value for method in self.methods],
            "settings": to_json(self.config),
            "learning_rate": self.learning_rate,
            "bridge": {"samples": len(next(iter(self.proof.values()))), "before": self.before, "after": after},
            "weights": {"before": kernels.sizes(first), "after": kernels.sizes(weights)},
            "phases": self.phases,
            "metrics": self._compare(),
        }
        write_json(self.folder / RECORD, record)

    @property
    def learning_rate(self) -> float:
        """The first learning rate of each method."""
        training = self.recipe.training
        # The rate of a head alone is far too high for the backbone below it.
        usual = training.fine_tune_rate if training.fine_tune_epochs else training.learning_rate / 10
        return self.config.learning_rate or usual

    def _wrap(self, method: Method, weights: Weights) -> Phase:
        pruned, clustered = Method.PRUNE in self.methods, Method.CLUSTER in self.methods
        if method is Method.PRUNE:
            steps = len(training_rows(self.recipe.training, len(self.training.arrays), 0)) * self.config.epochs
            return prune(self.bridge, weights, self.config, steps)
        if method is Method.CLUSTER:
            return cluster(self.bridge, weights, self.config, keep_zeros=pruned)
        return quantize(self.bridge, weights, self.config, keep_zeros=pruned, keep_clusters=clustered)

    def _train(self, phase: Phase, place: int) -> None:
        """Train a phase, or take what an earlier, interrupted run of the same has left."""
        method = self.methods[place]
        folder = self.folder / "checkpoint" / method.value
        key = self._fingerprint(place)
        state = checkpoints.load(folder)
        if state is not None and state.fingerprint == key:
            self.progress.say(f"{method.value}: trained before")
            phase.model.set_weights(state.variables)
            self.history.append({"method": method.value, "epochs": state.history})
            return
        history = tune(
            phase,
            method.value,
            inputs=self.inputs,
            outputs=self.outputs,
            training=self.training,
            validation=self.validation,
            config=self.recipe.training,
            epochs=self.config.epochs,
            learning_rate=self.learning_rate,
            augment=Augmentation(self.recipe.training, self.dataset),
            progress=self.progress,
        )
        self.history.append({"method": method.value, "epochs": history})
        state = Checkpoint(key, len(history), history, phase.model.get_weights(), [])
        checkpoints.save(state, folder)

    def _fingerprint(self, place: int) -> str:
        """Digest of everything that decides the weights after the method at `place`."""
        names = [name for method in self.methods[: place + 1] for name in ("epochs", "skip", *_SETTINGS[method])]
        config = to_json(self.config)
        return digest(
            {
                "model": self.source_hash,
                "data": self.dataset.sha256,
                "training": to_json(self.recipe.training),
                "methods": [method.value for method in self.methods[: place + 1]],
                "settings": {name: config[name] for name in names},
                "learning_rate": self.learning_rate,
            }
        )

    def _measure(self, method: Method, weights: Weights, phase: Phase) -> None:
        """Note what a method has reached, and hold it to what it must reach and keep.

        Raises:
            StageError: a kernel has fewer zeros or more values than it must have.
        """
        self.kernels[method] = kernels.measure(weights, self.kinds)
        self.touched[method] = phase.touched
        rounded = kernels.measure(rounded_weights(phase.model), self.kinds) if method is Method.QAT else []
        self.phases.append(
            {
                "method": method.value,
                "touched": list(phase.touched),
                "left_alone": {name: reason for name, reason in phase.left_alone.items() if self._has_weights(name)},
                "zeros": round(kernels.zeros(self.kernels[method]), 6),
                "kernels": [kernels.to_json(kernel) for kernel in self.kernels[method]],
                "rounded": [kernels.to_json(kernel) for kernel in rounded],
                **kernels.sizes(weights),
            }
        )
        if broken := kernels.broken_promises(self.kernels, self.touched, self.config):
            raise StageError(
                "A method must reach what is asked for, and keep what those before it have reached.",
                stage="compress",
                received="; ".join(broken),
            )

    def _has_weights(self, name: str) -> bool:
        return bool(self.bridge.model.get_layer(name).weights)

    def _judge(self, model: Any) -> dict[str, float]:
        part = self.validation or self.training
        losses = [make_loss(part.targets[name], part.arrays.y[name], self.recipe.training) for name in self.outputs]
        return judge(model, losses, part, self.inputs, self.outputs)

    def _compare(self) -> list[dict[str, Any]]:
        """Task metrics on the test part: of the trained model, and of the compressed one."""
        test = self.dataset.test
        given = answers(self.model, [test.x[name] for name in self.inputs])
        targets = self._targets(Arrays.of(test), self.reference)
        found = []
        for output, before, after in zip(self.outputs, self.reference, given, strict=True):
            for number, metric in enumerate(metrics_for(targets[output])):
                compared = compare_metric(
                    metric, output, before, after, targets[output],
                    max_drop=self.recipe.checks.max_drop if number == 0 else None,
                )  # fmt: skip
                value = dataclasses.asdict(compared)
                found.append(value | {"verdict": compared.verdict.value if compared.verdict else None})
        return found

    def _save_qat(self, phase: Phase) -> None:
        """The quantization-aware model as an export: same names and shapes as the Keras model's own."""
        batch = self.recipe.conversion.batch
        specs = tuple(TensorSpec(spec.name, (batch, *spec.shape[1:]), spec.dtype) for spec in self.bridge.inputs)
        model = phase.model

        def predict(**tensors: Any) -> dict[str, Any]:
            given = model([tensors[name] for name in self.inputs], training=False)
            flat = list(given) if isinstance(given, (list, tuple)) else [given]
            return {name: tf.identity(value) for name, value in zip(self.outputs, flat, strict=True)}

        concrete = trace_signature(predict, specs)
        outputs = tuple(
            TensorSpec(
                name, tuple(concrete.structured_outputs[name].shape), concrete.structured_outputs[name].dtype.name
            )
            for name in self.outputs
        )
        names = dict(zip(self.inputs, self.inputs, strict=True))
        save_signature(
            concrete,
            Export(
                folder=self.folder / QAT,
                lowering=Lowering.NONE,
                batch=batch,
                signature=Signature("predict", specs, outputs),
                keras_inputs=names,
                keras_outputs={name: name for name in self.outputs},
                made_by=versions(),
            ),
        )

    def _renamed(self, dataset: Dataset) -> Dataset:
        """The data set with inputs and outputs by the model's own names.

        Raises:
            UsageError: an input or an output's true answers are missing.
        """

        def split(part: Split) -> Split:
            x = split_inputs({f"x/{name}": array for name, array in part.x.items()}, self.bridge.inputs)
            y, weight = part.y, part.weight
            if len(y) == 1 and len(self.outputs) == 1:
                name = next(iter(y))
                y = {self.outputs[0]: y[name]}
                weight = {self.outputs[0]: weight[name]} if weight and name in weight else None
            missing = [name for name in self.outputs if name not in y]
            if missing:
                raise UsageError(
                    "Every output must have true answers to be trained on.",
                    received=f"answers for {', '.join(part.y) or 'nothing'}; outputs: {', '.join(self.outputs)}",
                    todo=f"Missing: {', '.join(missing)}.",
                )
            return Split(x, {name: y[name] for name in self.outputs}, part.index, weight)

        return dataclasses.replace(
            dataset, train=split(dataset.train), validation=split(dataset.validation), test=split(dataset.test)
        )

    def _targets(self, arrays: Arrays, given: Sequence[np.ndarray]) -> dict[str, Target]:
        task = self.recipe.task
        targets: dict[str, Target] = {}
        for output, answer in zip(self.outputs, given, strict=True):
            values = arrays.y[output]
            own = task if not targets else task_beside(task, answer, values)
            weight = (arrays.weight or {}).get(output)
            targets[output] = prepare_target(answer, values, task=own, name=output, weight=weight)
        return targets

    def _part(self, arrays: Arrays) -> Part:
        """Samples with their targets in the form that losses and metrics take."""
        # What kind of answers a model gives shows on a few samples; the shape of all is known from these.
        count = len(arrays)
        few = answers(self.model, [arrays.x[name][:PROOF_SAMPLES] for name in self.inputs])
        given = [np.resize(answer, (count, *answer.shape[1:])) for answer in few]
        targets = self._targets(arrays, given)
        y = {name: loss_values(targets[name], answer) for name, answer in zip(self.outputs, given, strict=True)}
        return Part(Arrays(arrays.x, y, arrays.weight), targets)


def _require_names(skip: Sequence[str], names: Sequence[str]) -> None:
    unknown = [name for name in skip if name not in names]
    if unknown:
        raise UsageError(
            "compression.skip must name layers of the model.",
            received=", ".join(unknown),
            todo=f"Layers: {', '.join(names)}.",
        )
