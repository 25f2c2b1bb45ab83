"""How far gradients flow back through time: the norm of dLoss/dx(t) over t.

Where it falls off exponentially from the last step backwards, the network cannot learn from early steps; where it
grows, training explodes (Hochreiter 1991; Bengio, Simard & Frasconi 1994; Pascanu, Mikolov & Bengio 2013).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from edge_dl.data.dataset import Dataset, Split
from edge_dl.recipe import Task

SAMPLES = 64
EACH_STEP = (Task.LABELLING, Task.LANGUAGE_MODEL)


def gradient_flow(model: keras.Model, loss: keras.losses.Loss, dataset: Dataset, samples: int = SAMPLES) -> list[float]:
    """Norm of the loss's gradient with respect to the input at each time step, averaged over samples.

    For tokens, with respect to their embeddings. Models that answer at every step are judged by their last answer
    alone: only then do early steps show what reached them through time.

    Args:
        model: takes the data set's inputs by name; its one output has the task's name.
        loss: loss of that output.
        dataset: the first `samples` validation samples are used.

    Returns:
        One number a time step, in loss per unit of input; where inputs differ in length, steps count from the end.
    """
    split = dataset.validation.take(np.arange(min(samples, len(dataset.validation))))
    gradients = input_gradients(model, loss, split, last_answer=dataset.task in EACH_STEP)
    steps = max(gradient.shape[1] for gradient in gradients.values())
    squares = np.zeros((len(split), steps))
    for gradient in gradients.values():
        squares[:, steps - gradient.shape[1] :] += np.square(gradient.astype(np.float64)).sum(axis=-1)
    return [float(norm) for norm in np.sqrt(squares).mean(axis=0)]


def input_gradients(
    model: keras.Model, loss: keras.losses.Loss, split: Split, *, last_answer: bool = False
) -> dict[str, np.ndarray]:
    """Gradient of each sample's loss with respect to its own inputs.

    Returns:
        By input name (samples, steps, features); for a token input, with respect to what its embedding gives.
    """
    output = next(iter(split.y))
    target = ops.convert_to_tensor(split.y[output][:, -1:] if last_answer else split.y[output])
    inputs = {name: ops.convert_to_tensor(array) for name, array in split.x.items()}
    embeddings = _embeddings(model, split)
    shifts = {
        name: np.zeros((*array.shape, embeddings[name].output_dim) if name in embeddings else array.shape, np.float32)
        for name, array in split.x.items()
    }

    def total_loss(shift: Mapping[str, Any]) -> Any:
        shifted = {name: x if name in embeddings else x + shift[name] for name, x in inputs.items()}
        # Layers with recurrent dropout draw seeds also when they drop nothing: what they draw must not stay.
        with keras.StatelessScope(), contextlib.ExitStack() as stack:
            for name, layer in embeddings.items():
                stack.enter_context(_shifted(layer, shift[name]))
            answer = model(shifted, training=False)
        answer = answer[output] if isinstance(answer, dict) else answer
        each = loss.call(target, ops.cast(answer[:, -1:] if last_answer else answer, "float32"))
        # The sum over samples: a sample's input changes no other sample's loss. The mean over its own answers.
        return ops.sum(ops.mean(ops.reshape(each, (each.shape[0], -1)), axis=-1))

    return {name: np.asarray(gradient) for name, gradient in _gradient(total_loss, shifts).items()}


def _embeddings(model: keras.Model, split: Split) -> dict[str, keras.layers.Embedding]:
    """The embedding layer that reads each token input."""
    found = {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.Embedding):
            source = layer.input
            name = source.name if hasattr(source, "name") else ""
            if name in split.x:
                found[name] = layer
    missing = [name for name, array in split.x.items() if array.dtype.kind in "iu" and name not in found]
    if missing:
        raise ValueError(f"no embedding layer reads the token input {missing[0]}")
    return found


@contextlib.contextmanager
def _shifted(layer: keras.layers.Layer, shift: Any) -> Iterator[None]:
    """Let `layer` give its output plus `shift`, inside this context."""
    original = layer.call
    layer.call = lambda *args, **kwargs: original(*args, **kwargs) + ops.cast(shift, layer.compute_dtype)
    try:
        yield
    finally:
        del layer.call


def _gradient(function: Any, point: dict[str, np.ndarray]) -> dict[str, Any]:
    """Gradient of a scalar function of named arrays, by the backend in use."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return dict(jax.jit(jax.grad(function))(point))
    if backend == "tensorflow":
        import tensorflow as tf

        tensors = {name: tf.constant(array) for name, array in point.items()}
        with tf.GradientTape() as tape:
            for tensor in tensors.values():
                tape.watch(tensor)
            value = function(tensors)
        gradients = tape.gradient(value, tensors, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return {name: gradient.numpy() for name, gradient in gradients.items()}
    import torch

    device = keras.src.backend.torch.core.get_device()
    leaves = {name: torch.tensor(array, device=device, requires_grad=True) for name, array in point.items()}
    gradients = torch.autograd.grad(function(leaves), list(leaves.values()))
    return {name: gradient.cpu().numpy() for name, gradient in zip(leaves, gradients, strict=True)}
