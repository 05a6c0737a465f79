"""YAML that surprises, harms or is no YAML: each is told at its line and column, and nothing is ever raised."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeopt.recipe.document import MAX_BYTES, MAX_DEPTH, UNPRINTABLE, Document, parse


def faults(text: str) -> list[str]:
    return [str(fault) for fault in parse(text).faults]


def value_of(text: str) -> Any:
    document = parse(f"key: {text}\n")
    assert not document.faults, document.faults
    return document.data["key"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10), ("0o10", 8), ("0x1F", 31), ("-3", -3), ("+5", 5), ("1.5", 1.5), ("1e3", 1000.0), (".5", 0.5),
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("off", "off"), ("y", "y"), ("nan", "nan"), ("inf", "inf"),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None), ("1:30", "1:30"), ("=", "="),
        ("2001-01-01", "2001-01-01"), ('"1"', "1"), ("'true'", "true"), ("''", ""), ("Ünïcode ☃", "Ünïcode ☃"),
    ],
)  # fmt: skip
def test_plain_words_mean_what_yaml_1_2_says(text: str, value: Any) -> None:
    assert value_of(text) == value
    assert type(value_of(text)) is type(value)


@pytest.mark.parametrize(
    "number", [".nan", ".NaN", ".inf", "-.INF", "+.inf", "1e999", "-1e400", "9" * 5000, "0x" + "f" * 5000, "1" * 20]
)
def test_a_number_that_is_not_finite_or_too_long_is_refused(number: str) -> None:
    (fault,) = faults(f"a: 1\nb: {{c: {number}}}\n")
    assert fault.startswith("2:8: `")
    assert "finite number" in fault
    assert len(fault) < 200


def test_a_duplicate_key_is_told_where_it_stands_the_second_time() -> None:
    assert faults("a: 1\nb:\n  c: 1\n  c: 2\n") == ["4:3: duplicate key `c`"]
    assert faults('1: a\n"1": b\n') == ["2:1: duplicate key `1`"]


def test_anchors_and_aliases_are_refused_each_at_its_place() -> None:
    found = faults("a: &x 1\nb: *x\n")
    assert [fault.split(": ")[0] for fault in found] == ["1:4", "2:4"]
    assert all("anchors and aliases are not allowed" in fault for fault in found)


def test_a_billion_laughs_are_refused_before_they_are_laughed() -> None:
    lines = ["a0: &a0 [ha, ha]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    started = time.monotonic()
    assert all("aliases are not allowed" in fault for fault in faults("\n".join(lines)))
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("text", ["[" * 50_000, "{a: " * 50_000, "- " * 50_000, "? " * 50_000])
def test_deep_nesting_is_refused_and_not_recursed_into(text: str) -> None:
    (fault,) = faults(text)
    assert f"nested deeper than {MAX_DEPTH} levels" in fault


def test_nesting_as_deep_as_allowed_is_read() -> None:
    assert not faults("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert faults("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))


@pytest.mark.parametrize(
    "text",
    ["!!python/object/apply:os.system [ls]", "!foo 1", "!!binary aGk=", "!!str 1", "!!set {a, b}", "!!omap [a: 1]"],
)
def test_tags_are_refused(text: str) -> None:
    (fault,) = faults(f"key: {text}\n")
    assert fault.startswith("1:6: the tag `")


def test_merge_keys_and_keys_that_are_no_words_are_refused() -> None:
    assert faults("a:\n  <<: {b: 1}\n") == ["2:3: merge keys are not allowed"]
    assert faults("? [a, b]\n: 1\n") == ["1:3: a key must be a plain word"]
    assert faults("{a: 1}: 2\n") == ["1:1: a key must be a plain word"]


@pytest.mark.parametrize("text", ["a: 1\n---\nb: 2\n", "a: 1\n...\n---\nb: 2\n"])
def test_a_second_document_is_refused(text: str) -> None:
    assert "more than one YAML document" in faults(text)[0]


@pytest.mark.parametrize("directive", ["%YAML 1.1", "%YAML 1.3", "%YAML 9", "%TAG ! tag:example.com,2000:", "%oops"])
def test_directives_cannot_change_what_the_text_means(directive: str) -> None:
    assert faults(f"{directive}\n---\na: no\n") == ["1:1: directives are not allowed; a recipe is YAML 1.2"]


@pytest.mark.parametrize("text", ["", "  \n\n", "# only a comment\n", "---\n", "~"])
def test_nothing_is_no_fault_of_the_yaml(text: str) -> None:
    document = parse(text)
    assert document.data is None
    assert not document.faults


def test_a_tab_that_indents_is_told() -> None:
    (fault,) = faults("a:\n\tb: 1\n")
    assert fault.startswith("2:1: not valid YAML")


def test_what_cannot_be_printed_is_refused_raw_or_escaped() -> None:
    assert faults("a: 1\nbc: \x07\n") == ["2:5: the character U+0007 is not allowed"]
    assert faults('a: "\\e[2J"\n') == ["1:4: the character U+001B is not allowed"]
    assert faults('"\\0": 1\n') == ["1:1: the character U+0000 is not allowed"]
    assert faults('a: "\\ud800"\n') == ["1:4: the character U+D800 is not allowed"]
    assert faults("a: \ud800\n") == ["1:4: the character U+D800 is not allowed"]
    assert not faults('a: "tab\\t and line\\n"\n')


def test_a_large_text_is_refused_unread() -> None:
    assert faults("a: " + "x" * 300_000) == [f"1:1: larger than {MAX_BYTES // 1000} kB"]
    assert faults("ü" * (MAX_BYTES // 2 + 1)) == [f"1:1: larger than {MAX_BYTES // 1000} kB"]


def test_a_variable_in_a_flow_mapping_comes_with_advice_to_quote_it() -> None:
    (fault,) = faults("a: {path: ${HOME}/x}\n")
    assert fault.startswith("1:")
    assert "between quotes" in fault


def test_faults_of_several_kinds_are_told_together() -> None:
    found = faults("a: 1\na: .nan\nb: .inf\n<<: {}\n")
    assert [fault.split(": ")[0] for fault in found] == ["2:1", "3:4", "4:1"]


@pytest.mark.parametrize("text", ["a: [1, 2", 'a: "x', 'a: "\\q"', "a: b: c", "a: @x", "a: `x`", "- 1\na: 2", "a: }"])
def test_broken_syntax_is_one_line_with_a_place(text: str) -> None:
    (fault,) = faults(text)
    assert fault.split(": ")[1] == "not valid YAML"
    assert "\n" not in fault


# --set


def overridden(*assignments: str, text: str = "a: {b: [1, {c: 2}], '8': x}\nseed: 0\n") -> Document:
    document = parse(text)
    for assignment in assignments:
        document.override(assignment)
    return document


def test_an_override_reaches_into_mappings_and_lists() -> None:
    document = overridden("a.b.1.c=[3, 4]", "a.b.0=x", "a.8=y", "new.part.inside=1.5", "seed=")
    assert not document.faults
    assert document.data == {
        "a": {"b": ["x", {"c": [3, 4]}], "8": "y"}, "seed": None, "new": {"part": {"inside": 1.5}},
    }  # fmt: skip


def test_an_override_keeps_a_key_that_looks_like_a_number_as_it_is() -> None:
    assert overridden("a.08=z").data["a"] == {"b": [1, {"c": 2}], "8": "x", "08": "z"}


def test_a_fault_of_an_overridden_value_names_the_override() -> None:
    document = overridden("a.b=5", "made.up=1")
    document.fault(("a", "b"), "is wrong")
    document.fault(("made",), "is unknown", at_key=True)
    document.fault(("seed",), "is wrong too")
    assert [fault.where for fault in document.faults] == ["--set a.b=5", "--set made.up=1", "2:7"]


@pytest.mark.parametrize(
    "assignment",
    ["seed", "=1", "", "a.b.7=1", "a.b.x=1", "seed.x=1", "a.b.²=1", "a.b." + "1" * 5000 + "=1", "." * 500 + "=1",
     "seed=.nan", "seed=[", "seed=\udcff", "seed=*x", "seed=!!str 1", "seed=" + "9" * 5000],
)  # fmt: skip
def test_an_override_that_cannot_be_is_one_short_fault(assignment: str) -> None:
    (fault,) = overridden(assignment).faults
    assert str(fault).startswith("--set ")
    assert len(str(fault)) < 300
    assert "\n" not in str(fault)


def test_an_override_of_a_text_that_is_no_yaml_adds_no_fault() -> None:
    assert len(overridden("seed=1", text="a: [").faults) == 1


# what nobody thought of


@given(st.text(max_size=60) | st.text(alphabet="ab:-?{}[]&*!|>'\"%@`,# \n\t0.1eE+_~<=\\\ufeff\x85", max_size=60))
@settings(max_examples=150)
def test_any_text_gives_data_or_faults_and_raises_nothing(text: str) -> None:
    document = parse(text)
    for fault in document.faults:
        line, column = fault.where.split(":")
        assert int(line) >= 1
        assert int(column) >= 1
        assert "\n" not in str(fault)


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_override_changes_the_data_or_is_a_fault(key: str, value: str) -> None:
    document = overridden(f"{key}={value}")
    untouched = overridden().data
    assert document.faults or document.data != untouched or value_at(untouched, key) == parse(value).data


def value_at(data: Any, key: str) -> Any:
    for step in key.split("."):
        data = data[int(step)] if isinstance(data, list) else data.get(step)
    return data


printable = st.text(max_size=20).filter(lambda text: not UNPRINTABLE.search(text))
numbers = st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers
plain_data = st.recursive(
    scalars | printable,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(printable.filter(bool), inner, max_size=4),
    max_leaves=12,
)


@given(plain_data)
@settings(max_examples=80)
def test_json_is_yaml_and_comes_back_as_it_was(data: Any) -> None:
    for indent in (None, 2):
        document = parse(json.dumps({"data": data}, ensure_ascii=False, indent=indent))
        assert not document.faults
        assert document.data == {"data": data}
