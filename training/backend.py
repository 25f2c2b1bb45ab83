"""Which Keras backend trains, on which device, in which precision. Decided before Keras is imported."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import random
import sys
from dataclasses import dataclass

import numpy as np

from edge_dl.errors import UsageError

BACKENDS = ("tensorflow", "jax", "torch")
INSTALL = {
    "tensorflow": "pip install 'edge-dl[train]'",
    "jax": "pip install 'edge-dl[jax]'",
    "torch": "pip install torch",
}


@dataclass(frozen=True)
class Device:
    """Where training runs.

    Attributes:
        kind: "cpu", "gpu" or "tpu".
        name: as the backend calls it, e.g. "NVIDIA H100 80GB HBM3" or "2 cores".
    """

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind.upper()} ({self.name})"


def select_backend(name: str = "") -> str:
    """Make Keras use backend `name` in this process, and return the name.

    Args:
        name: "tensorflow", "jax" or "torch"; empty: what Keras already uses, else $KERAS_BACKEND, else "tensorflow".

    Raises:
        UsageError: the backend is unknown or not installed, or Keras was imported with another one, which a process
            cannot change.
    """
    loaded = _loaded_backend()
    chosen = name or loaded or os.environ.get("KERAS_BACKEND", "") or "tensorflow"
    if chosen not in BACKENDS:
        raise UsageError(f"training.backend must be one of {', '.join(BACKENDS)}.", received=chosen)
    if loaded:
        if loaded != chosen:
            raise UsageError(
                "A process trains on one Keras backend, chosen before Keras is imported.",
                received=f"{chosen}, where Keras was imported with {loaded}",
                todo=f"Start a new process with KERAS_BACKEND={chosen}.",
            )
        return chosen
    if importlib.util.find_spec(chosen) is None:
        raise UsageError(
            "The chosen Keras backend must be installed.",
            received=f"{chosen}, which is not",
            todo=f"Install it: {INSTALL[chosen]}.",
        )
    os.environ["KERAS_BACKEND"] = chosen
    # XLA and TensorFlow greet with a page of remarks on standard error; what matters is said by the trainer.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return chosen


def find_device(backend: str) -> Device:
    """The device that `backend` computes on. Imports the backend."""
    cores = f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"
    if backend == "jax":
        import jax

        device = jax.devices()[0]
        if device.platform != "cpu":
            return Device("tpu" if device.platform == "tpu" else "gpu", device.device_kind)
    elif backend == "tensorflow":
        import tensorflow as tf

        if devices := tf.config.list_physical_devices("GPU"):
            details = tf.config.experimental.get_device_details(devices[0])
            return Device("gpu", details.get("device_name", devices[0].name))
    else:
        import torch

        if torch.cuda.is_available():
            return Device("gpu", torch.cuda.get_device_name(0))
    return Device("cpu", cores)


def backend_version(backend: str) -> str:
    """Installed version of a backend's package."""
    return importlib.metadata.version(backend)


def set_seed(seed: int, backend: str) -> None:
    """Seed what weights and dropout are drawn from. Imports the backend.

    `keras.utils.set_random_seed` would import TensorFlow, where it is installed, also for the other backends. Keras
    draws the seeds of its layers and initializers from Python's generator.
    """
    random.seed(seed)
    np.random.seed(seed)
    if backend == "tensorflow":
        import tensorflow as tf

        tf.random.set_seed(seed)
    elif backend == "torch":
        import torch

        torch.manual_seed(seed)


def seed_epoch(seed: int, epoch: int, backend: str) -> None:
    """Let what is drawn in an epoch follow from (seed, epoch) alone, so that a resumed training draws the same.

    On TensorFlow and JAX it does: Keras' dropout draws from variables of the model. On PyTorch it draws from the
    generator of the process, whose state no variable holds.
    """
    if backend == "torch":
        import torch

        torch.manual_seed(int(np.random.default_rng([seed, epoch]).integers(2**63)))


def choose_precision(mixed: bool, backend: str, device: Device) -> str:
    """Keras dtype policy: mixed precision only where the device is faster at it.

    bfloat16 needs no loss scaling; TensorFlow's recurrent GPU kernels (cuDNN) know float16 only.
    """
    if not mixed or device.kind == "cpu":
        return "float32"
    return "mixed_float16" if backend == "tensorflow" and device.kind == "gpu" else "mixed_bfloat16"


def choose_xla(setting: str, backend: str, device: Device, *, time_steps: int, random: bool, updates: int) -> bool:
    """Whether the training step is compiled by XLA (TensorFlow only; JAX always is).

    Measured on a CPU with TensorFlow 2.21 (`benchmarks/training_throughput.py`): short sequences train two to three
    times faster compiled, since their cost is the start of each operator. Long ones do not, and dropout is several
    times slower: XLA draws random numbers slowly on a CPU. Compiling takes as long as some hundred updates. On a GPU
    a compiled step loses the cuDNN kernels.

    Args:
        setting: "auto", "on" or "off".
        time_steps: of the longest input.
        random: whether the model draws random numbers in training.
        updates: of the whole training.

    Raises:
        UsageError: an unknown setting.
    """
    if setting not in ("auto", "on", "off"):
        raise UsageError("training.jit_compile must be one of auto, on, off.", received=setting)
    if backend == "jax":
        return True
    if setting != "auto":
        return setting == "on"
    return backend == "tensorflow" and device.kind == "cpu" and time_steps <= 32 and not random and updates >= 1000


def _loaded_backend() -> str:
    module = sys.modules.get("keras")
    if module is None or not hasattr(module, "config"):
        return ""
    return str(module.config.backend())
