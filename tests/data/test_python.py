"""Python: the user's own samples, and faults in the user's code with file and line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeopt.data.python import Python, PythonDataset
from edgeopt.errors import DataError

SOUND = """
import numpy as np

def validation():
    return [({"image": np.full((1, 2, 2), i, np.uint8), "more": 0}, i % 2) for i in range(4)]

def unlabelled():
    return [({"image": [[1.0]]}, None)]
"""


def write(folder: Path, text: str) -> Path:
    (folder / "samples.py").write_text(text)
    return folder / "samples.py"


def open_split(path: str | Path, classes: tuple[str, ...] | None = None) -> PythonDataset:
    return Python().open(Path(path), ["image"], classes)


def fault(folder: Path, body: str, classes: tuple[str, ...] | None = None) -> DataError:
    path = write(folder, body)

    def read_all() -> None:
        split = open_split(f"{path}:validation", classes)
        list(split.read())
        split.labels()

    with pytest.raises(DataError) as caught:
        read_all()
    return caught.value


def test_items_become_samples(tmp_path: Path) -> None:
    split = open_split(f"{write(tmp_path, SOUND)}:validation", ("even", "odd"))
    assert len(split) == 4
    labels = split.labels()
    assert labels is not None
    assert labels.tolist() == [0, 1, 0, 1]
    assert [sample["image"].max() for sample in split.read([1, 3])] == [1, 3]
    assert list(next(split.read())) == ["image"]
    assert len(set(split.digests())) == 4
    assert split.name(3) == f"item 3 of `{tmp_path}/samples.py:validation`"


def test_a_split_may_have_no_labels(tmp_path: Path) -> None:
    split = open_split(f"{write(tmp_path, SOUND)}:unlabelled")
    assert split.labels() is None
    assert np.array_equal(next(split.read())["image"], [[1.0]])


def test_opening_again_does_not_call_again_until_the_file_changes(tmp_path: Path) -> None:
    path = write(tmp_path, "def validation():\n    print('called')\n    return [({'image': [1]}, 0)]\n")
    first = open_split(f"{path}:validation")
    assert open_split(f"{path}:validation") is first
    write(tmp_path, "def validation():\n    return [({'image': [1]}, 0)] * 2\n")
    os.utime(path, ns=(1, 1))
    assert len(open_split(f"{path}:validation")) == 2


def test_its_files_are_the_file_and_what_it_imports(tmp_path: Path) -> None:
    (tmp_path / "scans.py").write_text("SCANS = [1]\n")
    path = write(tmp_path, "from scans import SCANS\ndef validation():\n    return [({'image': SCANS}, 0)]\n")
    assert Python().files(Path(f"{path}:validation")) == [path, tmp_path / "scans.py"]
    assert next(open_split(f"{path}:validation").read())["image"].tolist() == [1]


def test_the_files_that_it_says_it_reads_are_its_files_too(tmp_path: Path) -> None:
    for name in ("scans/one.npy", "scans/deep/two.npy", "lists/a.csv", "lists/b.txt", "other.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "lists.py").write_text("READS: list[str] = ['lists/*.csv']\n")
    path = write(tmp_path, "import lists\nREADS = ['scans']\nraise SystemExit('run, and not only read')\n")
    named = [tmp_path / name for name in ("lists/a.csv", "scans/deep/two.npy", "scans/one.npy")]
    assert Python().files(Path(f"{path}:validation")) == [tmp_path / "lists.py", path, *named]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("READS = 'scans'", "line 1, is not a list of strings"),
        ("READS = [3]", "line 1, is not a list of strings"),
        ("READS = list_scans()", "line 1, is not a list of strings"),
        ("READS = ['']", "line 1, is not a list of strings"),
        ("READS = ['scans']", "`READS` names `scans`, and "),
    ],
)
def test_a_wrong_list_of_what_it_reads_is_refused(tmp_path: Path, line: str, says: str) -> None:
    path = write(tmp_path, f"{line}\ndef validation(): ...\n")
    with pytest.raises(DataError) as caught:
        Python().files(Path(f"{path}:validation"))
    assert says in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("x = \n", "invalid syntax (samples.py, line 1)"),
        ("import absent_module\n", "ModuleNotFoundError: No module named 'absent_module' (samples.py, line 1)"),
        ("def validation():\n    raise KeyError('oops')\n", "KeyError: 'oops' (samples.py, line 2)"),
        ("def validation():\n    raise SystemExit(0)\n", "SystemExit: 0 (samples.py, line 2)"),
        ("def validaton():\n    pass\n", "has no callable `validation`"),
        ("def validation():\n    return 3\n", "returned int, which has no `__len__`"),
        ("def validation():\n    return [3]\n", "item 0 of "),
        ("def validation():\n    return [({'img': [1]}, 0)]\n", "has no input `image`"),
        ("def validation():\n    return [({'image': [1]}, 'cat')]\n", "the label of item 0 of "),
        ("def validation():\n    return [({'image': [1]}, True)]\n", "is `True`, not an integer"),
        ("def validation():\n    return [({'image': [1]}, None), ({'image': [1]}, 1)]\n", "is `None`, not an integer"),
        ("def validation():\n    return [({'image': [1]}, 1), ({'image': [1]}, 2)]\n", "is 2, allowed: 0 to 1"),
    ],
)
def test_faults_of_the_users_code_are_named(tmp_path: Path, body: str, says: str) -> None:
    assert says in fault(tmp_path, body, ("a", "b")).message


def test_a_fault_in_an_item_is_named_with_its_line(tmp_path: Path) -> None:
    body = """
class Scans:
    def __len__(self):
        return 2
    def __getitem__(self, index):
        return {"image": [1]}[index], 0
def validation():
    return Scans()
"""
    error = fault(tmp_path, body)
    assert error.message.startswith("item 0 of ")
    assert "KeyError: 0 (samples.py, line 6)" in error.message


@pytest.mark.parametrize("path", ["samples.py", "absent.py:validation"])
def test_a_path_without_a_callable_or_file_is_refused(tmp_path: Path, path: str) -> None:
    write(tmp_path, SOUND)
    with pytest.raises(DataError) as caught:
        open_split(tmp_path / path)
    assert caught.value.hint


def test_torch_tensors_are_arrays_too(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    body = "import torch\ndef validation():\n    return [({'image': torch.ones(1, 2, 2)}, torch.tensor(1).item())]\n"
    sample: dict[str, Any] = next(open_split(f"{write(tmp_path, body)}:validation").read())
    assert np.array_equal(sample["image"], np.ones((1, 2, 2)))
