"""Samples in one .npz file: an array for each input, samples first, and optionally `labels`.

Images are stored (N, C, H, W). Rows are streamed out of the zip members one at a time, stored or deflated alike, so a
file may be much larger than the memory. Nothing in it is ever unpickled.
"""

from __future__ import annotations

import contextlib
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from edgeopt import files
from edgeopt.data import Arrays, DataFormat, Dataset, Samples, digest_arrays, make_labels
from edgeopt.errors import DataError, did_you_mean

LABELS = "labels"

#: of each member of a file that is written here: the same rows give the same bytes
_FIRST_OF_1980 = (1980, 1, 1, 0, 0, 0)
_ROWS_AT_ONCE = 64
STORE_ANEW = "write the file again with `numpy.savez`"


class Npz(DataFormat):
    """One .npz file."""

    def open(self, path: Path, inputs: Sequence[str], classes: Sequence[str] | None) -> NpzDataset:
        return NpzDataset(path, inputs, classes)


def input_names(path: Path) -> list[str]:
    """The names of the arrays in the file, `labels` left out.

    Raises:
        DataError: it is no .npz file.
    """
    with _named_faults(path), zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    return [name for name in names if name != LABELS]


def write_prepared(samples: Samples, path: Path) -> None:
    """What a worker runs: write samples as they are prepared, with their labels, as rows of an .npz file.

    It streams, and the same samples give the same bytes.

    Raises:
        DataError: a sample cannot be read, or there is none.
    """
    count, labels = len(samples), samples.labels()
    first = next(samples.batches(1), None)
    if first is None:
        raise DataError(f"`{samples.path}` has no samples", "name a split that has some")
    with files.create(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        for name, array in first.inputs.items():
            with _new_member(archive, name, array.dtype, (count, *array.shape[1:])) as member:
                for batch in samples.batches(_ROWS_AT_ONCE):
                    member.write(np.ascontiguousarray(batch.inputs[name]).tobytes())
        if labels is not None:
            with _new_member(archive, LABELS, labels.dtype, labels.shape) as member:
                member.write(np.ascontiguousarray(labels).tobytes())


@contextlib.contextmanager
def _new_member(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> Iterator[IO[bytes]]:
    """An array of the file, its header written, open for its rows."""
    info = zipfile.ZipInfo(f"{name}.npy", _FIRST_OF_1980)
    with archive.open(info, "w", force_zip64=True) as member:
        header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(member, header)
        yield member


@dataclass(frozen=True)
class Header:
    """What the header of an array in the file says, and where its rows begin."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start_bytes: int

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape[1:])


class NpzDataset(Dataset):
    """The rows of an .npz file. Headers and labels are read when it is opened, the rest while it is iterated."""

    def __init__(self, path: Path, inputs: Sequence[str], classes: Sequence[str] | None) -> None:
        self._path = path
        if not path.is_file():
            raise DataError(f"there is no file `{path}`", did_you_mean(path.name, _neighbours(path)))
        with _named_faults(path), zipfile.ZipFile(path) as archive:
            self._headers = {name: _read_header(archive, name, path) for name in inputs}
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            self._labels = _read_labels(archive, path) if LABELS in names else None
            unused = [name for name in names if name not in (*inputs, LABELS) and _is_like_labels(archive, name, path)]
        if unused and self._labels is None:
            message = f"`{path}` has no `{LABELS}`, and `{unused[0]}`, which nothing uses"
            raise DataError(message, f"call it `{LABELS}` if it is that, or take it out")
        counts = {name: header.shape[0] for name, header in self._headers.items()}
        if self._labels is not None:
            counts[LABELS] = len(self._labels)
        if len(set(counts.values())) != 1:
            listed = ", ".join(f"`{name}` {count}" for name, count in counts.items())
            message = f"the arrays of `{path}` have different numbers of rows: {listed}"
            raise DataError(message, "each row is one sample")
        self._count = next(iter(counts.values()))
        if self._labels is not None:
            self._labels = make_labels(self._labels, classes, self.name)

    def __len__(self) -> int:
        return self._count

    def labels(self) -> NDArray[Any] | None:
        return self._labels

    def name(self, index: int) -> str:
        return f"row {index} of `{self._path}`"

    def read(self, indices: Sequence[int] | None = None) -> Iterator[Arrays]:
        wanted = range(self._count) if indices is None else indices
        with _named_faults(self._path), contextlib.ExitStack() as stack:
            archive = stack.enter_context(zipfile.ZipFile(self._path))
            readers = {name: self._open_rows(archive, name, stack) for name in self._headers}
            position = 0
            for index in wanted:
                if not position <= index < self._count:
                    raise DataError(f"{self.name(index)} cannot be read after row {position - 1} of {self._count}")
                for skipped in range(position, index):
                    self._read_row(readers, skipped)
                position = index + 1
                yield self._read_row(readers, index)

    def digests(self) -> Iterator[str]:
        return map(digest_arrays, self.read())

    def _open_rows(self, archive: zipfile.ZipFile, name: str, stack: contextlib.ExitStack) -> IO[bytes]:
        stream = stack.enter_context(archive.open(f"{name}.npy"))
        stream.read(self._headers[name].start_bytes)
        return stream

    def _read_row(self, readers: dict[str, IO[bytes]], index: int) -> Arrays:
        row: Arrays = {}
        for name, stream in readers.items():
            header = self._headers[name]
            data = stream.read(header.row_bytes)
            if len(data) < header.row_bytes:
                raise DataError(f"{self.name(index)} is cut off", STORE_ANEW)
            row[name] = np.frombuffer(data, header.dtype).reshape(header.shape[1:])
        return row


def _read_header(archive: zipfile.ZipFile, name: str, path: Path) -> Header:
    arrays = [member.removesuffix(".npy") for member in archive.namelist()]
    if name not in arrays:
        raise DataError(f"`{path}` has no array `{name}`", did_you_mean(name, arrays))
    member = archive.getinfo(f"{name}.npy")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"`{name}` in `{path}` is compressed in an unknown way", STORE_ANEW)
    with archive.open(member) as stream:
        version = npy.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise DataError(f"`{name}` in `{path}` has the unknown .npy version {version}", STORE_ANEW)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran_order, dtype = read(stream)
        header = Header(dtype, shape, stream.tell())
    _check_header(header, fortran_order, f"`{name}` in `{path}`")
    if header.start_bytes + shape[0] * header.row_bytes != member.file_size:
        raise DataError(f"`{name}` in `{path}` does not have the size that its shape {shape} needs", STORE_ANEW)
    return header


def _check_header(header: Header, fortran_order: bool, called: str) -> None:
    if header.dtype.hasobject:
        raise DataError(f"{called} holds Python objects, which would have to be unpickled", "store an array of numbers")
    if header.dtype.kind not in "buif":
        raise DataError(f"{called} has dtype `{header.dtype}`, not numbers", "store uint8 or float32")
    if not header.shape:
        raise DataError(f"{called} is a single number", "store an array with one row per sample")
    if fortran_order and len(header.shape) > 1:
        message = f"{called} is in Fortran order, so its rows cannot be streamed"
        raise DataError(message, "store `numpy.ascontiguousarray(array)`")


def _read_labels(archive: zipfile.ZipFile, path: Path) -> NDArray[Any]:
    header = _read_header(archive, LABELS, path)
    column = math.prod(header.shape[1:]) == 1 and len(header.shape) > 1
    if not header.shape or column or header.dtype.kind not in "iu":
        message = f"`{LABELS}` in `{path}` has shape {header.shape} and dtype `{header.dtype}`"
        raise DataError(message, "store one class index, an integer from 0, for each row, or an integer mask")
    with archive.open(f"{LABELS}.npy") as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _is_like_labels(archive: zipfile.ZipFile, name: str, path: Path) -> bool:
    """Whether an array is one integer for each row: labels under another name, most likely."""
    if f"{name}.npy" not in archive.namelist():
        return False
    header = _read_header(archive, name, path)
    return len(header.shape) == 1 and header.dtype.kind in "iu"


@contextlib.contextmanager
def _named_faults(path: Path) -> Iterator[None]:
    """What zipfile, zlib and numpy raise on a damaged file, as one error that names it."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"`{path}` is not a sound .npz file: {reason}", STORE_ANEW) from error


def _neighbours(path: Path) -> list[str]:
    return [file.name for file in path.parent.glob("*.npz")] if path.parent.is_dir() else []
