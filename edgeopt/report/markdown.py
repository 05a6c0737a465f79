"""`report.md`: for a pull request. The verdict and what ships come first, then table and budgets; the rest folded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from edgeopt.report import CandidateResult, Report, ReportFormat, TargetResult
from edgeopt.report.table import (
    Cell,
    columns_of,
    is_simulated,
    make_rows,
    plain,
    split_facts,
    tell_facts,
    tell_outcome,
)

#: what Markdown would obey; an underscore inside a word and a bracket that opens no link are left readable
MARKUP = re.compile(r"[\\`*|#~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|\](?=[(:\[])")


class Markdown(ReportFormat):
    """GitHub's Markdown, safe to paste: nothing in a report can become markup."""

    file_name = "report.md"

    def render(self, report: Report) -> str:
        blocks = [f"## {report.verdict.upper()}: {escape(report.recipe.name)}"]
        blocks += [f"**{escape(tell_outcome(target))}**" for target in report.targets]
        blocks += [f"- {escape(note)}" for note in report.notes]
        for target in report.targets:
            blocks += _target(target)
        blocks += [_fold("Steps", _steps(report)), *_step_tables(report), *_protocols(report)]
        blocks.append(_fold("Machine", _machine(report.environment)))
        blocks.append(_origin(report))
        return "\n\n".join(blocks) + "\n"


def escape(text: object) -> str:
    """`text` as one line that Markdown and HTML show as it is, inside a table cell too."""
    said = MARKUP.sub(r"\\\g<0>", plain(str(text)))
    return said.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _target(target: TargetResult) -> Iterator[str]:
    threads = f"{target.threads} thread{'' if target.threads == 1 else 's'}"
    parts = [target.name, target.machine, threads, f"batch {target.batch}"]
    yield f"### {' · '.join(escape(part) for part in parts if part)}"
    yield _figures(target)
    judged = [one for one in target.candidates if target.winner in (None, one.id)]
    verdicts = [
        (candidate.id, verdict.budget, f"**{verdict.verdict}**", verdict.sentence)
        for candidate in judged
        for verdict in candidate.verdicts
    ]
    if verdicts:
        yield _grid(
            ("candidate", "budget", "verdict", ""),
            [(escape(name), escape(budget), outcome, escape(why)) for name, budget, outcome, why in verdicts],
        )
    losers = [line for candidate in target.candidates for line in _loser(candidate, target)]
    notes = [f"- {escape(note)}" for note in target.notes]
    if losers or notes:
        yield "\n".join([*losers, *notes])


def _figures(target: TargetResult) -> str:
    titles = [f"{column.title} {column.unit}".strip() for column in columns_of(target)]
    lines = [
        [f"**{escape(row.name)}**" if row.ships else escape(row.name), *map(_figure, row.cells), escape(row.verdict)]
        for row in make_rows(target)
    ]
    return _grid(("candidate", *titles, "verdict"), lines, right=range(1, len(titles) + 1))


def _figure(cell: Cell) -> str:
    bound = f"({cell.interval})" if cell.interval.startswith("≤") else cell.interval  # `0.3 ≤ 0.7` would be a claim
    return escape(f"{cell.figure} {bound}")


def _loser(candidate: CandidateResult, target: TargetResult) -> Iterator[str]:
    why = candidate.reason or (f"could not be built: {candidate.error}" if candidate.error is not None else "")
    if why:
        yield f"- {escape(candidate.id)}: {escape(why)}"
    if candidate.hint:
        yield f"  - hint: {escape(candidate.hint)}"
    if target.winner is not None:
        for verdict in candidate.verdicts:
            if verdict.verdict != "pass":
                yield f"  - {verdict.verdict} {escape(verdict.budget)}: {escape(verdict.sentence)}"
    if is_simulated(candidate):
        yield f"- {escape(candidate.id)}: its figures are simulated, they say nothing of a real device"


def _steps(report: Report) -> str:
    rows = [
        (escape(f"{step.name} {step.scope}"), "cached" if step.cached else f"{step.seconds:.1f} s", _all(step.facts))
        for step in report.steps
    ]
    return _grid(("step", "time", "facts"), rows, right=range(1, 2))


def _step_tables(report: Report) -> Iterator[str]:
    """What a step tells of many things, such as its groups of channels, as a table for each step."""
    for step in report.steps:
        for table in split_facts(step.facts)[1]:
            rows = [tuple(escape(cell) for cell in row) for row in table.rows]
            title = f"{step.id}: each {table.titles[0]}"
            yield _fold(
                escape(title), _grid([escape(each) for each in table.titles], rows, right=range(1, len(rows[0])))
            )


def _all(facts: dict[str, str | int | float]) -> str:
    rest = {name: value for name, value in split_facts(facts)[0].items() if name != "summary"}
    return escape("; ".join(part for part in (str(facts.get("summary", "")), tell_facts(rest)) if part))


def _protocols(report: Report) -> Iterator[str]:
    for target in report.targets:
        rows = [(escape(name), escape(value)) for name, value in target.protocol.items()]
        rows += [("raw samples", escape(name)) for name in target.samples]
        if rows:
            yield _fold(f"How {escape(target.name)} was measured", _grid(("", ""), rows))


def _machine(environment: dict[str, Any]) -> str:
    return _grid(("", ""), [(escape(name), escape(_flat(value))) for name, value in environment.items()])


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {inner}" for name, inner in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _origin(report: Report) -> str:
    recipe = report.recipe
    images = "" if report.validation_images is None else f" · {report.validation_images:,} validation images"
    images += f", which judged {report.validation_uses} sets of networks so far" if report.validation_uses > 1 else ""
    return f"edgeopt {escape(report.edgeopt)} · {escape(recipe.path)} {recipe.sha256[:12]} · seed {report.seed}{images}"


def _fold(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"


def _grid(titles: Sequence[str], rows: Sequence[Sequence[str]], right: range = range(0)) -> str:
    """A table of cells that are escaped already; the columns in `right` are aligned to the right."""
    rule = ["--:" if at in right else "---" for at in range(len(titles))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, rule, *rows))
