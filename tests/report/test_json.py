from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.errors import TrustError, UsageError
from edgeopt.report import Report, write_report
from edgeopt.report.json import load_report


def test_a_report_is_written_in_every_format_and_read_back_as_it_was(mixed: Report, tmp_path: Path) -> None:
    written = write_report(mixed, tmp_path)
    assert {path.name for path in written} >= {"report.json", "report.md", "junit.xml"}
    assert load_report(tmp_path / "report.json") == load_report(tmp_path) == mixed


def test_the_json_has_the_shape_that_outside_callers_rely_on(passing: Report) -> None:
    data = passing.model_dump(mode="json", by_alias=True)
    assert set(data) >= {"edgeopt", "recipe", "environment", "verdict", "exit_code", "steps", "targets"}
    assert set(data["steps"][0]) >= {"id", "name", "key", "cached", "seconds", "facts"}
    (target,) = data["targets"]
    assert set(target) >= {"name", "winner", "verdict", "threads", "batch", "original", "float", "candidates"}
    assert set(target["float"]["onnxruntime_cpu"]) >= {"measurements"}
    candidate = target["candidates"][0]
    assert set(candidate) >= {"id", "backend", "variant", "passes", "artifact", "measurements", "verdicts"}
    assert set(candidate["artifact"]) >= {"files", "requires"}
    assert set(candidate["measurements"][0]) >= {"metric", "unit", "value", "low", "high", "raw", "simulated"}
    assert set(candidate["verdicts"][0]) == {"budget", "verdict", "margin", "sentence"}


def test_the_json_is_a_golden(mixed: Report, tmp_path: Path, golden: Callable[[str, str], None]) -> None:
    write_report(mixed, tmp_path)
    golden("report.json", (tmp_path / "report.json").read_text(encoding="utf8"))


@pytest.fixture
def stored(passing: Report, tmp_path: Path) -> dict[str, Any]:
    write_report(passing, tmp_path)
    data: dict[str, Any] = json.loads((tmp_path / "report.json").read_bytes())
    return data


def reload(data: object, folder: Path) -> Report:
    path = folder / "changed.json"
    path.write_text(json.dumps(data), encoding="utf8")
    return load_report(path)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("verdict",), "fail"),
        (("exit_code",), 1),
        (("targets", 0, "verdict"), "inconclusive"),
        (("targets", 0, "winner"), None),
        (("targets", 0, "winner"), "onnxruntime_cpu/none"),
        (("targets", 0, "candidates", 1, "verdict"), "fail"),
        (("targets", 0, "candidates", 1, "verdicts", 0, "verdict"), "fail"),
    ],
)
def test_a_conclusion_that_does_not_follow_is_refused(
    stored: dict[str, Any], tmp_path: Path, place: tuple[Any, ...], value: Any
) -> None:
    inner: Any = stored
    for key in place[:-1]:
        inner = inner[key]
    assert inner[place[-1]] != value
    inner[place[-1]] = value
    with pytest.raises(TrustError, match="does not follow from its verdicts"):
        reload(stored, tmp_path)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("format",), 2, "has format `2`, known: `1`"),
        (("seed",), "0", "`seed`: input should be a valid integer"),
        (("extra",), 1, "`extra`: extra inputs are not permitted"),
        (("targets",), 7, "`targets`: "),
        (("targets",), [[]], "`targets.0`: "),
        (("steps",), [{"id": "a"}], "`steps.0.name`: field required"),
    ],
)
def test_a_report_of_another_shape_is_refused_and_the_place_is_named(
    stored: dict[str, Any], tmp_path: Path, place: tuple[str], value: Any, message: str
) -> None:
    stored[place[0]] = value
    with pytest.raises(UsageError) as caught:
        reload(stored, tmp_path)
    assert message in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not a report of edgeopt"),
        (b"[]", "it should be an object"),
        (b"\xff\xfe", "is not a report of edgeopt"),
        (b'{"format": 1, "format": 1}', "a key stands twice"),
        (b'{"format": 1, "seconds": NaN}', "`NaN` is no number"),
        (b"{}", "has format `null`"),
        (b'{"a":' * 100_000, "nested too deep"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        load_report(tmp_path)
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_a_missing_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the report `.*nowhere.json`"):
        load_report(tmp_path / "nowhere.json")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(data=st.data())
def test_a_report_with_any_one_value_replaced_is_read_or_refused_but_never_crashes(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    mangled: Any = json.loads((Path(__file__).parents[1] / "goldens" / "report.json").read_bytes())
    inner, key = mangled, data.draw(st.sampled_from(sorted(mangled)))
    while isinstance(inner[key], dict | list) and inner[key] and data.draw(st.booleans()):
        inner = inner[key]
        key = data.draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
    inner[key] = data.draw(JSON_VALUES)
    with contextlib.suppress(UsageError, TrustError):
        reload(mangled, tmp_path_factory.getbasetemp())
