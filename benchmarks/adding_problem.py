"""The adding problem (Hochreiter & Schmidhuber 1997): how far back SimpleRNN, LSTM and GRU can learn from.

Run from the repository: .venv/bin/python benchmarks/adding_problem.py [--lengths 50 100 200 400] [--backend jax]

A sequence of random numbers has two of them marked; the answer is their sum. Answering the mean always has a squared
error of 1/6 = 0.167; below 0.01 the problem counts as solved. For each length and network the table says the error on
the test part, the updates that were made until the validation error was below 0.01, and how much of the gradient of
the loss reaches the first tenth of the sequence, beside its last tenth, before and after training.

Networks: `rnn` (tanh, orthogonal), `lstm`, `gru`; and `relu-rnn`, a SimpleRNN of rectified units that starts as the
identity (Le, Jaitly & Hinton 2015), whose gradients explode, once with its gradient clipped and once without
(Pascanu, Mikolov & Bengio 2013). Gates of `lstm` and `gru` start open for about the length of the sequence (chrono
initialisation, Tallec & Ollivier 2018). Training stops when the problem is solved.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.data import Dataset, load
from edge_dl.errors import StageError
from edge_dl.files import write_atomic, write_json
from edge_dl.recipe import Recipe, RecurrentConfig, Task, apply_overrides
from edge_dl.runfolder import installed_versions, machine
from edge_dl.training import RECIPES, train

RESULT = Path(__file__).parent / "results" / "adding_problem"
SOLVED = 0.01
CHANCE = 1 / 6
NETWORKS = ("rnn", "lstm", "gru", "relu-rnn", "relu-rnn-unclipped")


def build(task: Task, config: RecurrentConfig, dataset: Dataset) -> Any:
    """The recipe's network, with gates that remember for about as long as the sequences are."""
    from edge_dl import models

    model = models.build(task, config, dataset)
    steps = dataset.train.x["sequence"].shape[1]
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if not hasattr(layer, "cell"):
            continue
        kernel, recurrent, bias = layer.get_weights()
        units = recurrent.shape[0]
        memory = np.log(rng.uniform(1, steps - 1, units))
        if config.cell == "lstm":  # Gates in Keras' order: input, forget, cell, output.
            bias[:units], bias[units : 2 * units] = -memory, memory
        else:  # GRU: update, reset, candidate; its update gate says what stays.
            bias[0, :units] = memory
        layer.set_weights([kernel, recurrent, bias])
    return model


def build_relu(task: Task, config: RecurrentConfig, dataset: Dataset) -> Any:
    """A SimpleRNN of rectified units whose recurrent matrix starts as the identity."""
    import keras

    inputs = {"sequence": keras.Input(dataset.train.x["sequence"].shape[1:], name="sequence")}
    small = keras.initializers.RandomNormal(stddev=0.001, seed=1)
    layer = keras.layers.SimpleRNN(
        config.units[0], activation="relu", recurrent_initializer="identity", kernel_initializer=small, name="rnn_1"
    )
    return keras.Model(inputs, {"value": keras.layers.Dense(1, name="value")(layer(inputs["sequence"]))})


def recipe_of(network: str, length: int, arguments: argparse.Namespace) -> Recipe:
    cell = "rnn" if "rnn" in network else network
    rate = {"rnn": 1e-3, "lstm": 3e-3, "gru": 3e-3}[cell]
    overrides = {
        "name": network,
        "data.length": length,
        "data.samples": arguments.samples,
        "model.cell": cell,
        "model.units": arguments.units,
        "training.backend": arguments.backend,
        "training.epochs": arguments.epochs,
        "training.schedule": "constant",
        "training.learning_rate": rate,
        "training.clip_norm": 0.0 if network.endswith("unclipped") else 1.0,
    }
    return apply_overrides(RECIPES["adding"], overrides)


