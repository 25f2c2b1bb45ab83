"""Picture files: upright, RGB, one size; folders and archives of them; damage is named."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from picture_files import draw, encoded, make_folder
from PIL import Image

from edge_dl import data
from edge_dl.data.pictures import decode, is_picture, picture_size
from edge_dl.errors import UsageError
from edge_dl.recipe import DataConfig, Task

UPRIGHT = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[9, 9, 9], [99, 99, 99], [255, 255, 255]]], np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_the_camera_noted_about_its_rotation_is_applied(orientation: int) -> None:
    """CIPA DC-008: the stored picture is the upright one turned or mirrored; the tag says how to undo it."""
    stored = {
        1: UPRIGHT,
        2: UPRIGHT[:, ::-1],
        3: UPRIGHT[::-1, ::-1],
        4: UPRIGHT[::-1],
        5: UPRIGHT.transpose(1, 0, 2),
        6: np.rot90(UPRIGHT, 1),
        7: UPRIGHT[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(UPRIGHT, -1),
    }[orientation]
    picture = Image.fromarray(np.ascontiguousarray(stored))
    exif = picture.getexif()
    exif[0x0112] = orientation
    content = encoded(picture, exif=exif)
    np.testing.assert_array_equal(decode(content), UPRIGHT)
    assert picture_size(content) == (2, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_every_usual_kind_of_file_is_read(kind: str) -> None:
    picture = draw(1)
    pixels = decode(encoded(picture, kind))
    assert pixels.shape == (40, 48, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - np.asarray(picture)).mean() < 12


def test_grey_becomes_rgb_also_with_sixteen_bits() -> None:
    grey = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(grey))), np.repeat(grey[..., None], 3, 2))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    np.testing.assert_array_equal(decode(encoded(deep)), np.repeat(grey[..., None], 3, 2))
    two = Image.fromarray(grey > 100).convert("1")
    np.testing.assert_array_equal(decode(encoded(two))[..., 1], np.where(grey > 100, 255, 0))


def test_transparent_places_become_white() -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0] = (10, 20, 30, 255)
    decoded = decode(encoded(Image.fromarray(pixels)))
    np.testing.assert_array_equal(decoded[0], [[10, 20, 30]] * 2)
    np.testing.assert_array_equal(decoded[1], [[255, 255, 255]] * 2)
    palette = Image.fromarray(pixels).quantize()
    assert decode(encoded(palette))[1].min() == 255


def test_cmyk_is_read() -> None:
    red = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    assert decode(encoded(red, "TIFF"))[0, 0].tolist() == [255, 0, 0]


def test_a_size_covers_the_middle() -> None:
    values = np.zeros((10, 30, 3), np.uint8)
    values[:, 10:20] = 200
    assert (decode(encoded(Image.fromarray(values)), (10, 10)) == 200).all()
    assert (decode(encoded(Image.fromarray(values)), (20, 20)).shape) == (20, 20, 3)


def test_a_large_jpeg_is_decoded_at_a_fraction_and_looks_the_same() -> None:
    large = draw(3, (100, 100)).resize((1600, 1600), Image.Resampling.BICUBIC)
    small = decode(encoded(large, "JPEG", quality=95), (100, 100)).astype(int)
    expected = np.asarray(large.resize((100, 100), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(small - expected).mean() < 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"no picture at all", "17 bytes that start with"),
        (encoded(draw(1), "JPEG")[:400], "whole"),
        (encoded(draw(1), "PNG")[:-60], "whole"),
    ],
)
def test_damage_is_named(content: bytes, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        decode(content)


def test_a_picture_made_to_fill_the_memory_is_refused() -> None:
    content = encoded(Image.new("1", (20_000, 20_000)))
    assert len(content) < 100_000
    with pytest.raises(UsageError, match="178 million pixels"):
        decode(content, (32, 32))


def load(path: Path, task: Task = Task.CLASSIFICATION, **settings: object) -> data.Dataset:
    return data.load(DataConfig(str(path), **settings), task)  # type: ignore[arg-type]


def test_a_folder_a_class_is_cut_into_parts_with_classes_by_name(tmp_path: Path) -> None:
    dataset = load(make_folder(tmp_path / "photos"))
    assert dataset.labels == ("kind 0", "kind 1", "kind 2")
    assert dataset.train.x["image"].shape[1:] == (41, 41, 3)
    assert dataset.train.x["image"].dtype == np.uint8
    assert sum(len(split) for split in dataset.parts.values()) == 36
    # The colour tells the class: labels belong to their pictures.
    for split in dataset.parts.values():
        np.testing.assert_array_equal(split.x["image"].mean(axis=(1, 2)).argmax(axis=1), split.y["label"])
    assert any("scaled and cut" in note for note in dataset.notes)


def test_parts_are_kept_as_given_and_an_archive_is_the_same(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "photos", parts=("train", "test"), each=4)
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*.png")):
            file.write(path, f"photos/{path.relative_to(folder)}")
        file.writestr("photos/.DS_Store", b"")
        file.writestr("__MACOSX/photos/._00.png", b"")
    from_folder, from_archive = load(folder), load(archive)
    assert len(from_folder.test) == 12
    assert from_folder.sha256 == from_archive.sha256


def test_a_validation_part_without_a_test_part_is_the_test_part(tmp_path: Path) -> None:
    dataset = load(make_folder(tmp_path / "photos", parts=("train", "val"), each=4))
    assert len(dataset.test) == 12
    assert any("validation part is the test part" in note for note in dataset.notes)


def test_damaged_files_are_left_out_and_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "photos")
    (folder / "kind 1" / "cut off.jpg").write_bytes(encoded(draw(1), "JPEG")[:300])
    (folder / "kind 2" / "text.png").write_bytes(b"hello")
    (folder / "notes.txt").write_text("no picture")
    dataset = load(folder)
    assert sum(len(split) for split in dataset.parts.values()) == 36
    [note] = [note for note in dataset.notes if "left out" in note]
    assert "2 files" in note
    assert "cut off.jpg" in note
    assert "text.png" in note


def test_pictures_of_one_size_come_as_they_are_and_a_size_can_be_set(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"c{number}").mkdir()
        for place in range(8):
            (tmp_path / f"c{number}" / f"{place}.png").write_bytes(encoded(draw(9 * number + place, (24, 32))))
    assert load(tmp_path).train.x["image"].shape[1:] == (24, 32, 3)
    assert load(tmp_path, size=(48, 16)).train.x["image"].shape[1:] == (48, 16, 3)
    with pytest.raises(UsageError, match="height,width"):
        load(tmp_path, size=(48,))


def test_loose_pictures_have_no_class_but_can_be_embedded(tmp_path: Path) -> None:
    for place in range(8):
        (tmp_path / f"{place}.png").write_bytes(encoded(draw(place)))
    with pytest.raises(UsageError, match="one folder a class"):
        load(tmp_path)
    dataset = load(tmp_path, Task.EMBEDDING)
    assert dataset.labels == (tmp_path.stem,)
    assert list(dataset.train.y) == ["embedding"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["train/a/1.png", "b/2.png", "b/3.png"], "none does"),
        (["a/1.png", "b/2.png", "3.png"], "one folder a class"),
        (["a/1.png", "a/2.png", "a/3.png", "a/4.png"], "two classes"),
    ],
)
def test_a_wrong_layout_is_explained(tmp_path: Path, names: list[str], words: str) -> None:
    for number, name in enumerate(names):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(draw(number)))
    with pytest.raises(UsageError, match=words):
        load(tmp_path)


def test_a_folder_without_pictures_is_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(UsageError, match="tell its form"):
        load(tmp_path)
    with pytest.raises(UsageError, match="must hold pictures"):
        load(tmp_path, form="pictures")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"")
    with pytest.raises(UsageError, match="none whole"):
        load(tmp_path, form="pictures")


def test_names_of_pictures() -> None:
    assert is_picture("A/IMG_1.JPG")
    assert not is_picture("a.heic")


def test_a_picture_can_be_stretched_instead_of_cut(tmp_path: Path) -> None:
    values = np.zeros((10, 30, 3), np.uint8)
    values[:, 10:20] = 200
    stretched = decode(encoded(Image.fromarray(values)), (12, 12), stretch=True)
    assert (stretched[:, :3] < 50).all()
    assert (stretched[:, 6] == 200).all()
    dataset = load(make_folder(tmp_path / "photos"), fit="stretch")
    assert any("stretched" in note for note in dataset.notes)
    with pytest.raises(UsageError, match="crop or stretch"):
        load(tmp_path / "photos", fit="pad")
