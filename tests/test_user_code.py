"""The user's code: called as named, and its faults told with file and line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from edgeopt import user_code
from edgeopt.errors import DataError, SourceError


def call(root: Path, name: str = "own.py:make", **options: Any) -> Any:
    return user_code.call(root, name, options, SourceError)


def write(folder: Path, text: str, name: str = "own.py") -> None:
    (folder / name).write_text(text)


def test_a_callable_is_called_with_its_options(tmp_path: Path) -> None:
    write(tmp_path, "def make(a, b=2):\n    return a + b\n")
    assert call(tmp_path, a=3) == 5


def test_files_beside_it_can_be_imported_at_once_and_later(tmp_path: Path) -> None:
    write(tmp_path, "ONE = 1\n", "beside_one.py")
    write(tmp_path, "TWO = 2\n", "beside_two.py")
    write(tmp_path, "from beside_one import ONE\ndef make():\n    from beside_two import TWO\n    return ONE + TWO\n")
    before = list(sys.path)
    assert call(tmp_path) == 3
    assert sys.path == before


def test_files_of_one_name_in_two_folders_stay_apart(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        write(tmp_path / str(number), f"class Made:\n    number = {number}\ndef make():\n    return Made()\n")
    first, second = call(tmp_path, "1/own.py:make"), call(tmp_path, "2/own.py:make")
    assert (first.number, second.number) == (1, 2)
    assert sys.modules[type(first).__module__].Made is type(first)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def make(:\n", "SyntaxError: invalid syntax (own.py, line 1)"),
        ("1 / 0\n", "importing `{path}` raised ZeroDivisionError: division by zero (own.py, line 1)"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3 (own.py, line 2)"),
        ("def make(width):\n\n    raise ValueError('too\\nwide')\n", "raised ValueError: too wide (own.py, line 3)"),
        ("def make(wdith):\n    pass\n", "unexpected keyword argument 'width'"),
        ("make = 3\n", "`{path}` has no callable `make`"),
    ],
)
def test_faults_are_one_line_that_says_where(tmp_path: Path, text: str, says: str) -> None:
    write(tmp_path, text)
    with pytest.raises(SourceError) as caught:
        call(tmp_path, width=4)
    assert says.format(path=tmp_path / "own.py") in caught.value.message
    assert "\n" not in caught.value.message


def test_the_innermost_of_the_users_own_lines_is_named(tmp_path: Path) -> None:
    write(tmp_path, "import json\ndef read():\n    return json.loads('{')\n", "beside_three.py")
    write(tmp_path, "import beside_three\ndef make():\n    return beside_three.read()\n")
    with pytest.raises(SourceError, match=r"JSONDecodeError: .* \(beside_three.py, line 3\)"):
        call(tmp_path)


def test_a_wrong_file_or_name_comes_with_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, "def make():\n    pass\n")
    for name, hint in (("onw.py:make", "did you mean `own.py`?"), ("own.py:mkae", "did you mean `make`?")):
        with pytest.raises(SourceError) as caught:
            call(tmp_path, name)
        assert caught.value.hint == hint
    with pytest.raises(SourceError, match="there is no file"):
        call(tmp_path / "absent")


def test_the_error_is_of_the_kind_asked_for_and_says_how_it_was_called(tmp_path: Path) -> None:
    write(tmp_path, "def make(**options):\n    raise KeyError\n")
    with pytest.raises(DataError) as caught:
        user_code.call(tmp_path, "own.py:make", {"a": 1, "b": "x"}, DataError)
    assert caught.value.message == "`own.py:make` raised KeyError (own.py, line 2)"
    assert caught.value.hint == "it was called as `make(a=1, b='x')`"
