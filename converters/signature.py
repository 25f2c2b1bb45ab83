"""Names, shapes and types of a model's inputs and outputs: ours, stable, made from Keras' own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_dl.bundle import DTYPES, TensorSpec
from edge_dl.errors import UsageError
from edge_dl.names import unique_names


@dataclass(frozen=True)
class Inputs:
    """A model's inputs by our names.

    Attributes:
        specs: name, static shape and type of each, in the model's order.
        keras_names: our name -> Keras' name.
        pack: turns tensors by our names into the structure that the model is called with.
    """

    specs: tuple[TensorSpec, ...]
    keras_names: Mapping[str, str]
    pack: Callable[[Mapping[str, Any]], Any]


def describe_inputs(
    model: Any,
    *,
    batch: int = 1,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    free_size: int | None = None,
) -> Inputs:
    """Names, static shapes and types of a built Keras model's inputs.

    An input that only an Embedding reads is an int32, whatever type Keras gave it.

    Args:
        model: a built model: functional, Sequential or subclassed.
        batch: static batch size.
        input_shapes: by our or Keras' name, the shape without the batch axis, where the model leaves an axis free.
        free_size: size of an axis that is free and not given; None: that is an error.

    Raises:
        UsageError: an axis is free and not given, a name there is unknown, the model takes text, or is not built.
    """
    import keras

    if batch < 1:
        raise UsageError("The batch size must be at least 1.", received=str(batch))
    structure, found = _declared_inputs(model)
    names = unique_names([name for name, _, _ in found])
    given = dict(input_shapes or {})
    unknown = [name for name in given if name not in names and name not in [item[0] for item in found]]
    if unknown:
        raise UsageError(
            "The model has no such input.", received=", ".join(unknown), todo=f"Inputs: {', '.join(names)}."
        )
    specs = []
    for name, (keras_name, shape, dtype) in zip(names, found, strict=True):
        wanted = given.get(name, given.get(keras_name))
        if wanted is not None:
            shape = _fit(name, tuple(int(size) for size in wanted), shape)
        if free_size is not None:
            shape = tuple(free_size if size is None else size for size in shape)
        if None in shape:
            raise _free_axis(name, shape)
        if dtype not in DTYPES:
            raise UsageError(
                f"A model on a device takes numbers: {', '.join(DTYPES)}.", received=f"input {name!r} of type {dtype}"
            )
        specs.append(TensorSpec(name, (batch, *(int(size or 0) for size in shape)), dtype))

    def pack(values: Mapping[str, Any]) -> Any:
        return keras.tree.pack_sequence_as(structure, [values[name] for name in names])

    return Inputs(tuple(specs), dict(zip(names, (item[0] for item in found), strict=True)), pack)


def output_names(model: Any) -> list[str]:
    """Keras' names of a model's outputs in the order in which `keras.tree` flattens them; empty where it has none."""
    import keras

    functional = graph_of(model)
    structure = getattr(functional, "_outputs_struct", None)
    if isinstance(structure, dict):
        return ["_".join(str(part) for part in path) for path, _ in keras.tree.flatten_with_path(structure)]
    return list(getattr(functional, "output_names", None) or [])


def name_outputs(model: Any, outputs: Any) -> dict[str, Any]:
    """What a model returned, as a flat mapping by our output names."""
    import keras

    flat = keras.tree.flatten(outputs)
    names = output_names(model)
    if len(names) != len(flat):
        if isinstance(outputs, dict):
            names = ["_".join(str(part) for part in path) for path, _ in keras.tree.flatten_with_path(outputs)]
        else:
            names = ["output"] if len(flat) == 1 else [f"output_{index}" for index in range(len(flat))]
    return dict(zip(unique_names(names), flat, strict=True))


def graph_of(model: Any) -> Any:
    """The `Functional` behind a functional or Sequential model; None for a subclassed one."""
    inner = getattr(model, "_functional", None)
    if inner is not None:
        return inner
    return model if hasattr(model, "_outputs_struct") else None


def _declared_inputs(model: Any) -> tuple[Any, list[tuple[str, tuple[int | None, ...], str]]]:
    """The structure that the model is called with, and per input Keras' name, shape without batch, and type."""
    import keras

    functional = graph_of(model)
    if functional is not None:
        tensors = keras.tree.flatten(functional._inputs_struct)
        types = [_input_type(functional, tensor) for tensor in tensors]
        return functional._inputs_struct, [
            (tensor.name, tuple(tensor.shape[1:]), dtype) for tensor, dtype in zip(tensors, types, strict=True)
        ]
    shapes = getattr(model, "_build_shapes_dict", None)
    if not shapes:
        raise UsageError(
            "A model must be built before it is exported, so that its input shapes are known.",
            received=f"model {model.name!r}, which was never called",
            todo="Call it once on a batch of data, then save it.",
        )
    if len(shapes) > 1:
        raise UsageError(
            "A subclassed model must take its inputs as one argument.",
            received=f"model {model.name!r} with {', '.join(shapes)}",
            todo="Take a dictionary of tensors, or write it as a functional model.",
        )
    argument = next(iter(inspect.signature(model.call).parameters))
    return _from_shapes(next(iter(shapes.values())), argument, _tokens_only(model))


