"""A trained network of a user's own through every quantization: MobileNet V1 0.25 with its ImageNet top.

Run from the repository: .venv/bin/python benchmarks/imagenet_mobilenet.py PHOTOS WEIGHTS [--out RUNS]

PHOTOS is a zip archive or folder of ImageNet photographs with a manifest.csv (file, class_index_0_999, name), WEIGHTS
the Keras weights of MobileNet 0.25 224 with top. The model takes photos of 256x256 bytes; cut, cast and scaling are in
the graph. A quarter of the photos calibrates, a quarter is the held-out part that the accuracy budget is searched on,
half is the test part. `edge-dl run` is called as a user calls it, once with one scale a channel and an accuracy budget,
once with one scale a tensor. Top-1 is then counted on the test part, and on all photos.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.data.files import DataFolder
from edge_dl.data.pictures import decode
from edge_dl.files import save_npz, write_atomic, write_json
from edge_dl.runfolder import installed_versions, machine
from edge_dl.runtime import predict_all

RESULT = Path(__file__).parent / "results" / "imagenet_mobilenet"
FRAME, SIDE = 256, 224


def read_photos(source: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Pictures (photos, 256, 256, 3) uint8, classes (photos,), and 1,000 class names, numbers where none is known."""
    with DataFolder(source) as folder:
        rows = list(csv.DictReader(io.StringIO(folder.content("manifest.csv").decode())))
        pictures = np.stack([decode(folder.content(row["file"]), (FRAME, FRAME)) for row in rows])
    classes = np.array([int(row["class_index_0_999"]) for row in rows], np.int32)
    names = {int(row["class_index_0_999"]): row["name"] for row in rows}
    return pictures, classes, [names.get(number, str(number)) for number in range(1000)]


def save_model(weights: Path, path: Path) -> None:
    """The network as a user has it: a .keras file."""
    import keras

    inputs = keras.Input((FRAME, FRAME, 3), dtype="uint8", name="image")
    cut = (FRAME - SIDE) // 2
    h = keras.layers.Cropping2D(cut, name="crop")(inputs)
    h = keras.layers.Rescaling(1 / 127.5, -1.0, name="rescale")(h)
    network = keras.applications.MobileNet(
        input_tensor=h, input_shape=(SIDE, SIDE, 3), alpha=0.25, weights=None, classes=1000
    )
    plain = keras.applications.MobileNet(input_shape=(SIDE, SIDE, 3), alpha=0.25, weights=None, classes=1000)
    plain.load_weights(weights)
    network.set_weights(plain.get_weights())
    keras.Model({"image": inputs}, {"label": network.output}).save(path)


def edge_dl(*arguments: str) -> None:
    command = [sys.executable, "-m", "edge_dl", *arguments]
    print("$ edge-dl", *arguments, flush=True)
    done = subprocess.run(command, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    if done.returncode not in (0, 1):  # 1: a variant failed its check, which is what the table is about.
        sys.exit(done.returncode)


def keras_answers(path: Path, pictures: np.ndarray) -> np.ndarray:
    import keras

    return np.asarray(keras.saving.load_model(path).predict({"image": pictures}, batch_size=25, verbose=0)["label"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs") / "imagenet", help="folder of the runs")
    parser.add_argument("--budget", default="1%", help="largest loss of top-1 that the mixed variant may have")
    options = parser.parse_args()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    options.out.mkdir(parents=True, exist_ok=True)
    pictures, classes, names = read_photos(options.photos)
    place = np.arange(len(classes)) % 4
    parts = {"train": place == 0, "val": place == 1, "test": place >= 2}
    data, model = options.out / "photos.npz", options.out / "mobilenet.keras"
    arrays = {f"{kind}_{part}": values[rows] for part, rows in parts.items()
              for kind, values in (("x", pictures), ("y", classes))}  # fmt: skip
    save_npz(data, {**arrays, "labels": np.array(names)})
    save_model(options.weights, model)
    channel, tensor = options.out / "channel", options.out / "tensor"
    asked = ["run", str(model), "--data", str(data)]
    edge_dl(*asked, "--out", str(channel), "--max-drop", options.budget)
    edge_dl(*asked, "--out", str(tensor), "--set", "conversion.per_channel=false",
            "--set", "conversion.quantizations=int8")  # fmt: skip

    expected = keras_answers(model, pictures)
    test = parts["test"]
    bundles = {path.parent.name: path.parent for path in sorted((channel / "variants").glob("*/manifest.json"))}
    bundles["int8, one scale a tensor"] = tensor / "variants" / "int8"
    results: list[dict[str, Any]] = [row("Keras", expected, expected, classes, test, 0)]
    for name, bundle in bundles.items():
        answers = predict_all(bundle, {"image": pictures}, processes=0)["label"]
        results.append(row(name, answers, expected, classes, test, (bundle / "model.tflite").stat().st_size))
    facts = machine()
    head = f"{'variant':26} {'bytes':>9} {'top-1 test':>11} {'top-1 all':>10} {'as Keras':>9} {'largest':>9}"
    lines = [
        f"$ python {' '.join(sys.argv)}",
        f"{facts['processor']}; {len(classes)} photos, {int(test.sum())} of them "
        f"the test part; budget {options.budget} of top-1, searched on {int(parts['val'].sum())} others",
        "",
        head,
    ]
    lines += [
        f"{item['variant']:26} {item['bytes'] or '':>9} {item['top1_test']:11.2%} {item['top1_all']:10.2%} "
        f"{item['same']:9.2%} {item['largest']:9.2g}"
        for item in results
    ]
    outcome = json.loads((channel / "variants" / "mixed.json").read_text())
    lines += ["", "path of the search for `mixed`:", *(f"  {json.dumps(step)}" for step in outcome.get("path", []))]
    text = "\n".join(lines) + "\n"
    print(text)
    write_atomic(RESULT.with_suffix(".txt"), text)
    write_json(RESULT.with_suffix(".json"), {"machine": facts, "versions": installed_versions(), "results": results,
                                             "path": outcome.get("path", [])})  # fmt: skip


def row(
    name: str, answers: np.ndarray, expected: np.ndarray, classes: np.ndarray, test: np.ndarray, size: int
) -> dict[str, Any]:
    given = answers.argmax(axis=1)
    right = given == classes
    return {
        "variant": name,
        "bytes": size,
        "top1_test": float(right[test].mean()),
        "top1_all": float(right.mean()),
        "same": float((given == expected.argmax(axis=1)).mean()),
        "largest": float(np.abs(answers - expected).max()),
    }


if __name__ == "__main__":
    main()
