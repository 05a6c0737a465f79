"""What `compile` shows: a header, a line for each step, a table for each target and one last line.

Not a format of the registry, since it is shown while the run goes on. All of it is at most `WIDTH` columns wide, but
for a path that is longer by itself (half a path is of no use), and is read without colour.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgeopt.report import CandidateResult, Report, StepResult, TargetResult
from edgeopt.report.table import (
    Column,
    Row,
    columns_of,
    count_images,
    is_simulated,
    make_rows,
    plain,
    split_facts,
    tell_facts,
    tell_outcome,
)

WIDTH = 100
LABEL = 25
MARK = "▸ "


def show_header(name: str, targets: int, candidates: int, images: int | None, seed: int) -> str:
    """`digits · 1 target · 2 candidates · 720 validation images · seed 0`."""
    counted = [_count(targets, "target"), _count(candidates, "candidate")]
    if images is not None:
        counted.append(_count(images, "validation image"))
    tail = " · ".join([*counted, f"seed {seed}"])
    return f"{shorten(plain(name), WIDTH - len(tail) - 3)} · {tail}"


def show_step(step: StepResult) -> str:
    """One finished step: its seconds, or that it was cached, and its summary."""
    label = f"{step.name} [{step.scope}]" if step.scope else step.name
    time = "cached" if step.cached else f"{step.seconds:.1f} s"
    first = f"  {shorten(plain(label), LABEL):<{LABEL}} {time:>7}"
    return _hang(f"{first}   ", tell_facts(step.facts))


def show_step_tables(step: StepResult) -> Iterator[str]:
    """What a step tells of many things, such as its groups of channels: a line for each."""
    for table in split_facts(step.facts)[1]:
        cells = [[plain(cell) for cell in row] for row in (table.titles, *table.rows)]
        widths = [max(len(row[at]) for row in cells) for at in range(len(table.titles))]
        for row in cells:
            first, *rest = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            yield shorten(f"    {'  '.join([first, *rest])}".rstrip(), WIDTH)


def show_target(target: TargetResult) -> str:
    """The table of one target, then a sentence for each budget not met and for each candidate that does not ship."""
    lines = [_title(target), "", *_table(make_rows(target), columns_of(target)), ""]
    said = [line for candidate in target.candidates for line in _sentences(candidate)]
    notes = [_hang("  ", plain(note)) for note in target.notes]
    return "\n".join([*lines, *said, *notes]).rstrip() + "\n"


def show_verdict(report: Report, path: Path, folder: Path) -> str:
    """The last line: the verdict, what ships, the report at `path`, and what to ship, relative to `folder`."""
    ship = [folder / target.bundle for target in report.targets if target.bundle is not None]
    if len(report.targets) == 1:
        told = tell_outcome(report.targets[0])
    else:
        able = sum(target.winner is not None for target in report.targets)
        told = f"{able} of {_count(len(report.targets), 'target')} ship"
    parts = [plain(told), str(path), *map(str, ship)]
    return "\n".join(_join(f"{report.verdict.upper()}  ", parts))


def shorten(text: str, width: int) -> str:
    """`text` in at most `width` columns, cut in the middle: both ends of a name tell most."""
    if len(text) <= width:
        return text
    head = max(0, width - 1) // 2
    tail = max(0, width - 1 - head)
    return f"{text[:head]}…{text[len(text) - tail :]}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _title(target: TargetResult) -> str:
    tail = f" · {_count(target.threads, 'thread')} · batch {target.batch}"
    if images := count_images(target):
        tail += f" · {_count(images, 'validation image')}"
    name = shorten(plain(target.name), 40)
    machine = shorten(plain(target.machine), WIDTH - len(f"target {name} · {tail}"))
    return f"target {name} · {machine}{tail}" if machine else f"target {name}{tail}"


def _table(rows: Sequence[Row], columns: Sequence[Column]) -> Iterator[str]:
    """Two lines of titles, then for each row its figures and, under them, their intervals."""
    widths = [
        _widest([column.title, *(text for row in rows for text in (row.cells[at].figure, row.cells[at].interval))])
        for at, column in enumerate(columns)
    ]
    # One space before each column at least; a second one while there is room, then names are cut.
    room = WIDTH - len(MARK) - sum(widths) - len(widths) - 2 - _widest(["verdict", *(row.verdict for row in rows)])
    names = min(max(8, room), _widest(["candidate", *(row.name for row in rows)]))
    wide = [width + (at < room - names) for at, width in enumerate(widths)]

    def line(mark: str, name: str, figures: Sequence[str], verdict: str = "") -> str:
        padded = "".join(f" {figure:>{width}}" for figure, width in zip(figures, wide, strict=True))
        return f"{mark}{shorten(plain(name), names):<{names}}{padded}  {verdict}".rstrip()

    yield line("  ", "candidate", [column.title for column in columns], "verdict")
    yield line("  ", "", [column.unit for column in columns])
    for row in rows:
        yield line(MARK if row.ships else "  ", row.name, [cell.figure for cell in row.cells], row.verdict)
        if any(cell.interval for cell in row.cells):
            yield line("  ", "", [cell.interval for cell in row.cells])


def _widest(texts: Sequence[str]) -> int:
    return max(map(len, texts))


def _sentences(candidate: CandidateResult) -> Iterator[str]:
    if candidate.reason is not None:
        yield _hang("  ", f"{plain(candidate.id)}: {plain(candidate.reason)}")
    elif candidate.error is not None:
        yield _hang("  ", f"{plain(candidate.id)}: could not be built: {plain(candidate.error)}")
    if candidate.hint:
        yield _hang("    hint: ", plain(candidate.hint))
    for verdict in candidate.verdicts:
        if verdict.verdict != "pass":
            yield _hang("    ", f"{verdict.verdict} {verdict.budget}: {plain(verdict.sentence)}")
    if is_simulated(candidate):
        yield _hang("    ", "its figures are simulated: they say nothing of a real device")


def _hang(prefix: str, text: str) -> str:
    """`text` after `prefix`, its further lines under its first."""
    indent = " " * len(prefix)
    lines = textwrap.wrap(plain(text), WIDTH, initial_indent=prefix, subsequent_indent=indent, break_on_hyphens=False)
    return "\n".join(lines) or prefix.rstrip()


def _join(start: str, parts: Sequence[str]) -> Iterator[str]:
    """`parts` with dots between them; a line that would be too wide goes on under its first part."""
    line, indent = start + parts[0], " " * len(start)
    if len(line) > WIDTH:
        wrapped = _hang(start, parts[0]).split("\n")
        yield from wrapped[:-1]
        line = wrapped[-1]
    for part in parts[1:]:
        if len(line) + 3 + len(part) > WIDTH:
            yield line
            line = f"{indent}{part}"
        else:
            line = f"{line} · {part}"
    yield line
