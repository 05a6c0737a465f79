"""The rows that every readable format shows for a target, and how figures are written in them.

A ratio is stored as candidate ÷ reference (0.25) and shown as its inverse (4.0×).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edgeopt.gates import find, number
from edgeopt.metrics import label
from edgeopt.report import CandidateResult, SideResult, TargetResult
from edgeopt.select import show_ratio
from edgeopt.validation import Measurement

#: between the columns of facts that are rows of a table
COLUMNS = " · "


@dataclass(frozen=True)
class Cell:
    """One figure, and its interval where it is shown."""

    figure: str = ""
    interval: str = ""


@dataclass(frozen=True)
class Row:
    """One line of the table: a reference (no verdict) or a candidate."""

    name: str
    cells: tuple[Cell, ...]
    verdict: str = ""
    ships: bool = False


@dataclass(frozen=True)
class Column:
    """One column of figures; `cell` turns the measurement of `metric` into what is shown."""

    title: str
    unit: str
    metric: str
    cell: Callable[[Measurement], Cell]


def show_ms(value: float) -> str:
    return f"{value:.{3 if value < 0.1 else 2 if value < 10 else 1 if value < 100 else 0}f}"


def show_mb(value: float) -> str:
    return f"{value:.{3 if value < 0.01 else 2 if value < 10 else 1 if value < 1000 else 0}f}"


def show_percent(value: float) -> str:
    # 99.96 is not 100.0: a perfect score is claimed only where it is one.
    return "100" if value == 100 else f"{min(value, 99.9):.1f}"


def show_points(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}"  # + 0.0: never `-0.0`


def _inverse(measurement: Measurement) -> Cell:
    value, low, high = number(measurement.value), number(measurement.low), number(measurement.high)
    if value is None or value <= 0:
        return Cell()
    bounded = low is not None and high is not None and low > 0 and high > 0
    interval = f"[{show_ratio(1 / high)}, {show_ratio(1 / low)}]" if bounded and low and high else ""
    return Cell(f"{show_ratio(1 / value)}×", interval)


def _drop(measurement: Measurement) -> Cell:
    """The drop, and under it the bound that a budget judges: what it may be at most."""
    value, high = number(measurement.value), number(measurement.high)
    figure = "" if value is None else show_points(value)
    return Cell(figure, "" if high is None else f"≤ {show_points(high)}")


def _value(show: Callable[[float], str], scale: float = 1.0) -> Callable[[Measurement], Cell]:
    def cell(measurement: Measurement) -> Cell:
        value = number(measurement.value)
        return Cell() if value is None else Cell(show(value * scale))

    return cell


#: how tables write the names of metrics
TITLES = {"top1": "top-1", "top5": "top-5", "macro_f1": "macro F1"}

_COLUMNS = (
    Column("drop", "pp", "accuracy.drop_pp", _drop),
    Column("p50", "ms", "latency.p50_ms", _value(show_ms)),
    Column("p90", "ms", "latency.p90_ms", _value(show_ms)),
    Column("vs original", "", "latency.ratio", _inverse),
    Column("vs float", "", "latency.ratio_fp32", _inverse),
    Column("size", "MB", "size.bytes", _value(show_mb, 1e-6)),
    Column("memory", "MB", "memory.peak_mb", _value(show_mb)),
)


def columns_of(target: TargetResult) -> tuple[Column, ...]:
    """The columns of a target's table: accuracy by the metric of its budget comes first."""
    name = accuracy_metric(target)
    return (Column(TITLES.get(name, name), "%", f"accuracy.{name}", _value(show_percent)), *_COLUMNS)


def accuracy_metric(target: TargetResult) -> str:
    """What the metric of a target's accuracy budget is called in measurements."""
    budget = target.budgets.accuracy
    return "top1" if budget is None else label(budget.metric)


def make_rows(target: TargetResult) -> list[Row]:
    """The original, float on each backend, then the candidates in the order of the recipe."""
    return [*_references(target), *(_candidate(candidate, target) for candidate in target.candidates)]


def _references(target: TargetResult) -> Iterator[Row]:
    sides: list[tuple[str, SideResult]] = [("float", side) for side in target.floats.values()]
    if target.original is not None:
        sides.insert(0, ("original", target.original))
    if target.baseline is not None:
        sides.append(("baseline", target.baseline))
    for name, side in sides:
        yield Row(f"{name} ({side.backend})", _cells(side.measurements, target))


def _candidate(candidate: CandidateResult, target: TargetResult) -> Row:
    verdict = candidate.verdict if candidate.error is None else "not built"
    return Row(candidate.id, _cells(candidate.measurements, target), verdict, candidate.id == target.winner)


def _cells(measurements: Sequence[Measurement], target: TargetResult) -> tuple[Cell, ...]:
    found = [(column, find(measurements, column.metric)) for column in columns_of(target)]
    return tuple(Cell() if measurement is None else column.cell(measurement) for column, measurement in found)


def is_simulated(candidate: CandidateResult) -> bool:
    """Whether any figure of the candidate is no measurement of a real device."""
    return any(measurement.simulated for measurement in candidate.measurements)


def count_images(target: TargetResult) -> int:
    """How many validation images the original was judged on; 0 where it was not."""
    metric = f"accuracy.{accuracy_metric(target)}"
    found = find(target.original.measurements if target.original is not None else (), metric)
    return 0 if found is None else found.samples


def tell_outcome(target: TargetResult) -> str:
    """`x86 ships onnxruntime_cpu/int8`, or why it ships nothing."""
    if target.winner is not None:
        return f"{target.name} ships {target.winner}"
    if target.nothing_built:
        return f"{target.name} ships nothing: no candidate could be built"
    words = {"fail": "none met every budget", "inconclusive": "not decided", "unmeasured": "not measured"}
    return f"{target.name} ships nothing: {words.get(target.verdict, 'no winner')}"


@dataclass(frozen=True)
class FactTable:
    """Facts of a step that say the same of many things: the titles of the columns, then a row for each thing."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def split_facts(facts: dict[str, str | int | float]) -> tuple[dict[str, str | int | float], list[FactTable]]:
    """The facts that stand alone, and the tables that the others are rows of.

    Where a fact `group` names columns, as `channels · saved`, the facts `group stem`, `group head` … are its rows.
    """
    heads = [name for name, value in facts.items() if COLUMNS in str(value) and " " not in name]
    tables, alone = [], dict(facts)
    for head in heads:
        titles = (head, *str(facts[head]).split(COLUMNS))
        names = sorted((name for name in facts if name.startswith(f"{head} ")), key=_by_number)
        if names:
            rows = [(name.removeprefix(f"{head} "), *str(facts[name]).split(COLUMNS)) for name in names]
            tables.append(FactTable(titles, tuple((*row, *[""] * len(titles))[: len(titles)] for row in rows)))
            alone = {name: value for name, value in alone.items() if name != head and name not in names}
    return alone, tables


def _by_number(name: str) -> list[tuple[int, str]]:
    """`blocks.10` comes after `blocks.9`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def tell_facts(facts: dict[str, str | int | float]) -> str:
    """The facts of a step in one line: its summary if it has one, else all of them."""
    summary = facts.get("summary")
    return str(summary) if summary is not None else "; ".join(f"{name} {value}" for name, value in facts.items())


def plain(text: str) -> str:
    """`text` on one line, free of what a terminal or a parser would obey."""
    return " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())
