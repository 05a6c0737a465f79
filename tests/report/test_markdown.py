from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.report import CandidateResult, Report
from edgeopt.report.markdown import Markdown, escape
from edgeopt.report.table import columns_of

Make = Callable[..., Report]


def test_the_markdown_is_a_golden(
    passing: Report, mixed: Report, unbuilt: Report, golden: Callable[[str, str], None]
) -> None:
    for name, report in (("passing", passing), ("mixed", mixed), ("unbuilt", unbuilt)):
        golden(f"report_{name}.md", Markdown().render(report))


def test_the_verdict_and_what_ships_come_before_everything_else(passing: Report) -> None:
    lines = [line for line in Markdown().render(passing).splitlines() if line]
    assert lines[:2] == ["## PASS: digits", "**x86 ships onnxruntime_cpu/int8**"]


def test_every_loser_every_unmet_budget_and_every_step_is_told(mixed: Report) -> None:
    shown = Markdown().render(mixed)
    for target in mixed.targets:
        for candidate in target.candidates:
            assert escape(candidate.reason or "") in shown
            assert all(escape(one.sentence) in shown for one in candidate.verdicts if one.verdict != "pass")
    assert all(escape(step.facts.get("summary", "")) in shown for step in mixed.steps)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("onnxruntime_cpu/int8", "onnxruntime_cpu/int8"),
        ("8.5× [8.4, 8.7]", "8.5× [8.4, 8.7]"),
        ("a | b", r"a \| b"),
        ("<script>", "&lt;script&gt;"),
        ("[x](http://y)", r"[x\](http://y)"),
        ("_a_ *b* `c`", r"\_a\_ \*b\* \`c\`"),
        ("two\nlines", "two lines"),
    ],
)
def test_what_would_be_markup_is_escaped_and_what_is_readable_is_left(text: str, shown: str) -> None:
    assert escape(text) == shown


@given(st.text(max_size=60))
def test_no_text_can_open_a_tag_or_a_cell_of_the_table(text: str) -> None:
    shown = escape(text)
    assert "<" not in shown
    assert not re.search(r"(?<!\\)(\\\\)*\|", shown)
    assert "\n" not in shown


@given(st.text(max_size=60), st.text(max_size=60))
def test_every_line_of_a_table_has_its_cells_whatever_the_texts(error: str, machine: str) -> None:
    report = Report.model_validate(
        {
            "edgeopt": "0",
            "recipe": {"name": "n", "path": "p", "sha256": "s"},
            "environment": {"cpu": machine},
            "targets": [
                {
                    "name": "t",
                    "threads": 1,
                    "batch": 1,
                    "machine": machine,
                    "candidates": [CandidateResult(id="b/v", backend="b", variant="v", error=error, hint=machine)],
                }
            ],
        }
    )
    lines = [line for line in Markdown().render(report).splitlines() if line.startswith("| ")]
    counts = {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) - 1 for line in lines}
    assert counts <= {len(columns_of(report.targets[0])) + 2, 3, 2}
