"""What is measured: accuracy, latency, memory, size, and the statistics that make a measurement hold.

The flow: `subject` hosts one opened session in a process of its own; `accuracy`, `latency` and `memory` drive subjects
and leave raw samples in one file each; pure functions turn raw samples into `Measurement`s, so that a stored report can
be judged again from its samples.
"""

from __future__ import annotations

from edgeopt.model import Value


class Measurement(Value):
    """One measured value with its interval.

    `value` is None where nothing could be measured; `note` says why. `low` and `high` bound it at `confidence`:
    two-sided for ratios and shares, one-sided each for drops and percentiles (None: no bound on that side). `subject`
    and `baseline` are digests of artifacts; `raw` is the file, relative to the report, that holds the samples of both.
    """

    metric: str
    unit: str
    value: float | None
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    samples: int = 0
    subject: str = ""
    baseline: str | None = None
    raw: str | None = None
    environment: str = ""
    simulated: bool = False
    note: str = ""
