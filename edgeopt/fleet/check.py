"""Whether devices in the field keep to what was proven of a release before it shipped.

Nine of ten answers are to keep to the latency budget that the release carries. A device counts how many did, so that is
a share, and its exact bounds decide: above nine tenths it keeps to the budget, below it misses it, between the two
there are too few answers to tell. Answers that follow one another resemble one another, so ten of them are taken for
one. The percentile itself is read off the histogram and is shown for people.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from edgeopt.bundle.archive import open_archive
from edgeopt.bundle.release import read_release
from edgeopt.errors import EdgeoptError, UsageError
from edgeopt.fleet.field import Field
from edgeopt.model import Value
from edgeopt.validation import statistics

QUANTILE, CONFIDENCE = 0.9, 0.95

#: of so many answers one counts, up to as many as tell all that is asked
RESEMBLING, MOST_COUNTED = 10, 10_000

#: a process that answers keeps its metrics once a minute
OLD_SECONDS = 900.0

Outcome = Literal["pass", "fail", "inconclusive", "unmeasured", "error"]


class Finding(Value):
    """What was found of one device.

    `p90_ms` is interpolated in the histogram, and `low_ms` to `high_ms` its interval, whatever the distribution; what
    is open to that side is None. `notes` are what an operator should hear of beside the latency. `exit_code` is that
    of the error that kept the device from being asked.
    """

    device: str
    verdict: Outcome
    sentence: str
    digest: str = ""
    counter: int | None = None
    answers: int = 0
    p90_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    gated_ms: float | None = None
    budget_ms: float | None = None
    notes: tuple[str, ...] = ()
    exit_code: int = 0


class FleetCheck(Value):
    """All that was found."""

    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """1: a device misses its budget; else that of the first that could not be asked; 3: one is undecided."""
        verdicts = {one.verdict for one in self.findings}
        if "fail" in verdicts:
            return 1
        failed = [one.exit_code for one in self.findings if one.verdict == "error"]
        return failed[0] if failed else 0 if verdicts <= {"pass"} else 3


def check_fleet(fields: dict[str, Field | EdgeoptError], newest: int | None = None) -> FleetCheck:
    """Judge every device by itself.

    Args:
        fields: by device, what it says, or why it could not be asked.
        newest: the counter of the release that all should run; None: the highest that one of them runs.
    """
    counters = [one.counter for one in fields.values() if isinstance(one, Field) and one.counter is not None]
    newest = max(counters, default=None) if newest is None else newest
    return FleetCheck(findings=tuple(_check(name, one, newest) for name, one in fields.items()))


def newest_counter(bundle: Path) -> int:
    """The counter of a signed bundle.

    Raises:
        UsageError: there is no bundle at `bundle`, or it is not signed.
    """
    with open_archive(bundle) as archive:
        if archive.release is None:
            raise UsageError(f"`{bundle}` is not signed, so it has no counter", "`edgeopt bundle sign` signs it")
        return read_release(archive.release).counter


def render_table(found: FleetCheck) -> str:
    """A row for each device, and below it what else an operator should hear of."""
    width = max(len(one.device) for one in found.findings)
    lines = [f"{'device':{width}}  counter  answers  p90 ms  [95 %]           gated  budget  verdict"]
    for one in found.findings:
        interval = f"[{_show(one.low_ms)}, {_show(one.high_ms)}]" if one.answers else ""
        counter = "" if one.counter is None else str(one.counter)
        lines.append(
            f"{one.device:{width}}  {counter:>7}  {one.answers:7}  {_show(one.p90_ms):>6}  {interval:15}"
            f"  {_show(one.gated_ms):>5}  {_show(one.budget_ms):>6}  {one.verdict}: {one.sentence}"
        )
        lines += [f"{'':{width}}  {note}" for note in one.notes]
    return "\n".join(lines)


def _show(milliseconds: float | None) -> str:
    return "–" if milliseconds is None else f"{milliseconds:.3g}"


def _check(name: str, field: Field | EdgeoptError, newest: int | None) -> Finding:
    if isinstance(field, EdgeoptError):
        return Finding(device=name, verdict="error", sentence=field.message, exit_code=field.exit_code)
    verdict, sentence = _judge(field)
    low, value, high = p90_of(field.buckets)
    return Finding(
        device=name, verdict=verdict, sentence=sentence, digest=field.digest, counter=field.counter,
        answers=field.answers, p90_ms=_ms(value), low_ms=_ms(low), high_ms=_ms(high), gated_ms=_ms(field.gated_s),
        budget_ms=_ms(field.budget_s), notes=tuple(_notes(field, newest)),
    )  # fmt: skip


def _judge(field: Field) -> tuple[Outcome, str]:
    if field.age_s is not None and field.age_s > OLD_SECONDS:
        return "unmeasured", f"nothing that answers has kept metrics for {field.age_s / 3600:.1f} h"
    if field.budget_s is None:
        return "unmeasured", "the release carries no latency budget, and its p90 was not measured"
    counted = min(field.answers // RESEMBLING, MOST_COUNTED)
    share = field.within / field.answers if field.answers else 0.0
    low = statistics.exact_bounds(math.floor(share * counted), counted, CONFIDENCE)[0] if counted else 0.0
    high = statistics.exact_bounds(math.ceil(share * counted), counted, CONFIDENCE)[1] if counted else 1.0
    said = f"{100 * share:.1f} % of {field.answers} answers within {1e3 * field.budget_s:.3g} ms"
    if low >= QUANTILE:
        return "pass", said
    if high < QUANTILE:
        return "fail", f"{said}, not {100 * QUANTILE:g} %"
    return "inconclusive", f"{said}: too few to tell" if field.answers else "no answers yet"


def p90_of(buckets: Sequence[tuple[float | None, int]]) -> tuple[float | None, float | None, float | None]:
    """The 90th percentile in seconds between its bounds, each at 95 %, as far as cumulative buckets tell."""
    total = buckets[-1][1] if buckets else 0
    counted = min(total // RESEMBLING, MOST_COUNTED)
    if not total:
        return None, None, None
    alpha = 1.0 - CONFIDENCE
    above = statistics.count_below_tail(counted, 1.0 - QUANTILE, alpha) if counted else 0
    below = statistics.count_below_tail(counted, QUANTILE, alpha) if counted else 0
    low = _bucket(buckets, total * below / counted)[0] if below else None
    high = _bucket(buckets, total * (counted + 1 - above) / counted)[1] if above else None
    start, end, before, inside = _bucket(buckets, QUANTILE * total)
    value = None if end is None else start + (end - start) * (QUANTILE * total - before) / inside
    return low, value, high


def _bucket(buckets: Sequence[tuple[float | None, int]], rank: float) -> tuple[float, float | None, int, int]:
    """The bucket that holds an answer of this rank: its ends, how many are below it, and how many in it."""
    start, before = 0.0, 0
    for end, upto in buckets:
        if upto >= rank and upto > before:
            return start, end, before, upto - before
        start, before = start if end is None else end, upto
    return start, None, before, 1


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1e3 * seconds, 6)


def _notes(field: Field, newest: int | None) -> list[str]:
    notes = []
    if newest is not None and field.counter is not None and field.counter < newest:
        notes.append(f"runs counter {field.counter}, the newest is {newest}")
    for signal, score in field.scores.items():
        if score > field.thresholds.get(signal, math.inf):
            notes.append(f"drift of {signal}: {score:.2f}, usual is up to {field.thresholds[signal]:.2f}")
    notes += [f"was rolled back {count:.0f} times: {reason}" for reason, count in field.rollbacks.items() if count]
    notes += [f"was slowed down for {seconds:.0f} s: {why}" for why, seconds in field.throttled.items() if seconds >= 1]
    failed = {outcome: count for outcome, count in field.outcomes.items() if outcome != "ok" and count}
    return notes + [f"{count:.0f} batches without an answer: {outcome}" for outcome, count in failed.items()]
