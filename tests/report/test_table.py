from __future__ import annotations

import pytest

from edgeopt.report import Report
from edgeopt.report.table import (
    columns_of,
    make_rows,
    plain,
    show_mb,
    show_ms,
    show_percent,
    show_points,
    split_facts,
    tell_facts,
    tell_outcome,
)


def cells(report: Report, title: str) -> list[tuple[str, str]]:
    at = [column.title for column in columns_of(report.targets[0])].index(title)
    return [(row.cells[at].figure, row.cells[at].interval) for row in make_rows(report.targets[0])]


def test_the_original_comes_first_then_float_on_each_backend_then_the_candidates(passing: Report) -> None:
    rows = make_rows(passing.targets[0])
    names = ["original (torch_eager)", "float (onnxruntime_cpu)", "onnxruntime_cpu/fp32", "onnxruntime_cpu/int8"]
    assert [row.name for row in rows] == names
    assert [row.verdict for row in rows] == ["", "", "pass", "pass"]
    assert [row.ships for row in rows] == [False, False, False, True]


def test_ratios_are_shown_as_speed_ups_with_the_lower_one_first(passing: Report) -> None:
    expected = [("", ""), ("3.7×", "[3.6, 3.8]"), ("8.5×", "[8.4, 8.7]"), ("14.6×", "[14.3, 15.0]")]
    assert cells(passing, "vs original") == expected


def test_a_drop_is_shown_with_its_upper_bound(passing: Report) -> None:
    assert cells(passing, "drop") == [("", ""), ("", ""), ("0.1", "≤ 0.6"), ("0.3", "≤ 0.7")]


def test_no_drop_is_shown_as_a_negative_zero() -> None:
    assert [show_points(value) for value in (-0.04, 0.0, -0.06, 2.34)] == ["0.0", "0.0", "-0.1", "2.3"]


def test_a_candidate_that_was_not_built_has_no_figures(unbuilt: Report) -> None:
    row = make_rows(unbuilt.targets[0])[-1]
    assert row.verdict == "not built"
    assert not any(cell.figure for cell in row.cells)


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0241, "0.024"), (0.24, "0.24"), (3.519, "3.52"), (35.19, "35.2"), (1234.5, "1234")]
)
def test_milliseconds_have_digits_that_count(value: float, shown: str) -> None:
    assert show_ms(value) == shown


def test_megabytes_have_digits_that_count() -> None:
    assert [show_mb(value) for value in (0.0012, 0.09, 11.1, 2048.0)] == ["0.001", "0.09", "11.1", "2048"]


def test_only_a_perfect_accuracy_is_shown_as_perfect() -> None:
    assert [show_percent(value) for value in (98.61, 99.96, 100.0)] == ["98.6", "99.9", "100"]


def test_an_outcome_names_the_winner_or_why_there_is_none(mixed: Report, unbuilt: Report) -> None:
    assert tell_outcome(mixed.targets[0]) == "x86 ships onnxruntime_cpu/int8"
    assert tell_outcome(mixed.targets[1]) == "board ships nothing: not measured"
    assert tell_outcome(unbuilt.targets[0]) == "x86 ships nothing: no candidate could be built"


def test_facts_are_told_by_their_summary_or_one_by_one() -> None:
    assert tell_facts({"images": 256, "summary": "256 images"}) == "256 images"
    assert tell_facts({"images": 256, "method": "minmax"}) == "images 256; method minmax"


def test_plain_text_is_one_line_that_no_terminal_obeys() -> None:
    assert plain("a\n\tb \x1b[31mred\x1b[0m\u2028c") == "a b [31mred [0m c"


def test_facts_that_say_the_same_of_many_things_become_a_table_in_the_order_of_their_numbers() -> None:
    facts: dict[str, str | int | float] = {
        "macs": 12, "group": "channels · saved", "group b.10": "8 → 4 · 3 %", "group b.9": "8 → 8",
        "seconds": "1 · 2", "groups_pruned": 1,
    }  # fmt: skip
    alone, (table,) = split_facts(facts)
    assert alone == {"macs": 12, "seconds": "1 · 2", "groups_pruned": 1}
    assert table.titles == ("group", "channels", "saved")
    assert table.rows == (("b.9", "8 → 8", ""), ("b.10", "8 → 4", "3 %"))