def reach(curve: list[float]) -> float:
    """Gradient at the first tenth of the sequence beside that at its last tenth."""
    tenth = max(1, len(curve) // 10)
    return float(np.mean(curve[:tenth]) / max(np.mean(curve[-tenth:]), 1e-300))


def run(network: str, length: int, arguments: argparse.Namespace) -> dict[str, Any]:
    recipe = recipe_of(network, length, arguments)
    dataset = load(recipe.data, recipe.task, seed=0)
    folder = arguments.runs / f"{network}-{length}"
    found: dict[str, Any] = {"network": network, "length": length}
    make = build_relu if network.startswith("relu") else build if network in ("lstm", "gru") else None
    epochs = recipe.training.epochs
    # Trained in pieces: a training of more epochs goes on from its checkpoint, and stops here once it is solved.
    for until in range(arguments.piece, epochs + arguments.piece, arguments.piece):
        piece = dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, epochs=min(until, epochs)))
        try:
            train(piece, dataset, folder, build=make)
        except StageError as error:
            return {**found, "exploded": str(error)}
        history = json.loads((folder / "train" / "history.json").read_text())["epochs"]
        if history[-1]["validation_rmse"] ** 2 < SOLVED:
            break
    flow = json.loads((folder / "train" / "gradient_flow.json").read_text())["curves"]
    updates = len(dataset.train) // recipe.training.batch_size
    solved = [entry["epoch"] for entry in history if entry["validation_rmse"] ** 2 < SOLVED]
    return {
        **found,
        "test_error": squared_error(folder, dataset),
        "updates": updates * len(history),
        "solved_after": updates * solved[0] if solved else None,
        "seconds": round(sum(entry["seconds"] for entry in history), 1),
        "reach_untrained": reach(flow["untrained"]),
        "reach_trained": reach(flow["trained"]),
        "largest_loss": max(entry["loss"] for entry in history),
    }


def run_all(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What each training found, in the order of the table."""
    wanted = [(network, length) for length in arguments.lengths for network in arguments.networks]
    if arguments.jobs == 1:
        yield from (run(network, length, arguments) for network, length in wanted)
        return
    # Inherited by the processes below; without it each would start a thread a core.
    os.environ.update(OMP_NUM_THREADS="1", TF_NUM_INTRAOP_THREADS="1", XLA_FLAGS="--xla_cpu_multi_thread_eigen=false")
    with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        # The longest first, so that none of them is left to the end alone.
        waiting = {pair: pool.submit(run, *pair, arguments) for pair in sorted(wanted, key=lambda pair: -pair[1])}
        yield from (waiting[pair].result() for pair in wanted)


def squared_error(folder: Path, dataset: Dataset) -> float:
    import keras

    from edge_dl import models

    models.register()
    model = keras.saving.load_model(folder / "train" / "model.keras", compile=False)
    answer = np.asarray(model.predict(dataset.test.x, batch_size=500, verbose=0)["value"])
    return float(np.mean((answer - dataset.test.y["value"]) ** 2))


def line_of(item: dict[str, Any]) -> str:
    start = f"{item['network']:20} {item['length']:6}"
    if "exploded" in item:
        return f"{start}  exploded: {item['exploded'][:80]}"
    solved = f"{item['solved_after']:,}" if item["solved_after"] else "-"
    return (
        f"{start} {item['test_error']:11.5f} {item['updates']:8,} {solved:>8} {item['reach_untrained']:10.1e} "
        f"{item['reach_trained']:10.1e} {item['seconds']:8.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[50, 100, 200, 400])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--units", type=int, default=64)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=40, help="at most")
    parser.add_argument("--piece", type=int, default=4, help="epochs between two looks whether it is solved")
    parser.add_argument("--backend", default="jax")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side, each with one thread")
    parser.add_argument("--runs", type=Path, default=Path("runs") / "adding", help="where trained models stay")
    arguments = parser.parse_args()
    facts = machine()
    lines = [
        f"$ python {' '.join(sys.argv)}",
        f"{facts['processor']}, {facts['cores']} cores; squared error of a constant answer: {CHANCE:.3f}",
        "",
        f"{'network':20} {'length':>6} {'test error':>11} {'updates':>8} {'solved':>8} {'reach':>10} {'trained':>10} "
        f"{'seconds':>8}",
    ]
    print("\n".join(lines), flush=True)
    results = []
    for found in run_all(arguments):
        results.append(found)
        lines.append(line_of(found))
        print(lines[-1], flush=True)
    write_atomic(RESULT.with_suffix(".txt"), "\n".join(lines) + "\n")
    write_json(RESULT.with_suffix(".json"), {"machine": facts, "versions": installed_versions(), "results": results})


if __name__ == "__main__":
    main()
