"""Inputs of a draft: said, taken from the samples, or asked for one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeopt.drafting import Question
from edgeopt.drafting.source import Given, parse_inputs, settle_inputs
from edgeopt.errors import UsageError
from edgeopt.model import TensorSpec
from edgeopt.sources import SourceRequest


def given(**shapes: tuple[int | str, ...]) -> Given:
    declared = tuple(TensorSpec(name=name, shape=shape) for name, shape in shapes.items())
    return Given({}, SourceRequest(root=Path()), declared)


def refuse(question: Question) -> Any:
    raise AssertionError(question.text)


def test_what_an_onnx_file_says_is_not_said_again() -> None:
    assert settle_inputs(given(a=(3, 8, 8), b=(4,)), {"a": (3, 8, 8)}, refuse) == ({}, "")


def test_only_the_inputs_that_are_open_are_asked_for() -> None:
    asked: list[Question] = []

    def answer(question: Question) -> Any:
        asked.append(question)
        with pytest.raises(UsageError, match="does not fit"):
            question.parse("4x8x8")
        return question.parse("3x9x9")

    found, note = settle_inputs(given(a=(3, "h", "w"), b=(4,), c=("n",)), {"c": (7,)}, answer)
    assert found == {"a": (3, 9, 9), "b": (4,), "c": (7,)}
    assert [question.option for question in asked] == ["--input"]
    assert "`a` leaves sizes open, [3, h, w]" in asked[0].text
    assert "as in `--input a=3x224x224`; once for each input" in asked[0].hint
    assert note.startswith("the shape of the samples")  # that of `c`


def test_samples_that_do_not_fit_what_is_fixed_suggest_nothing() -> None:
    asked: list[str] = []
    found, note = settle_inputs(
        given(a=(1, "h", "w")),
        {"a": (3, 8, 8)},
        lambda question: asked.append(question.text) or question.parse("1x8x8"),
    )
    assert (found, note, len(asked)) == ({"a": (1, 8, 8)}, "", 1)


@pytest.mark.parametrize(
    ("texts", "names", "found"),
    [
        (["3x8x9"], [], {"image": (3, 8, 9)}),
        (["3x8x9"], ["x"], {"x": (3, 8, 9)}),
        (["b=7", "a=3x4"], ["a", "b"], {"b": (7,), "a": (3, 4)}),
        (["input.1=3x8x8"], ["input.1"], {"input.1": (3, 8, 8)}),
    ],
)
def test_a_shape_is_said_with_a_name_or_without(texts: list[str], names: list[str], found: dict[str, Any]) -> None:
    assert parse_inputs(texts, names) == found
    assert list(parse_inputs(texts, names)) == list(found)  # a torch network is fed in this order


@pytest.mark.parametrize("text", ["", "image=", "=3", "3x", "x3", "3x0x3", "3x-1", "3,8,8", "image=3xHxW", "1.5x3"])
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no shape"):
        parse_inputs([text])


def test_a_shape_for_one_of_several_inputs_has_a_name() -> None:
    with pytest.raises(UsageError, match="names no input") as caught:
        parse_inputs(["3x8x8"], ["a", "b"])
    assert caught.value.hint == "write `a=3x8x8`; there are 2"
