"""Samples as image files: `path/<class>/<file>`, classes by folder name, files in the order of their names.

Nothing is skipped: a damaged image, a file that is no image, a folder that is no class are errors that name it. Only
hidden files, and other files beside the class folders, are left alone.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgeopt.data import Arrays, DataFormat, Dataset
from edgeopt.errors import DataError, did_you_mean

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
DECODERS = ("JPEG", "PNG", "BMP", "WEBP")
#: what Pillow turns into RGB without loss of range; 16-bit and float images are not among them
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
LAYOUT = "lay images out as `<class>/<file>`"


class ImageFolder(DataFormat):
    """A folder of class folders of images."""

    def open(self, path: Path, inputs: Sequence[str], classes: Sequence[str] | None) -> ImageFolderDataset:
        if len(inputs) != 1:
            message = f"an image folder feeds one input, the network has {len(inputs)}: {', '.join(inputs)}"
            raise DataError(message, "use `format: npz` or `format: python`")
        return ImageFolderDataset(path, inputs[0], classes)

    def files(self, path: Path) -> list[Path]:
        return [Path(file) for folder in _class_folders(path) for file in _images(folder)]


class ImageFolderDataset(Dataset):
    """The images of a folder of class folders: class by class, and in each by file name."""

    def __init__(self, path: Path, input_name: str, classes: Sequence[str] | None) -> None:
        self._input = input_name
        folders = {folder.name: folder for folder in _class_folders(path)}
        names = list(folders) if classes is None else list(classes)
        for name in folders:
            if name not in names:
                message = f"the folder `{folders[name]}` is none of the recipe's classes"
                raise DataError(message, did_you_mean(name, names))
        self._samples = [
            (file, label) for label, name in enumerate(names) if name in folders for file in _images(folders[name])
        ]

    def __len__(self) -> int:
        return len(self._samples)

    def labels(self) -> NDArray[np.int64]:
        return np.array([label for _, label in self._samples], dtype=np.int64)

    def name(self, index: int) -> str:
        return f"`{self._samples[index][0]}`"

    def read(self, indices: Sequence[int] | None = None) -> Iterator[Arrays]:
        for index in range(len(self)) if indices is None else indices:
            yield {self._input: load_image(self._samples[index][0])}

    def digests(self) -> Iterator[str]:
        for file, _ in self._samples:
            yield hashlib.sha256(_read(file)).hexdigest()


def class_names(path: Path) -> list[str]:
    """The names of the class folders, in the order of the labels that they stand for where no other is given.

    Raises:
        DataError: there is no such folder, or it is not laid out as classes.
    """
    return [folder.name for folder in _class_folders(path)]


def load_image(path: str | Path) -> NDArray[np.uint8]:
    """An image file as RGB, (3, H, W) uint8: transparency is dropped, and a rotation noted in the file is not applied.

    Raises:
        DataError: the file is damaged, no image of a known kind, too large, or has more than 8 bits per channel.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return decode_image(path, f"`{path}`")


def decode_image(
    source: str | Path | BinaryIO, name: str, *, gray: bool = False, most_pixels: int | None = None
) -> NDArray[np.uint8]:
    """What `load_image` gives, of an opened file too, or (1, H, W) in gray; several threads may call it at once.

    Args:
        name: what to call the image in a message.
        most_pixels: an image with more is refused before it is decoded.

    Raises:
        DataError: it is damaged, no image of a known kind, too large, or has more than 8 bits per channel.
    """
    from PIL import Image

    try:
        with Image.open(source, formats=DECODERS) as image:
            if image.mode not in MODES:
                raise DataError(f"{name} has pixels of kind `{image.mode}`, not 8 bits", "convert it to 8 bits")
            if most_pixels is not None and image.width * image.height > most_pixels:
                what = f"{name} is too large: {image.width}x{image.height} pixels, at most {most_pixels} are allowed"
                raise DataError(what, "scale it down")
            pixels = np.asarray(image.convert("RGB").convert("L") if gray else image.convert("RGB"))
    except (DataError, MemoryError):
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"{name} is too large: {error}", "scale it down") from error
    except Exception as error:  # what decoders raise on damaged files has no common base
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{name} cannot be read as an image: {reason}", "mend the file, or take it out") from error
    return pixels[None] if gray else pixels.transpose(2, 0, 1)


def _class_folders(path: Path) -> list[Path]:
    if not path.is_dir():
        raise DataError(f"there is no folder `{path}`", LAYOUT)
    entries = _visible(path)
    for entry in entries:
        if entry.name.lower().endswith(SUFFIXES) and not entry.is_dir():
            raise DataError(f"the image `{entry.path}` lies in no class folder", LAYOUT)
    folders = [Path(entry.path) for entry in entries if entry.is_dir()]
    if not folders:
        raise DataError(f"`{path}` has no class folders", LAYOUT)
    return folders


def _images(folder: Path) -> list[str]:
    """Plain text: to make a `Path` of each takes six times as long as to list them."""
    entries = _visible(folder)
    for entry in entries:
        if not entry.name.lower().endswith(SUFFIXES) or entry.is_dir():
            raise DataError(
                f"`{entry.path}` is not an image, known: {', '.join(SUFFIXES)}", "take it out, or convert it"
            )
    return [entry.path for entry in entries]


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name, hidden things left out; read in one go, as folders hold many thousand images."""
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read `{path}`: {error.strerror}", "make it readable, or take it out") from error
