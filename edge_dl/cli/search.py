"""`edge-dl search` and `edge-dl same`: compare photos with an encoder, as it runs on a device."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_dl.bundle import MANIFEST, read_bundle
from edge_dl.cli.console import ConsoleProgress, print_json, print_table
from edge_dl.data.photo_index import Encoder, contact_sheet, index_photos, read_photo
from edge_dl.errors import UsageError, printable
from edge_dl.files import read_json

DEFAULT = Path("runs/photo-encoder")


def open_encoder(path: Path | None) -> Encoder:
    """The encoder in a bundle, or the one that a run folder chose; by default that of runs/photo-encoder.

    Raises:
        UsageError: there is none.
    """
    path = path or DEFAULT
    if (path / MANIFEST).is_file():
        return Encoder(read_bundle(path))
    selection = path / "bench" / "selection.json"
    chosen = read_json(selection).get("chosen") if selection.is_file() else None
    if not chosen:
        raise UsageError(
            "Photos are compared by an encoder.",
            received=f"{path}, which is no bundle and no finished run",
            todo="Make one: edge-dl run photo-encoder --data photos/, or name a bundle: --encoder BUNDLE.",
        )
    return Encoder(read_bundle(path / "variants" / str(chosen)))


def search(photos: Path, query: Path, *, encoder: Path | None, top: int, sheet: Path, json: bool) -> None:
    """Find the photos most like `query` and draw them on a sheet."""
    opened = open_encoder(encoder)
    [vector] = opened.encode(read_photo(query, opened.size)[None])
    index = index_photos(opened, photos, ConsoleProgress())
    found = index.nearest(vector, top)
    contact_sheet(index, query, found, sheet)
    if json:
        print_json({
            "encoder": str(opened.bundle.folder), "photos": len(index.names), "sheet": str(sheet),
            "found": [{"photo": name, "similarity": similarity} for name, similarity in found],
            "left_out": dict(index.left_out),
        })  # fmt: skip
        return
    print_table(["similarity", "photo"], [[f"{similarity:.4f}", printable(name)] for name, similarity in found])
    for name, reason in index.left_out.items():
        print(printable(f"left out: {name}: {reason}"))
    print(f"\n{len(index.names)} photos searched: {sheet}")


def same(first: Path, second: Path, *, encoder: Path | None, threshold: float | None, json: bool) -> bool:
    """Say whether two photos show the same; returns the answer.

    Raises:
        UsageError: the encoder has no threshold and none is given.
    """
    opened = open_encoder(encoder)
    limit = opened.bundle.manifest.threshold if threshold is None else threshold
    if limit is None:
        raise UsageError(
            "Same or not needs a threshold.",
            received=f"{opened.bundle.folder}, an encoder made from photos of one class",
            todo="Give --threshold, or run photo-encoder on photos in one folder a class.",
        )
    a, b = opened.encode(np.stack([read_photo(path, opened.size) for path in (first, second)]))
    similarity = float(a @ b)
    answer = similarity >= limit
    if json:
        print_json({"similarity": similarity, "threshold": limit, "same": answer})
    else:
        print(f"{'same' if answer else 'not the same'}: similarity {similarity:.4f}, threshold {limit:.4f}")
    return answer
