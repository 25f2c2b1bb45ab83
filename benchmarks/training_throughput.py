"""Samples a second of edge-dl's training loop against a plain Keras `fit` on the same model and data.

Run from the repository: .venv/bin/python benchmarks/training_throughput.py [--backends tensorflow jax] [--data har.npz]

Both train the same architecture with the same optimizer, loss, metrics, batch size and number of samples; `fit` is
called as its documentation shows it (arrays, `shuffle=True`, `jit_compile="auto"`). Rounds of one and the other take
turns, and the first epoch of each call, which compiles, is left out. Printed are the medians, and the ratio of the two
in a round with a bootstrap interval of its mean over rounds. On a GPU also in mixed
precision.

Input share: for edge-dl the part of an epoch that is spent on order, noise and moving data; for `fit` the time that its
own data adapter takes to hand over an epoch's batches that nobody trains on, as a part of an epoch. The second is an
upper bound where batches are made while the device computes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.files import write_atomic, write_json
from edge_dl.recipe import Recipe, apply_overrides
from edge_dl.runfolder import installed_versions, machine

RESULT = Path(__file__).parent / "results" / "training_throughput"
CASES = {
    "digits-rnn": ("rnn", {}),
    "digits-lstm": ("lstm", {}),
    "digits-gru": ("gru", {}),
    "text-lstm": ("language-model", {"data.limit": 512}),
    "adding-gru-100": ("adding", {"data.samples": 2000}),
}
WINDOWS = ("rnn", "lstm", "gru")


def cases(data: Path | None) -> dict[str, Recipe]:
    from edge_dl.training import RECIPES

    found = {name: apply_overrides(RECIPES[recipe], settings) for name, (recipe, settings) in CASES.items()}
    if data is not None:
        for cell in WINDOWS:
            found[f"windows-{cell}"] = apply_overrides(RECIPES[cell], {"data.source": str(data), "data.limit": 1024})
    return found


class Clock:
    """Seconds of each epoch inside one `fit`."""

    @staticmethod
    def make() -> Any:
        import keras

        class EpochClock(keras.callbacks.Callback):
            def on_train_begin(self, logs: Any = None) -> None:
                self.seconds: list[float] = []

            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                self.started = time.perf_counter()

            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                self.seconds.append(time.perf_counter() - self.started)

        return EpochClock()


def measure(recipe: Recipe, backend: str, mixed: bool, rounds: int, epochs: int) -> dict[str, Any]:
    """Rounds of both in this process, whose backend is `backend`."""
    from edge_dl import data
    from edge_dl.progress import SILENT
    from edge_dl.training.backend import find_device, select_backend
    from edge_dl.training.batches import Augmentation, training_rows
    from edge_dl.training.objectives import loss_and_metrics
    from edge_dl.training.schedules import make_optimizer
    from edge_dl.training.trainer import _Training

    recipe = apply_overrides(recipe, {"training.backend": backend, "training.mixed_precision": mixed})
    select_backend(backend)
    dataset = data.load(recipe.data, recipe.task, seed=0)
    folder = tempfile.mkdtemp()
    ours = _Training(recipe, dataset, Path(folder), SILENT, backend, find_device(backend))
    samples = ours.steps * min(recipe.training.batch_size, len(dataset.train))
    plain = ours._build(ours.precision)
    loss, metrics = loss_and_metrics(recipe.task, recipe.training, dataset, ours.output)
    plain.compile(make_optimizer(recipe.training, ours.steps), loss={ours.output: loss}, metrics={ours.output: metrics})
    train = dataset.train.take(np.arange(samples))
    batch = recipe.training.batch_size
    clock = Clock.make()

    def run_plain() -> list[float]:
        plain.fit(train.x, train.y, batch_size=batch, epochs=epochs + 1, verbose=0, callbacks=[clock])
        return list(clock.seconds[1:])

    waited: list[float] = []
    augment = Augmentation(recipe.training, dataset)
    placed = ours.loop.place(ours.training)

    with SILENT.step("") as bar:

        def run_ours() -> list[float]:
            seconds = []
            for epoch in range(epochs + 1):
                started = time.perf_counter()
                rows = training_rows(recipe.training, len(ours.training), epoch)
                now = ours.loop.place(augment(ours.training, epoch)) if augment else placed
                waited.append(time.perf_counter() - started)
                ours._train_epoch(now, rows, epoch, bar)
                seconds.append(time.perf_counter() - started)
            return seconds[1:]

        run_plain(), run_ours()
        waited.clear()
        both = [(np.median(run_plain()), np.median(run_ours())) for _ in range(rounds)]
    fit_seconds, our_seconds = (np.array(column) for column in zip(*both, strict=True))
    ratios = np.log(fit_seconds / our_seconds)
    rng = np.random.default_rng(0)
    means = np.exp(rng.choice(ratios, (4000, rounds)).mean(axis=1))
    return {
        "device": str(ours.device),
        "precision": ours.precision,
        "steps_per_epoch": ours.steps,
        "batch": batch,
        "fit_samples_per_second": float(samples / np.median(fit_seconds)),
        "edge_dl_samples_per_second": float(samples / np.median(our_seconds)),
        "ratio": float(np.exp(ratios.mean())),
        "ratio_interval": [float(value) for value in np.percentile(means, (2.5, 97.5))],
        "fit_input_share": input_seconds(train, batch, backend) / float(np.median(fit_seconds)),
        "edge_dl_input_share": float(np.median(waited) / np.median(our_seconds)),
        "rounds": rounds,
    }


def input_seconds(train: Any, batch: int, backend: str) -> float:
    """Seconds that Keras' data adapter takes to hand over an epoch's batches; the least of five."""
    from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter

    adapter = ArrayDataAdapter(train.x, train.y, batch_size=batch, shuffle=True)
    found = []
    for _ in range(6):
        batches = adapter.get_tf_dataset() if backend == "tensorflow" else adapter.get_jax_iterator()
        iterator = iter(batches)
        next(iterator)
        started = time.perf_counter()
        for _ in iterator:
            pass
        found.append(time.perf_counter() - started)
    return min(found[1:])


def has_gpu(backend: str) -> bool:
    script = (
        f"from edge_dl.training.backend import *; select_backend({backend!r}); print(find_device({backend!r}).kind)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return found.stdout.split()[-1] != "cpu"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="+", default=["tensorflow", "jax"])
    parser.add_argument("--cases", nargs="+", help="only these")
    parser.add_argument("--data", type=Path, help=".npz of windows, for longer sequences")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=3, help="measured epochs a round")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        backend, name, mixed = arguments.child.split(",")
        recipe = cases(arguments.data)[name]
        print(json.dumps(measure(recipe, backend, mixed == "mixed", arguments.rounds, arguments.epochs)))
        return
    facts = machine()
    head = f"{'case':16} {'backend':11} {'precision':15} {'fit':>9} {'edge-dl':>9} {'ratio':>6} {'interval':>14}"
    lines = [f"$ python {' '.join(sys.argv)}", f"{facts['processor']}, {facts['cores']} cores", "",
             f"{head} {'input fit':>10} {'edge-dl':>8}"]  # fmt: skip
    print("\n".join(lines), flush=True)
    results = []
    for backend in arguments.backends:
        precisions = ("float32", "mixed") if has_gpu(backend) else ("float32",)
        for name in cases(arguments.data):
            if arguments.cases and name not in arguments.cases:
                continue
            for precision in precisions:
                command = [sys.executable, __file__, "--child", f"{backend},{name},{precision}",
                           "--rounds", str(arguments.rounds), "--epochs", str(arguments.epochs)]  # fmt: skip
                if arguments.data is not None:
                    command += ["--data", str(arguments.data)]
                environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
                done = subprocess.run(command, capture_output=True, text=True, env=environment)
                if done.returncode:
                    sys.exit(done.stderr)
                found = json.loads(done.stdout.splitlines()[-1])
                results.append({"case": name, "backend": backend, **found})
                low, high = found["ratio_interval"]
                lines.append(
                    f"{name:16} {backend:11} {found['precision']:15} {found['fit_samples_per_second']:9,.0f} "
                    f"{found['edge_dl_samples_per_second']:9,.0f} {found['ratio']:6.2f} {low:6.2f}-{high:6.2f} "
                    f"{100 * found['fit_input_share']:9.1f}% {100 * found['edge_dl_input_share']:7.2f}%"
                )
                print(lines[-1], flush=True)
    write_atomic(RESULT.with_suffix(".txt"), "\n".join(lines) + "\n")
    write_json(RESULT.with_suffix(".json"), {"machine": facts, "versions": installed_versions(), "results": results})


if __name__ == "__main__":
    main()
