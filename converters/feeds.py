"""What a conversion of an export is fed to see its ranges: calibration samples as the export's signatures take them.

A whole model takes the samples as they are. Steps of a recurrent model, packets of a stream and steps of a decoder also
take states, or what the encoder gives, so the float32 .tflite is run over the samples to find those.
"""

from __future__ import annotations

import numpy as np

from edge_dl.converters.calibration import Calibration, batches, decode_batches, step_batches, stream_batches
from edge_dl.converters.exporting import Export
from edge_dl.converters.float_model import float_model


def make_feeds(export: Export, calibration: Calibration) -> list[dict[str, np.ndarray]]:
    """Calibration samples as an export's one signature takes them: arrays by input name, with the batch axis."""
    if export.stream is not None:
        return stream_batches(float_model(export), export.signature, export.stream, calibration)
    if export.sequence is not None:
        return step_batches(float_model(export), export.signature, export.sequence, calibration)
    return list(batches(calibration, export.signature.inputs))


def make_feeds_by_part(export: Export, calibration: Calibration) -> dict[str, list[dict[str, np.ndarray]]]:
    """Of an encoder and its decoder: what `make_feeds` gives, by signature key."""
    assert export.encoder is not None
    assert export.sequence is not None
    step, encode, *beams = export.parts
    encoded, steps = decode_batches(
        float_model(encode), float_model(step), export.encoder, export.signature, export.sequence, calibration
    )
    feeds = {encode.signature.key: encoded, step.signature.key: steps}
    for part in beams:
        rows = {item.name: item.shape[0] for item in part.signature.inputs}
        rows |= {item.input: item.shape[0] for item in part.signature.states}
        # The same samples in every beam: the same ranges, so that the weights' scales and the biases are stored once.
        feeds[part.signature.key] = [
            {name: np.repeat(value, rows[name] // len(value), 0) for name, value in feed.items()} for feed in steps
        ]
    return feeds
