"""Photos compared by an encoder: index, cache, contact sheet, same or not; through the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from picture_files import draw, encoded, make_folder
from PIL import Image
from typer.testing import CliRunner

from edge_dl.bundle import read_bundle
from edge_dl.cli.main import app
from edge_dl.converters import convert
from edge_dl.data.photo_index import Encoder, index_photos, read_photo
from edge_dl.errors import UsageError
from edge_dl.runtime import Session, open_session


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder that looks at the mean colour alone, so that tests know what is near."""
    image = keras.Input((24, 24, 3), dtype="uint8", name="image")
    colour = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(image))
    vector = keras.layers.UnitNormalization(name="embedding")(colour)
    folder = tmp_path_factory.mktemp("encoder")
    keras.Model({"image": image}, {"embedding": vector}).save(folder / "colour.keras")
    [made] = convert(folder / "colour.keras", folder, quantization="float32", task="embedding")
    assert made.ok, made.message
    return folder / "variants" / "float32"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_DL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "photos", each=5)


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> tuple[int, str]:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        return result.exit_code, result.stdout if "--json" in arguments else result.output

    return call


def test_the_nearest_photos_are_of_the_same_colour(bundle: Path, photos: Path) -> None:
    encoder = Encoder(read_bundle(bundle))
    index = index_photos(encoder, photos)
    assert len(index.names) == 15
    [vector] = encoder.encode(read_photo(photos / "kind 1" / "00.png", encoder.size)[None])
    found = index.nearest(vector, 5)
    assert [name.split("/")[0] for name, _ in found] == ["kind 1"] * 5
    assert found[0] == ("kind 1/00.png", pytest.approx(1, abs=1e-5))
    assert [similarity for _, similarity in found] == sorted((s for _, s in found), reverse=True)


def test_only_new_and_changed_photos_are_encoded_again(
    bundle: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder(read_bundle(bundle))
    first = index_photos(encoder, photos)
    counts: list[int] = []

    def counting(self: Session, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        counts.append(len(inputs["image"]))
        return predict(self, inputs)

    predict = Session.predict
    monkeypatch.setattr(Session, "predict", counting)
    np.testing.assert_array_equal(index_photos(encoder, photos).vectors, first.vectors)
    assert counts == []
    (photos / "kind 0" / "new.png").write_bytes(encoded(draw(77)))
    (photos / "kind 0" / "00.png").write_bytes(encoded(draw(78, (33, 20))))
    (photos / "kind 2" / "01.png").unlink()
    assert len(index_photos(encoder, photos).names) == 15
    assert counts == [2]


def test_the_model_is_loaded_once(bundle: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    monkeypatch.setattr("edge_dl.data.photo_index.AT_A_TIME", 4)
    monkeypatch.setattr(
        "edge_dl.data.photo_index.open_session", lambda path: (opened.append(path), open_session(path))[1]
    )
    index_photos(Encoder(read_bundle(bundle)), photos)
    assert opened == [bundle]


def test_a_damaged_cache_is_made_again(bundle: Path, photos: Path, cache: Path) -> None:
    encoder = Encoder(read_bundle(bundle))
    before = index_photos(encoder, photos).vectors
    [file] = cache.rglob("*.npz")
    file.write_bytes(file.read_bytes()[:100])
    np.testing.assert_array_equal(index_photos(encoder, photos).vectors, before)


def test_search_prints_what_is_near_and_draws_it(bundle: Path, photos: Path, run: Run, tmp_path: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"x")
    query = photos / "kind 2" / "03.png"
    code, text = run("search", photos, query, "--encoder", bundle, "--top", 6, "--sheet", "sheet.png")
    assert code == 0, text
    assert "15 photos searched" in text
    assert "left out: broken.jpg" in text
    assert Image.open(tmp_path / "sheet.png").size[0] > 400
    code, text = run("search", photos, query, "--encoder", bundle, "--top", 3, "--json")
    assert code == 0
    assert [item["photo"].split("/")[0] for item in json.loads(text)["found"]] == ["kind 2"] * 3
    assert (tmp_path / "contact-sheet.jpg").is_file()


def test_same_or_not(bundle: Path, photos: Path, run: Run) -> None:
    one, other = photos / "kind 0" / "00.png", photos / "kind 0" / "01.png"
    code, text = run("same", one, other, "--encoder", bundle)
    assert code == 2
    assert "threshold" in text
    assert run("same", one, other, "--encoder", bundle, "--threshold", 0.99)[0] == 0
    code, text = run("same", one, photos / "kind 1" / "00.png", "--encoder", bundle, "--threshold", 0.99)
    assert code == 1
    assert text.startswith("not the same: similarity 0.")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["search", "photos", "nothing.jpg"], "must be readable"),
        (["search", "nowhere", "photos/kind 0/00.png"], "in a folder"),
        (["search", "photos", "photos/kind 0/00.png", "--sheet", "sheet.txt"], "is a picture"),
        (["search", "empty", "photos/kind 0/00.png"], "a photo to search"),
    ],
)
def test_wrong_use_is_told(
    bundle: Path, photos: Path, run: Run, tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "empty").mkdir()
    code, text = run(*arguments, "--encoder", bundle)
    assert code == 2, text
    assert words in text.replace("\n", " ")


def test_without_an_encoder_the_message_says_how_to_make_one(photos: Path, run: Run) -> None:
    code, text = run("search", photos, photos / "kind 0" / "00.png")
    assert code == 2
    assert "edge-dl run photo-encoder" in text.replace("\n", " ")


def test_a_bundle_of_another_kind_is_refused(step_bundle: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="compared by an encoder"):
        Encoder(read_bundle(step_bundle()))


@pytest.mark.slow
def test_photo_encoder_runs_from_photos_to_a_search(run: Run, tmp_path: Path) -> None:
    """The recipe as a user runs it, with a backbone of random weights: offline there are no others."""
    photos = make_folder(tmp_path / "photos", each=20)
    code, text = run(
        "run", "photo-encoder", "--data", photos, "--set", "model.weights=none", "--set", "model.size=32",
        "--set", "conversion.quantizations=float32,int8", "--set", "checks.rounds=3",
    )  # fmt: skip
    assert code in (0, 1), text
    results = json.loads((tmp_path / "runs" / "photo-encoder" / "results.json").read_text())
    assert {variant["name"] for variant in results["variants"]} == {"float32", "int8"}
    assert all(variant["metric"]["name"] == "precision_at_1" for variant in results["variants"])
    measured = json.loads((tmp_path / "runs" / "photo-encoder" / "train" / "verification.json").read_text())
    chosen = read_bundle(tmp_path / "runs" / "photo-encoder" / "variants" / "float32")
    assert chosen.manifest.threshold == pytest.approx(measured["threshold"])
    code, text = run("search", photos, photos / "kind 1" / "00.png", "--top", 3)
    assert code == 0, text
    assert run("same", photos / "kind 1" / "00.png", photos / "kind 1" / "00.png")[0] == 0
