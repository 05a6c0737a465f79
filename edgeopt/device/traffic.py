"""What a predictor's answers add up to: how many, how they ended, and how long each stage took.

Kept as plain counts, since it is inside the time of every answer; `metrics` makes Prometheus' families of them.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final, get_args

from edgeopt.device.watching import Outcome, Seconds

#: upper ends of the buckets of a duration, in seconds; they are the same for all releases, so that a fleet adds up
BUCKETS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25,
    0.5, 1.0,
)  # fmt: skip


class Traffic:
    """Counts; whoever adds to it holds a lock.

    Args:
        limit_s: of the time of inference, at which answers are within the budget; None: there is no such budget.
    """

    def __init__(self, limit_s: float | None) -> None:
        self._limit_s = limit_s
        self.outcomes: dict[str, int] = dict.fromkeys(get_args(Outcome), 0)
        self.within = 0
        #: by stage, for each bucket and what is above the last
        self.counts = {stage: [0] * (len(BUCKETS) + 1) for stage in Seconds._fields}
        self.sums = dict.fromkeys(Seconds._fields, 0.0)

    def add(self, seconds: Seconds) -> None:
        """Count one answer."""
        self.outcomes["ok"] += 1
        for stage, taken in zip(Seconds._fields, seconds, strict=True):
            self.counts[stage][bisect_left(BUCKETS, taken)] += 1
            self.sums[stage] += taken
        if self._limit_s is not None and seconds.infer <= self._limit_s:
            self.within += 1

    def cumulative(self, stage: str) -> list[tuple[str, float]]:
        """The buckets of a stage as Prometheus has them: each counts what is at most its upper end."""
        made, total = [], 0.0
        for end, count in zip((*map(str, BUCKETS), "+Inf"), self.counts[stage], strict=True):
            total += count
            made.append((end, total))
        return made
