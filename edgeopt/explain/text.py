"""Explanations as text, at most as wide as a table of `compile`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from edgeopt.explain import Cause, Explanation, Noise
from edgeopt.report import Report, TargetResult
from edgeopt.report.console import WIDTH, shorten
from edgeopt.report.table import plain

#: layers that a cause lists, and rows of the table of noise
LISTED, ROWS = 4, 6

NAME = 48


def show_explanations(explanations: Sequence[Explanation], report: Report) -> str:
    """All of them, by target."""
    lines: list[str] = []
    for target in report.targets:
        found = [one for one in explanations if one.target == target.name]
        if found:
            lines += [_title(target), ""]
        for one in found:
            lines += [*_candidate(one), ""]
    return "\n".join(lines)


def _title(target: TargetResult) -> str:
    machine = f" · {target.machine}" if target.machine else ""
    threads = f"{target.threads} thread{'s' * (target.threads != 1)}"
    return _hang("", f"target {target.name}{machine} · {threads} · batch {target.batch}")


def _candidate(one: Explanation) -> Iterator[str]:
    yield _hang("", f"{one.candidate}: {one.measured}")
    if one.run_ms is not None:
        yield f"  speed · {one.run_ms:.3g} ms a run · shares of the time of all operators; they overlap"
        if not one.slow:
            yield "    no cause found"
    for cause in one.slow:
        yield from _cause(cause)
    if one.noise is not None:
        yield _hang("  ", f"accuracy · {one.noise.output_db:.1f} dB signal to noise at the output · {one.noise.inputs}")
    elif one.inaccurate:
        yield "  accuracy"
    for cause in one.inaccurate:
        yield from _cause(cause)
    if one.noise is not None:
        yield from _noise(one.noise)
    for note in one.notes:
        yield _hang("  note: ", note)


def _cause(cause: Cause) -> Iterator[str]:
    share = "" if cause.share is None else f"{100 * cause.share:.0f} %"
    yield _hang(f"  {share:>6}  ", cause.sentence)
    layers = [f"{plain(layer.layer)} {100 * layer.share:.0f} %" for layer in cause.layers[:LISTED]]
    if len(cause.layers) > LISTED:
        layers.append(f"{len(cause.layers) - LISTED} more")
    if len(cause.layers) > 1:
        yield _hang(" " * 10, ", ".join(layers))
    yield _hang(
        " " * 10 + ("try: " if cause.edit else "no edit: "), " · ".join(filter(None, (cause.edit, cause.advice)))
    )


def _noise(noise: Noise) -> Iterator[str]:
    """The noisiest layers, each quantized alone."""
    rows = [
        (shorten(plain(layer.layer), NAME), layer.operator, f"{layer.sqnr_db:.1f}") for layer in noise.layers[:ROWS]
    ]
    if not rows:
        return
    rows.insert(0, ("layer, quantized alone", "operator", "dB"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    yield from (f"    {name:<{widths[0]}}  {operator:<{widths[1]}}  {db:>{widths[2]}}" for name, operator, db in rows)
    if len(noise.layers) > ROWS:
        yield f"    … {len(noise.layers) - ROWS} more, less noisy"


def _hang(prefix: str, text: str) -> str:
    """`text` after `prefix`, its further lines under its first."""
    lines = textwrap.wrap(
        plain(text), WIDTH, initial_indent=prefix, subsequent_indent=" " * len(prefix), break_on_hyphens=False
    )
    return "\n".join(lines) or prefix.rstrip()
