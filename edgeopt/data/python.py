"""Samples from the user's own Python: `path: file.py:callable`, where the callable returns something like a list.

It has a length, and item `i` is a pair of a dict, from input names to arrays without the batch axis (images channels
first), and a label: a class index, or None in a split without labels.

    READS = ["scans"]

    def validation():
        return [({"image": image}, digit) for image, digit in read_scans(Path(__file__).parent / "scans")]

A stored result stands for the file, for what it imports beside and below it, and for the files that `READS` names: a
list, written out at the top of the file, of patterns relative to it, where a folder stands for all below it. What the
callable reads elsewhere is not known: new data there gives the old result until the file is changed, or compile runs
with `--fresh`.
"""

from __future__ import annotations

import ast
import functools
import glob
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt import keys, user_code
from edgeopt.data import Arrays, DataFormat, Dataset, digest_arrays, make_labels
from edgeopt.errors import DataError, did_you_mean

PAIRS = "an item is a pair: a dict from input names to arrays, and a label or None"


class Python(DataFormat):
    """A callable of the user's that returns pairs of inputs and label."""

    def open(self, path: Path, inputs: Sequence[str], classes: Sequence[str] | None) -> PythonDataset:
        file = _file(path)
        changed_ns = file.stat().st_mtime_ns if file.is_file() else 0
        return _open(path, tuple(inputs), None if classes is None else tuple(classes), changed_ns)

    def files(self, path: Path) -> list[Path]:
        """The file with its local imports, and what each of them names in `READS`. None of them is run."""
        closure = keys.local_closure(_file(path))
        named = {found for file in closure for pattern in _patterns(file) for found in _matching(file.parent, pattern)}
        return [*closure, *sorted(named - set(closure))]


class PythonDataset(Dataset):
    """What the user's callable returned, checked item by item."""

    def __init__(self, path: Path, inputs: Sequence[str], classes: Sequence[str] | None) -> None:
        self._path, self._inputs, self._classes = path, inputs, classes
        self._labels: NDArray[Any] | None = None
        self._items = user_code.call(path.parent, path.name, {}, DataError)
        missing = [method for method in ("__len__", "__getitem__") if not hasattr(self._items, method)]
        if missing:
            message = f"`{path}` returned {type(self._items).__name__}, which has no `{missing[0]}`"
            raise DataError(message, "return a list, or a class with `__len__` and `__getitem__`")

    def __len__(self) -> int:
        return len(self._items)

    def labels(self) -> NDArray[Any] | None:
        """Read from all items the first time, since nothing but the items has them."""
        if self._labels is None:
            labels = [self._item(index)[1] for index in range(len(self))]
            if all(label is None for label in labels):
                return None
            self._labels = make_labels(labels, self._classes, self.name)
        return self._labels

    def name(self, index: int) -> str:
        return f"item {index} of `{self._path}`"

    def read(self, indices: Sequence[int] | None = None) -> Iterator[Arrays]:
        for index in range(len(self)) if indices is None else indices:
            yield self._item(index)[0]

    def digests(self) -> Iterator[str]:
        return map(digest_arrays, self.read())

    def _item(self, index: int) -> tuple[Arrays, Any]:
        try:
            item = self._items[index]
        except Exception as error:  # the user's code may raise anything
            raised = user_code.where(error, self._path.parent)
            raise DataError(f"{self.name(index)} raised {raised}", "mend it, or leave it out") from error
        if not isinstance(item, (tuple, list)) or len(item) != 2 or not isinstance(item[0], Mapping):
            raise DataError(f"{self.name(index)} is no pair of a dict and a label", PAIRS)
        arrays, label = item
        for name in self._inputs:
            if name not in arrays:
                raise DataError(f"{self.name(index)} has no input `{name}`", did_you_mean(name, map(str, arrays)))
        return {name: np.asarray(arrays[name]) for name in self._inputs}, label


def _patterns(file: Path) -> list[str]:
    """The list called `READS` at the top level of a Python file, read from its text.

    Raises:
        DataError: it is not a list of strings, written out.
    """
    try:
        body = ast.parse(file.read_bytes()).body
    except (SyntaxError, ValueError):
        return []  # importing it will say what is wrong
    for statement in body:
        names = [statement.target] if isinstance(statement, ast.AnnAssign) else getattr(statement, "targets", [])
        if isinstance(statement, (ast.Assign, ast.AnnAssign)) and "READS" in map(_name, names):
            try:
                found = [] if statement.value is None else ast.literal_eval(statement.value)
            except ValueError:
                found = None
            if isinstance(found, (list, tuple)) and all(isinstance(each, str) and each for each in found):
                return list(found)
            what = f"`READS` in `{file}`, line {statement.lineno}, is not a list of strings"
            raise DataError(what, 'write it out, such as `READS = ["scans"]`: it is read without running the file')
    return []


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _matching(folder: Path, pattern: str) -> Iterator[Path]:
    """The files that a pattern stands for.

    Raises:
        DataError: there is none.
    """
    found = [Path(path) for path in glob.glob(str(folder / pattern), recursive=True)]
    files = [file for path in found for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    if not files:
        raise DataError(f"`READS` names `{pattern}`, and `{folder}` has no such file", "patterns are relative to it")
    yield from files


def _file(path: Path) -> Path:
    if ":" not in path.name:
        raise DataError(f"`{path}` names no callable", "write `path: file.py:callable`")
    return user_code.locate(path.parent, path.name)[0]


@functools.lru_cache(maxsize=8)
def _open(path: Path, inputs: tuple[str, ...], classes: tuple[str, ...] | None, changed_ns: int) -> PythonDataset:
    # Samples are opened often, and what the user's callable does may take long. `changed_ns` is in the key, so that an
    # edited file is run again.
    return PythonDataset(path, inputs, classes)
