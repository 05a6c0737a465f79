"""Verdicts → the winner of each target: the race of the candidates, decided by measured facts.

Among the candidates that meet every budget the fastest wins. "As fast as" is no equivalence (a may tie with b and b
with c where a beats c), so ties are counted against one candidate only: the one with the fastest point estimate. Of
those that are not shown to be slower than it, it among them, the smallest wins, then the first of the recipe. So two
runs on a noisy machine agree, whatever the order in which things were measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgeopt.gates import Outcome, Verdict
from edgeopt.model import Value


class Entry(Value):
    """A candidate in the race. `latency` is its paired latency, for all entries in one unit (the ratio to the
    original); None loses to any number. `error` says why it could not be built."""

    id: str
    verdict: Outcome
    verdicts: tuple[Verdict, ...] = ()
    latency: float | None = None
    size_bytes: int | None = None
    error: str | None = None


class Duel(Value):
    """The paired latency of two candidates: `first` ÷ `second`, its interval None where it could not be told."""

    first: str
    second: str
    ratio: float
    low: float | None = None
    high: float | None = None

    def reversed(self) -> Duel:
        low, high = (None if bound is None or bound <= 0 else 1 / bound for bound in (self.high, self.low))
        return Duel(first=self.second, second=self.first, ratio=1 / self.ratio, low=low, high=high)


class Choice(Value):
    """The winner, if any candidate may ship, and for each other candidate the reason why it is not the one."""

    winner: str | None
    reasons: dict[str, str]


def select(entries: Sequence[Entry], duels: Sequence[Duel]) -> Choice:
    """Choose among `entries`, which come in the order of the recipe; that of `duels` and of their sides is free."""
    able = [entry for entry in entries if entry.verdict == "pass" and entry.error is None]
    if not able:
        return Choice(winner=None, reasons={entry.id: _shortfall(entry) for entry in entries})
    fastest = min(able, key=_speed)
    tied = [entry for entry in able if entry is fastest or _as_fast(find_duel(duels, entry.id, fastest.id))]
    winner = min(tied, key=_size)
    reasons = {}
    for entry in entries:
        if entry is winner:
            continue
        if entry not in able:
            reasons[entry.id] = _shortfall(entry)
        elif entry in tied:
            reasons[entry.id] = _larger(entry, winner)
        else:
            reasons[entry.id] = _slower(entry, fastest, find_duel(duels, entry.id, fastest.id))
    return Choice(winner=winner.id, reasons=reasons)


def find_duel(duels: Sequence[Duel], first: str, second: str) -> Duel | None:
    """The duel of two candidates, turned so that it reads `first` ÷ `second`."""
    for duel in duels:
        if (duel.first, duel.second) == (first, second):
            return duel
        if (duel.first, duel.second) == (second, first):
            return duel.reversed()
    return None


def _speed(entry: Entry) -> tuple[float, float]:
    return (math.inf if entry.latency is None else entry.latency, _size(entry))


def _size(entry: Entry) -> float:
    return math.inf if entry.size_bytes is None else entry.size_bytes


def _as_fast(duel: Duel | None) -> bool:
    """Whether a candidate is not shown to be slower than the fastest: without an interval its estimate stands."""
    return duel is not None and duel.low is not None and duel.high is not None and duel.low <= 1.0


def _shortfall(entry: Entry) -> str:
    if entry.error is not None:
        return f"could not be built: {entry.error}"
    words: dict[Outcome, str] = {"fail": "missed", "inconclusive": "not decided:", "unmeasured": "not measured:"}
    said = []
    for outcome, word in words.items():
        budgets = [verdict.budget for verdict in entry.verdicts if verdict.verdict == outcome]
        if budgets:
            said.append(f"{word} {', '.join(budgets)}")
    return "; ".join(said)


def _larger(entry: Entry, winner: Entry) -> str:
    if _size(entry) == _size(winner):
        return f"as fast as {winner.id} and no smaller; later in the recipe"
    sizes = " against ".join("unknown" if one is None else f"{one:,}" for one in (entry.size_bytes, winner.size_bytes))
    return f"as fast as {winner.id} and larger: {sizes} bytes"


def _slower(entry: Entry, fastest: Entry, duel: Duel | None) -> str:
    if entry.latency is None:
        return f"its latency was not measured, that of {fastest.id} was"
    if duel is None or duel.low is None or duel.high is None:
        return f"slower than {fastest.id}, as far as could be told"
    return f"slower than {fastest.id}: {show_ratio(duel.ratio)}× [{show_ratio(duel.low)}, {show_ratio(duel.high)}]"


def show_ratio(value: float) -> str:
    """A ratio with the digits that matter: more of them where it is near to 1."""
    return f"{value:.{2 if value < 2 else 1 if value < 100 else 0}f}"