def _from_shapes(value: Any, argument: str, tokens: bool) -> tuple[Any, list[Any]]:
    """The same for a subclassed model, from the shapes that it was built with."""
    found: list[Any] = []

    def visit(value: Any, name: str) -> Any:
        if isinstance(value, dict):
            return {key: visit(value[key], str(key)) for key in sorted(value)}
        if value and isinstance(value[0], (dict, list, tuple)):
            return [visit(item, f"{name}_{index}") for index, item in enumerate(value)]
        shape = tuple(value[1:])
        found.append((name, shape, "int32" if tokens and len(shape) == 1 else "float32"))
        return 0

    return visit(value, argument), found


def _tokens_only(model: Any) -> bool:
    import keras

    from edge_dl.converters.layers import walk_layers

    return any(isinstance(layer, keras.layers.Embedding) for _, layer, _ in walk_layers(model))


def _input_type(functional: Any, tensor: Any) -> str:
    import keras

    dtype = keras.backend.standardize_dtype(tensor.dtype)
    readers = [
        operation
        for operation in functional.operations
        for node in operation._inbound_nodes
        if any(item is tensor for item in node.input_tensors)
    ]
    embeddings = [item for item in readers if isinstance(item, keras.layers.Embedding)]
    # An embedding that masks its zeros brings a comparison of its own into the graph.
    others = [item for item in readers if item not in embeddings and type(item).__name__ != "NotEqual"]
    return "int32" if dtype.startswith("float") and embeddings and not others else dtype


def _fit(name: str, wanted: tuple[int, ...], shape: tuple[int | None, ...]) -> tuple[int, ...]:
    fits = len(wanted) == len(shape) and all(
        size > 0 and own in (None, size) for size, own in zip(wanted, shape, strict=True)
    )
    if not fits:
        raise UsageError(
            f"The shape given for input {name!r} must fit the model.",
            received=f"{_show(wanted)}, where the model takes {_show(shape)}",
            todo="Give it without the batch axis.",
        )
    return wanted


def _free_axis(name: str, shape: tuple[int | None, ...]) -> UsageError:
    example = ",".join("50" if size is None else str(size) for size in shape)
    return UsageError(
        "Every axis must have a fixed size on the device.",
        received=f"input {name!r} of shape {_show(shape)}",
        todo=f"Give its shape without the batch axis, for example {name}={example}.",
    )


def _show(shape: Sequence[int | None]) -> str:
    return "(" + ", ".join("?" if size is None else str(size) for size in shape) + ")"
