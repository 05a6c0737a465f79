"""The text of a draft: sound whatever the names are, the same each time, and with every guess marked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.recipe import make_recipe
from edgeopt.recipe.document import parse
from edgeopt.recipe.draft import DataDraft, Draft, SplitDraft, TargetDraft, flow, list_checks, write_draft

DATA = DataDraft("npz", {"calibration": SplitDraft("c.npz", 512), "validation": SplitDraft("v.npz")}, preprocess={})
DRAFT = Draft("net", "net.onnx", {"onnx": "net.onnx"}, {}, DATA, [TargetDraft("cpu", ["onnxruntime_cpu"])], classes=10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("c.npz", "v.npz", "net.onnx"):
        (tmp_path / name).touch()
    return tmp_path


plain = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp", "Co", "Cn")))
scalars = (
    plain | st.integers(-(2**53), 2**53) | st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False)
)


@given(st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(plain, inner), max_leaves=8))
def test_a_value_on_one_line_is_read_back_as_it_was(value: Any) -> None:
    document = parse(f"key: {flow(value)}  # and a comment")
    assert document.faults == []
    assert document.data == {"key": value}
    assert "\n" not in flow(value)


@pytest.mark.parametrize("names", [["no", "yes"], ["0", "1"], ["a, b", "c: d"], ["'", '"'], ["~", "null"], ["é", "#x"]])
def test_classes_are_read_back_whatever_they_are_called(names: list[str], folder: Path) -> None:
    text = write_draft(replace(DRAFT, data=replace(DATA, classes=names)))
    assert make_recipe(text, folder / "recipe.yaml").data.classes == names


def test_many_classes_are_wrapped(folder: Path) -> None:
    names = [f"class number {number}" for number in range(1000)]
    text = write_draft(replace(DRAFT, data=replace(DATA, classes=names, classes_known=True)))
    assert max(map(len, text.splitlines())) <= 120
    assert make_recipe(text, folder / "recipe.yaml").data.classes == names


def test_checks_are_the_lines_that_are_marked(folder: Path) -> None:
    assert list_checks(write_draft(DRAFT)) == []
    text = write_draft(replace(DRAFT, inputs={"image": (3, 8, 8)}, inputs_note="a guess", data=replace(DATA, count=9)))
    lines = text.splitlines()
    for check in list_checks(text):
        number, _, what = check.partition(": ")
        assert lines[int(number) - 1].endswith(f"# CHECK: {what}")
    assert [check.partition(": ")[2] for check in list_checks(text)] == [
        "a guess", "9 validation samples may be too few to decide a budget of a point: take 500 or more",
    ]  # fmt: skip
    assert make_recipe(text, folder / "recipe.yaml").model.inputs["image"].shape == [3, 8, 8]


def test_notes_of_targets_stand_above_them(folder: Path) -> None:
    target = TargetDraft("pi", ["onnxruntime_cpu"], ["asimd"], ["not here: x", "CHECK: y"])
    text = write_draft(replace(DRAFT, targets=[target]))
    assert "  - name: pi\n    # not here: x\n    # CHECK: y\n    backends: [onnxruntime_cpu]\n" in text
    assert make_recipe(text, folder / "recipe.yaml").targets[0].isa == ["asimd"]


def test_what_is_not_in_integers_is_in_float16_in_an_engine() -> None:
    text = write_draft(replace(DRAFT, targets=[TargetDraft("orin", ["tensorrt"])]))
    assert "      fp16: [cast_fp16: {}]\n      int8: [quantize_int8: {}, cast_fp16: {}]\n" in text
    assert "cast_fp16" not in write_draft(DRAFT)
