"""The recurrent layers of a model, wherever they are: what they are, and by which path a user finds them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RecurrentLayer:
    """A layer that runs over time, found in a model.

    Attributes:
        path: names from the outermost layer inwards, e.g. "bidirectional/forward_lstm".
        layer: the `keras.layers.RNN` (LSTM, GRU, SimpleRNN, RNN of cells), or another recurrent layer.
        cells: the cells in order, from input to output; one, unless the layer stacks cells.
        wrappers: the layers that hold it, from the outermost inwards, the model left out.
    """

    path: str
    layer: Any
    cells: tuple[Any, ...]
    wrappers: tuple[Any, ...] = ()

    @property
    def kind(self) -> str:
        """Class name, with the cells' where the layer is a plain `RNN`: "LSTM", "RNN(GRUCell, GRUCell)"."""
        name = type(self.layer).__name__
        return f"RNN({', '.join(type(cell).__name__ for cell in self.cells)})" if name == "RNN" else name


def walk_layers(model: Any) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Every layer inside `model` once, as (path, layer, layers that hold it); `model` itself is left out."""
    seen: set[int] = {id(model)}

    def inside(parent: Any, prefix: str, holders: tuple[Any, ...]) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
        for layer in getattr(parent, "_layers", ()):
            if id(layer) in seen:
                continue
            seen.add(id(layer))
            # Sequential keeps its layers twice: as its own and in an inner Functional of the same name.
            inner = layer is getattr(parent, "_functional", None)
            path = prefix if inner else f"{prefix}{layer.name}"
            if not inner:
                yield path, layer, holders
            yield from inside(layer, prefix if inner else f"{path}/", holders if inner else (*holders, layer))

    yield from inside(model, "", ())


def find_recurrent(model: Any) -> list[RecurrentLayer]:
    """Recurrent layers of a Keras model in the order of its layers: inside wrappers, nested models and own layers too.

    A model that is itself a recurrent layer counts.
    """
    import keras

    found = []
    own = [(model.name, model, ())] if isinstance(model, keras.layers.RNN) else []
    for path, layer, holders in [*own, *walk_layers(model)]:
        if isinstance(layer, keras.layers.RNN):
            found.append(RecurrentLayer(path, layer, _cells(layer.cell), holders))
    return found


def _cells(cell: Any) -> tuple[Any, ...]:
    import keras

    # A subclass with a `call` of its own (a residual connection, say) is one unknown cell.
    if isinstance(cell, keras.layers.StackedRNNCells) and type(cell).call is keras.layers.StackedRNNCells.call:
        return tuple(inner for item in cell.cells for inner in _cells(item))
    return (cell,)
