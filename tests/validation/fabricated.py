"""Latency samples that nothing was timed for: undisturbed, unless a test says otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.validation.latency_samples import LatencySamples, Protocol


def samples_of(times_ns: NDArray[np.int64], sides: tuple[str, ...], **changes: Any) -> LatencySamples:
    """Samples with (sides, sets, blocks, iterations) times; `changes` are fields in place of those made up here."""
    count, sets, blocks, iterations = times_ns.shape
    values: dict[str, Any] = {
        "sides": sides,
        "digests": tuple(f"digest of {side}" for side in sides),
        "times_ns": times_ns.astype(np.int64),
        "waited_ns": np.zeros_like(times_ns, np.int64),
        "correctable": np.ones((count, sets, blocks), np.bool_),
        "order": np.tile(np.arange(count), (sets, blocks, 1)),
        "slowed": np.zeros((sets, blocks, 2), np.int64),
        "moves": np.zeros((count, sets, blocks), np.int64),
        "settled": np.ones((count, sets), np.bool_),
        "streams": np.zeros((count, sets, 0, 2), np.int64),
        "streams_slowed": np.zeros((count, sets, 2), np.int64),
        "figures": np.ones((count, sets, 3), np.int64),
        "device_ns": np.full((count, sets, 2), -1, np.int64),
        "protocol": Protocol(blocks=blocks, iterations=iterations),
        "cores": (1,),
        "batch": 1,
        "seconds": 1.0,
        "environment": "this machine",
    }
    return LatencySamples(**values | changes)
