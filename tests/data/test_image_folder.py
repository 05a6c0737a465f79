"""ImageFolder: real image files, every one of them read or named."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeopt.data.image_folder import ImageFolder, ImageFolderDataset, class_names, load_image
from edgeopt.errors import DataError

RAMP = np.arange(12 * 10 * 3, dtype=np.uint16).reshape(12, 10, 3).astype(np.uint8)


def save(path: Path, pixels: NDArray[Any] = RAMP) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "dog/b.png")
    save(tmp_path / "dog/a.PNG", RAMP[::-1].copy())
    save(tmp_path / "cat/c.bmp", 255 - RAMP)
    (tmp_path / "README.md").write_text("where these come from")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "dog/.DS_Store").write_text("")
    return tmp_path


def open_split(path: Path, classes: tuple[str, ...] | None = None) -> ImageFolderDataset:
    return ImageFolder().open(path, ["image"], classes)


def fault(path: Path, classes: tuple[str, ...] | None = None) -> DataError:
    with pytest.raises(DataError) as caught:
        list(open_split(path, classes).read())
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value


def test_samples_come_class_by_class_in_the_order_of_names(folder: Path) -> None:
    split = open_split(folder)
    assert [split.name(index) for index in range(len(split))] == [
        f"`{folder / name}`" for name in ("cat/c.bmp", "dog/a.PNG", "dog/b.png")
    ]
    assert split.labels().tolist() == [0, 1, 1]
    images = [sample["image"] for sample in split.read()]
    assert [image.shape for image in images] == [(3, 12, 10)] * 3
    assert np.array_equal(images[2], RAMP.transpose(2, 0, 1))
    assert np.array_equal(next(split.read([1]))["image"], RAMP[::-1].transpose(2, 0, 1))


def test_the_recipe_decides_the_order_of_classes_and_may_name_more(folder: Path) -> None:
    split = open_split(folder, ("dog", "bird", "cat"))
    assert split.labels().tolist() == [0, 0, 2]
    assert split.name(0) == f"`{folder / 'dog/a.PNG'}`"


def test_a_folder_that_is_no_class_is_refused(folder: Path) -> None:
    error = fault(folder, ("cat", "dogs"))
    assert "none of the recipe's classes" in error.message
    assert error.hint == "did you mean `dogs`?"


def test_digests_are_those_of_the_files_and_files_lists_them_all(folder: Path) -> None:
    files = ImageFolder().files(folder)
    assert [file.name for file in files] == ["c.bmp", "a.PNG", "b.png"]
    assert list(open_split(folder).digests()) == [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "bmp", "webp"])
def test_a_truncated_image_is_named_whatever_its_kind(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = save(tmp_path / f"cat/a.{suffix}", noise)
    assert load_image(path).shape == (3, 64, 64)
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 40):
        path.write_bytes(whole[:size])
        assert f"`{path}` cannot be read as an image" in fault(tmp_path).message


def test_text_under_an_image_name_is_named(tmp_path: Path) -> None:
    save(tmp_path / "cat/a.png")
    (tmp_path / "cat/b.png").write_text("not an image")
    assert "b.png` cannot be read" in fault(tmp_path).message


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_other_kinds_of_pixels_become_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(RAMP).convert(mode)
    image.save(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"))
    loaded = load_image(next(tmp_path.iterdir()))
    assert loaded.shape == (3, 12, 10)
    assert loaded.dtype == np.uint8
    if mode != "CMYK":
        assert np.array_equal(loaded, np.asarray(image.convert("RGB")).transpose(2, 0, 1))


def test_more_than_8_bits_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    save(tmp_path / "cat/a.png", np.full((4, 4), 40000, np.uint16))
    assert "not 8 bits" in fault(tmp_path).message


def test_a_huge_image_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "cat/a.png")
    for limit in (119, 59):  # Pillow warns above its limit, and raises above twice its limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert "too large" in fault(tmp_path).message
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 120)
    assert load_image(tmp_path / "cat/a.png").shape == (3, 12, 10)


def test_nothing_is_skipped(folder: Path) -> None:
    (folder / "dog/notes.txt").write_text("")
    assert "notes.txt` is not an image" in fault(folder).message
    (folder / "dog/notes.txt").unlink()
    (folder / "dog/puppies.png").mkdir()
    assert "puppies.png` is not an image" in fault(folder).message
    (folder / "dog/puppies.png").rmdir()
    save(folder / "stray.jpg")
    assert "stray.jpg` lies in no class folder" in fault(folder).message


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    assert "there is no folder" in fault(tmp_path / "absent").message
    assert "no class folders" in fault(tmp_path).message


def test_a_network_with_two_inputs_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="feeds one input, the network has 2: left, right"):
        ImageFolder().open(folder, ["left", "right"], None)


def test_class_names_are_in_the_order_of_the_labels(folder: Path) -> None:
    assert class_names(folder) == ["cat", "dog"]
    dataset = open_split(folder)
    for index, label in enumerate(dataset.labels()):
        assert f"/{class_names(folder)[label]}/" in dataset.name(index)
