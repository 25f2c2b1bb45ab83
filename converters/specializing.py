"""A SavedModel's function with a free batch, as a function of a static one.

Keras writes a recurrence as a loop over lists whose elements have the shape (batch, units), with the batch left free in
constants of the graph. The converter then finds no static shape for the lists and leaves operators that no device has.
Here the batch is put into these constants, and shapes are inferred anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

# Operators that take a shape of list elements, with the position of that input (tensorflow/core/ops/list_ops.cc).
_ELEMENT_SHAPES = {"TensorListReserve": 0, "TensorListFromTensor": 1, "TensorListStack": 1, "EmptyTensorList": 0}


def holds_lists(function: Any) -> bool:
    """Whether a TensorFlow function, or one that it calls, works on lists of tensors, as a recurrence of Keras does."""
    graph = function.graph.as_graph_def()
    bodies = [graph.node, *(item.node_def for item in graph.library.function)]
    return any(node.op in _ELEMENT_SHAPES for nodes in bodies for node in nodes)


def specialize(function: Any, batch: int) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """The same computation for a static batch, with variables as constants.

    Args:
        function: a loaded signature's `ConcreteFunction`.
        batch: size of the first axis of every input that leaves it free, and of list elements that do.

    Returns:
        A function from tensors by the signature's argument names to outputs by its names, to be called while a graph is
        traced.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
    graph = frozen.graph.as_graph_def()
    for nodes in _bodies(graph):
        _fix_elements(nodes, batch)
    inputs = dict(zip(_argument_names(function), (tensor.name for tensor in frozen.inputs), strict=True))
    keys = sorted(function.structured_outputs)
    outputs = [tensor.name for tensor in frozen.outputs]

    def call(tensors: Mapping[str, Any]) -> dict[str, Any]:
        feeds = {inputs[name]: tensor for name, tensor in tensors.items()}
        results = tf.graph_util.import_graph_def(graph, input_map=feeds, return_elements=outputs, name="")
        return dict(zip(keys, results, strict=True))

    return call


def _argument_names(function: Any) -> list[str]:
    """Names of the arguments in the order of `function.inputs`, which is that of the sorted names."""
    _, keywords = function.structured_input_signature
    return sorted(keywords)


def _bodies(graph: Any) -> Iterator[Any]:
    yield graph.node
    for function in graph.library.function:
        yield function.node_def


def _fix_elements(nodes: Any, batch: int) -> None:
    """Put the batch in the place of a free first size in constant shapes of list elements."""
    import tensorflow as tf

    constants = {node.name: node for node in nodes if node.op == "Const"}
    for node in list(nodes):
        if node.op not in _ELEMENT_SHAPES:
            continue
        position = _ELEMENT_SHAPES[node.op]
        source = constants.get(node.input[position].split(":")[0])
        if source is None:
            continue
        shape = tf.make_ndarray(source.attr["value"].tensor)
        if shape.ndim != 1 or not len(shape) or shape[0] != -1 or (shape[1:] < 0).any():
            continue
        shape = shape.copy()
        shape[0] = batch
        # A constant of its own: the old one may be shared.
        own = nodes.add()
        own.CopyFrom(source)
        own.name = f"{node.name}/static_element_shape"
        own.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(shape))
        ending = node.input[position][len(source.name) :]
        node.input[position] = own.name + ending
