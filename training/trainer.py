"""Training: from a recipe and a data set to a model, resumable at every epoch.

Two runs of one recipe on one machine give the same weights, also when one of them was killed and went on: every epoch's
order, noise and learning rate follow from the seed and the epoch, and everything else is in the checkpoint.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.data.dataset import Dataset
from edge_dl.errors import StageError, UsageError
from edge_dl.files import atomic_path, write_json
from edge_dl.progress import SILENT, Progress, Step
from edge_dl.recipe import Network, Recipe, RecurrentConfig, Task, to_json
from edge_dl.runfolder import digest
from edge_dl.training import checkpoint as checkpoints
from edge_dl.training.backend import (
    Device,
    backend_version,
    choose_precision,
    choose_xla,
    find_device,
    seed_epoch,
    select_backend,
    set_seed,
)
from edge_dl.training.batches import Arrays, Augmentation, balanced, evaluation_rows, training_rows
from edge_dl.training.buckets import Bucket, bucket_runs, padding_share, sentence_buckets
from edge_dl.training.checkpoint import Checkpoint
from edge_dl.training.phases import Phase, phases

Build = Callable[[Task, Network, Dataset], Any]
# A call of the backend cannot be interrupted or watched: calls are sized to take about so long.
_SECONDS_PER_CALL = 0.3
# A checkpoint waits for the disk: not more often than this, and at the end.
_SECONDS_BETWEEN_CHECKPOINTS = 2.0
_MOST_BUCKETS, _BATCHES_PER_BUCKET = 24, 5
# Validation is short: compiling for a shape costs more than some padding.
_EVALUATION_BUCKETS = 6


def train(
    recipe: Recipe,
    dataset: Dataset,
    folder: str | Path,
    progress: Progress = SILENT,
    resume: bool = True,
    build: Build | None = None,
) -> None:
    """Train `recipe` on `dataset` and write `train/` into the run folder `folder`.

    Writes `train/model.keras`, `history.json`, `gradient_flow.json`, `checkpoint/` and `tensorboard/`. A training that
    was interrupted goes on where its last checkpoint stands, with the same result as without the interruption.

    Args:
        recipe: what to train, and how.
        dataset: its training part trains, its validation part steers; the test part is not touched.
        folder: a run folder.
        progress: hears of steps done, with the loss.
        resume: whether to go on from a checkpoint of the same recipe and data.
        build: makes the model, called like `edge_dl.models.build`, which it is where not given. It must give an
            output under the name of the target, and another recipe name where it makes another model of one shape.

    Raises:
        UsageError: a setting does not fit, or the backend cannot be used.
        StageError: the loss is not a number any more. The last good checkpoint is kept.
    """
    folder = Path(folder) / "train"
    backend = select_backend(recipe.training.backend)

    from edge_dl.training.schedules import check_settings

    check_settings(recipe.training)
    device = find_device(backend)
    if recipe.training.use_validation and recipe.training.patience:
        raise UsageError(
            "Early stopping needs a validation part that is not trained on.",
            received="training.use_validation=true with training.patience",
            todo="Set training.patience=0.",
        )
    if recipe.task is Task.EMBEDDING:
        from edge_dl.training.encoder import write_encoder

        progress.say("An encoder is taken as it is: nothing to train")
        model = _build(recipe, dataset, "float32", backend, build)
        named = f"{backend} {backend_version(backend)}"
        write_encoder(model, dataset, folder, {"backend": named, "device": str(device), "precision": "float32"})
        return
    progress.say(f"Training with Keras on {backend} {backend_version(backend)}, {device}")
    _Training(recipe, dataset, folder, progress, backend, device, build).run(resume)


class _Training:
    """One training under way."""

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        folder: Path,
        progress: Progress,
        backend: str,
        device: Device,
        build: Build | None = None,
    ) -> None:
        import keras

        self.recipe, self.config, self.dataset, self.progress = recipe, recipe.training, dataset, progress
        self.folder, self.backend, self.device, self.make = folder, backend, device, build
        self.output = next(iter(dataset.train.y))
        self.training = Arrays.of(dataset.train)
        self.validation = None if self.config.use_validation else Arrays.of(dataset.validation)
        if self.config.use_validation:
            self.training = Arrays.joined(dataset.train, dataset.validation)
        if self.config.balance:
            self.training = balanced(self.training, self.output)
        self.phases = phases(recipe)
        self.epochs = self.phases[-1].last
        self.buckets: list[Bucket] = []
        if dataset.sentences is not None:
            # Compiling for a shape takes seconds: less than a few batches of it are not worth that.
            most = len(self.training) // (_BATCHES_PER_BUCKET * self.config.batch_size)
            self.buckets = sentence_buckets(self.training, most=max(1, min(_MOST_BUCKETS, most)))
            self.padding = padding_share(self.training, self.buckets)
            told = f"{self.padding:.1%} of the tokens are padding"
            progress.say(f"{len(self.buckets)} buckets of sentence lengths: {told}")
        # As many in every epoch.
        plan = self._plan(0)
        self.steps, self.samples = sum(len(rows) for _, rows in plan), sum(rows.size for _, rows in plan)
        self.precision = choose_precision(self.config.mixed_precision, backend, device)
        if self.config.mixed_precision and self.precision == "float32":
            progress.say(f"Mixed precision is no faster on this {device.kind.upper()}: training in float32")

        self.keras = keras
        self.model = self._answering(self._build(self.precision))
        if self.phases[-1].unfrozen:
            from edge_dl.models.transfer import unfreeze

            unfreeze(self.model, self.phases[-1].unfrozen)  # Refused before the head's epochs, not after them.
        self._enter(self.phases[0])

    def _enter(self, phase: Phase) -> None:
        """Start a phase: other layers train, with an optimizer of their own."""
        from edge_dl.training.loops import make_loop
        from edge_dl.training.objectives import loss_and_metrics
        from edge_dl.training.schedules import make_optimizer

        self.phase = phase
        if phase.unfrozen is not None:
            from edge_dl.models.transfer import unfreeze

            unfreeze(self.model, phase.unfrozen)
        self.loss, metrics = loss_and_metrics(self.recipe.task, self.config, self.dataset, self.output)
        # A weight that balances classes must not touch their metrics; one that takes padding out must.
        watched = "weighted_metrics" if self.recipe.task is Task.TRANSLATION else "metrics"
        # `jit_compile` concerns Keras' own `fit`; the loop compiles for itself.
        self.model.compile(
            make_optimizer(phase.config, self.steps),
            loss={self.output: self.loss},
            jit_compile=False,
            **{watched: {self.output: metrics}},
        )
        # Rank 4 are pictures, which no layer walks through step by step.
        time_steps = max(array.shape[1] if array.ndim in (2, 3) else 1 for array in self.training.x.values())
        xla = choose_xla(
            self.config.jit_compile,
            self.backend,
            self.device,
            time_steps=time_steps,
            random=_draws(self.model),
            updates=self.epochs * self.steps,
        )
        sample = Arrays.of(self.dataset.train.take(np.arange(min(2, len(self.dataset.train)))))
        self.loop = make_loop(self.model, self.backend, xla, sample)

    def run(self, resume: bool) -> None:
        """Train, from the last checkpoint where there is one, and write everything."""
        state = self._resume() if resume else None
        if state is None:
            state = Checkpoint(self.fingerprint, 0, [], [], [], state={"untrained": self._gradient_flow()})
        with self._report_interruption(state):
            with self._event_log(state.epoch) as log:
                self._epochs(state, log)
            if state.best:
                self.model.set_weights(state.best)
            with _disk_errors("the trained model"):
                self._write(state)

    @property
    def fingerprint(self) -> str:
        """Digest of everything that decides the weights after an epoch."""
        training = to_json(self.config)
        # How many steps a call runs changes nothing; more epochs change only what a cosine does.
        del training["steps_per_execution"]
        if self.config.schedule != "cosine":
            del training["epochs" if len(self.phases) == 1 else "fine_tune_epochs"]
        return digest(
            {
                "name": self.recipe.name,
                "task": self.recipe.task.value,
                "model": to_json(self.recipe.model),
                "training": training,
                "data": self.dataset.sha256,
                "shapes": {name: list(array.shape) for name, array in {**self.training.x, **self.training.y}.items()},
                "backend": self.backend,
                "precision": self.precision,
            }
        )

    def _build(self, precision: str) -> Any:
        return _build(self.recipe, self.dataset, precision, self.backend, self.make)

    def _answering(self, model: Any) -> Any:
        """The part of `model` that gives what there are targets for: Keras wants a target for every output."""
        if list(model.output) == [self.output]:
            return model
        return self.keras.Model(model.input, {self.output: model.output[self.output]}, name=model.name)

    def _epochs(self, state: Checkpoint, log: Any) -> None:
        from edge_dl.models import widest

        augment = Augmentation(self.config, self.dataset)
        data = None if augment else self._place(self.training)
        checks: list[tuple[Any, list[np.ndarray]]] = []
        if self.validation is not None:
            for part in self._parts(self.validation):
                batches = evaluation_rows(len(part), widest(self.model, part.x))
                checks.append((self.loop.place(part), batches))
        saved = time.monotonic()
        with self.progress.step(f"Training {self.recipe.name}", self.epochs * self.steps) as bar:
            bar.advance(state.epoch * self.steps)
            while state.epoch < self.epochs:
                if self._stale(state):
                    # What is left of this phase; the next one may still find better weights.
                    bar.advance((self.phase.last - state.epoch) * self.steps)
                    state.epoch = self.phase.last
                    continue
                if state.epoch >= self.phase.last:
                    self._next_phase(state)
                started = time.perf_counter()
                self._set_learning_rate(state)
                plan = self._plan(state.epoch)
                placed = self._place(augment(self.training, state.epoch)) if data is None else data
                waited = time.perf_counter() - started
                results = self._train_epoch(placed, plan, state.epoch, bar)
                if checks:
                    evaluated = self._evaluate(checks)
                    results |= {f"validation_{name}": value for name, value in evaluated.items()}
                self._require_finite(results, state.epoch)
                state.epoch += 1
                entry = {
                    "epoch": state.epoch,
                    "seconds": round(time.perf_counter() - started, 4),
                    "input_seconds": round(waited, 4),
                    "learning_rate": float(self.model.optimizer.learning_rate),
                    **{name: value if math.isfinite(value) else None for name, value in results.items()},
                }
                state.history.append(entry)
                self._watch(state, results)
                log({name: value for name, value in entry.items() if name != "epoch"}, state.epoch)
                last = state.epoch == self.epochs or self._stale(state)
                if last or time.monotonic() - saved >= _SECONDS_BETWEEN_CHECKPOINTS:
                    self._save(state)
                    saved = time.monotonic()

    def _next_phase(self, state: Checkpoint) -> None:
        if state.best:
            self.model.set_weights(state.best)
        state.state |= {"plateau": 0, "rate_factor": 1.0}
        self._enter(self._phase_of(state.epoch))

    def _phase_of(self, epoch: int) -> Phase:
        """The phase that trains epoch `epoch`, from 0."""
        return next(phase for phase in self.phases if epoch < phase.last)

    def _plan(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        """What an epoch trains on: (part of the training data, rows within it (steps, batch))."""
        if self.buckets:
            return bucket_runs(self.buckets, self.config.batch_size, self.config.seed, epoch)
        return [(0, training_rows(self.config, len(self.training), epoch))]

    def _parts(self, arrays: Arrays) -> list[Arrays]:
        """Arrays to be evaluated, in parts of one shape."""
        if not self.buckets:
            return [arrays]
        return [bucket.of(arrays) for bucket in sentence_buckets(arrays, most=_EVALUATION_BUCKETS)]

    def _place(self, arrays: Arrays) -> list[Any]:
        """Training data on the device, in the parts that a plan names."""
        return [self.loop.place(bucket.of(arrays)) for bucket in self.buckets] or [self.loop.place(arrays)]

    def _train_epoch(
        self, data: list[Any], plan: list[tuple[int, np.ndarray]], epoch: int, bar: Step
    ) -> dict[str, float]:
        from edge_dl.training.objectives import readable

        count = self.config.steps_per_execution or self._steps_per_call
        most = max(len(rows) for _, rows in plan)
        seed_epoch(self.config.seed, epoch, self.backend)
        self.loop.begin()
        try:
            for part, rows in plan:
                first = 0
                while first < len(rows):
                    last = min(len(rows), first + count)
                    started = time.perf_counter()
                    self.loop.train(data[part], rows, first, last)
                    seconds = time.perf_counter() - started
                    results = self.loop.results()
                    self._require_finite(results, epoch)
                    done = last - first
                    bar.advance(done, f"epoch {epoch + 1}, loss {results['loss']:.4g}")
                    first = last
                    if not self.config.steps_per_execution and done == count:
                        # At most twice as many as before: the first call's time was spent compiling. What lies in the
                        # longest run is the most that one call can do. A run's short rest says nothing.
                        ideal = int(count * _SECONDS_PER_CALL / max(seconds, 1e-6))
                        count = self._steps_per_call = max(1, min(2 * count, ideal, most))
        finally:
            self.loop.finish()
        return readable(results, self.output)

    _steps_per_call = 8

    def _evaluate(self, checks: list[tuple[Any, list[np.ndarray]]]) -> dict[str, float]:
        from edge_dl.training.objectives import readable

        self.loop.begin()
        try:
            for data, batches in checks:
                for rows in batches:
                    self.loop.evaluate(data, rows)
            return readable(self.loop.results(), self.output)
        finally:
            self.loop.finish()

    def _require_finite(self, results: dict[str, float], epoch: int) -> None:
        bad = [name for name in ("loss", "validation_loss") if not math.isfinite(results.get(name, 0.0))]
        if bad:
            raise StageError(
                f"The {bad[0].replace('_', ' ')} must stay a finite number.",
                stage="train",
                received=f"{results[bad[0]]} in epoch {epoch + 1}",
                todo="Lower training.learning_rate or set training.clip_norm; the last good checkpoint is kept.",
            )

    def _watch(self, state: Checkpoint, results: dict[str, float]) -> None:
        """Note the best epoch; halve the learning rate on a plateau."""
        loss = results.get("validation_loss", results["loss"])
        facts = state.state
        if facts.get("best_loss") is None or loss < facts["best_loss"]:
            facts |= {"best_loss": loss, "best_epoch": state.epoch, "plateau": 0}
            if self.config.patience:
                state.best = self.model.get_weights()
            return
        facts["plateau"] += 1
        if self.config.schedule == "plateau" and facts["plateau"] % self.config.plateau == 0:
            facts["rate_factor"] = facts.get("rate_factor", 1.0) / 2

    def _stale(self, state: Checkpoint) -> bool:
        patience = self.config.patience
        best = max(state.state.get("best_epoch", state.epoch), self.phase.first)
        return bool(patience) and self.phase.first <= state.epoch < self.phase.last and state.epoch - best >= patience

    def _set_learning_rate(self, state: Checkpoint) -> None:
        if self.config.schedule == "plateau":
            config = self.phase.config
            warm = min(1.0, (state.epoch - self.phase.first + 1) / max(1, config.warmup))
            rate = config.learning_rate * state.state.get("rate_factor", 1.0) * warm
            self.model.optimizer.learning_rate = rate

    def _variables(self) -> list[Any]:
        # Metrics start each epoch at zero; random seeds are among the variables that do not train.
        return [*self.model.trainable_variables, *self.model.non_trainable_variables]

    def _save(self, state: Checkpoint) -> None:
        numpy = self.keras.ops.convert_to_numpy
        state.variables = [np.asarray(numpy(variable.value)) for variable in self._variables()]
        state.optimizer = [np.asarray(numpy(variable.value)) for variable in self.model.optimizer.variables]
        if not all(np.isfinite(array).all() for array in state.variables):
            raise StageError(
                "Weights must stay finite numbers.",
                stage="train",
                received=f"NaN or infinity after epoch {state.epoch}",
                todo="Lower training.learning_rate or set training.clip_norm; the last good checkpoint is kept.",
            )
        with _disk_errors("the training state"):
            checkpoints.save(state, self.folder / "checkpoint")

    def _resume(self) -> Checkpoint | None:
        state = checkpoints.load(self.folder / "checkpoint")
        if state is None:
            return None
        if state.fingerprint != self.fingerprint:
            self.progress.say("The checkpoint is of other settings or data: training anew")
            return None
        if state.epoch:
            # Optimizer and order of variables are those of the phase that wrote it, also at its very end.
            self._enter(self._phase_of(state.epoch - 1))
        for variables, values in (
            (self._variables(), state.variables),
            (self.model.optimizer.variables, state.optimizer),
        ):
            if [tuple(variable.shape) for variable in variables] != [value.shape for value in values]:
                self.progress.say("The checkpoint is of another model: training anew")
                return None
        for variable, value in zip(self._variables(), state.variables, strict=True):
            variable.assign(value)
        for variable, value in zip(self.model.optimizer.variables, state.optimizer, strict=True):
            variable.assign(value)
        self.progress.say(f"Going on after epoch {state.epoch} of {self.epochs}")
        return state

    def _gradient_flow(self) -> list[float]:
        from edge_dl.training.gradient_flow import gradient_flow

        if not isinstance(self.recipe.model, RecurrentConfig):
            return []  # There is no time for gradients to flow through.
        return gradient_flow(self.model, self.loss, self.dataset)

    @contextlib.contextmanager
    def _event_log(self, epoch: int) -> Iterator[Any]:
        try:
            from edge_dl.training.event_log import EventLog

            log = EventLog(self.folder / "tensorboard", epoch + 1 if epoch else 0)
        except ImportError:
            self.progress.say("No curves for TensorBoard: the tensorboard package is not installed")
            yield lambda values, step: None
            return
        with log:
            yield log.add

    @contextlib.contextmanager
    def _report_interruption(self, state: Checkpoint) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            done = f"{state.epoch} of {self.epochs} epochs"
            self.progress.say(f"Interrupted after {done}: the same command goes on from there")
            raise

    def _write(self, state: Checkpoint) -> None:
        # In float32, whatever precision its weights were found in, and without optimizer and schedule: those are the
        # checkpoint's, and Keras alone could not load a file that names ours.
        model = self._build("float32")
        answering = self._answering(model)
        answering.set_weights(self.model.get_weights())
        for written, trained in zip(answering.layers, self.model.layers, strict=True):
            written.trainable = trained.trainable  # Batch normalization that was kept still stays so when compressed.
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.folder / "model.keras") as temporary:
            model.save(temporary)
        seconds = sum(entry["seconds"] for entry in state.history)
        samples = self.samples * len(state.history)
        facts: dict[str, Any] = {
            "backend": f"{self.backend} {backend_version(self.backend)}",
            "device": str(self.device),
            "precision": self.precision,
            "parameters": int(model.count_params()),
            "best_epoch": state.state.get("best_epoch", state.epoch) if state.best else state.epoch,
            "samples_per_second": round(samples / max(seconds, 1e-9), 1),
            **({"padding": round(self.padding, 4)} if self.buckets else {}),
            "input_share": round(sum(entry["input_seconds"] for entry in state.history) / max(seconds, 1e-9), 4),
        }
        if len(self.phases) > 1:
            facts["phases"] = [{"name": phase.name, "epochs": phase.last - phase.first} for phase in self.phases]
        write_json(self.folder / "history.json", {"epochs": state.history, **facts})
        flow = {"untrained": state.state["untrained"], "trained": self._gradient_flow()}
        if steps := list(range(len(flow["untrained"]))):
            write_json(self.folder / "gradient_flow.json", {"steps": steps, "curves": flow})


def _build(recipe: Recipe, dataset: Dataset, precision: str, backend: str, make: Build | None) -> Any:
    """The recipe's model with its first weights."""
    import keras

    from edge_dl.models import build

    set_seed(recipe.training.seed, backend)
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy(precision)
    try:
        return (make or build)(recipe.task, recipe.model, dataset)
    finally:
        keras.mixed_precision.set_dtype_policy(before)


def _draws(model: Any) -> bool:
    """Whether the model draws random numbers in training."""
    rates = (
        "rate",
        "dropout",
        "recurrent_dropout",
        "time_rate",
        "band_rate",
    )  # Seeds alone tell nothing: recurrent layers always have them.
    layers = model._flatten_layers()
    return any(isinstance(rate := getattr(layer, key, 0), float) and rate > 0 for layer in layers for key in rates)


@contextlib.contextmanager
def _disk_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StageError(
            f"There must be room to write {what}.",
            stage="train",
            received=f"{type(error).__name__}: {error}",
            todo="Make room and run the same command: it goes on from the last checkpoint.",
        ) from error
