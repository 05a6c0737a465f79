"""What ONNX Runtime's own profile tells of the nodes that ran."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_KERNEL = "_kernel_time"


def read_kernels(trace: Sequence[Mapping[str, Any]], warm_up: int) -> Iterator[tuple[str, float, Mapping[str, Any]]]:
    """Each node in the order that they ran: its name, the median microseconds of a run, and what is told of it.

    Args:
        warm_up: so many of the first runs are left out, unless there were no others.
    """
    times, first = defaultdict[str, list[float]](list), dict[str, Mapping[str, Any]]()
    for event in trace:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            name = event["name"].removesuffix(_KERNEL)
            times[name].append(float(event["dur"]))
            first.setdefault(name, event["args"])
    for name, told in first.items():
        yield name, statistics.median(times[name][warm_up:] or times[name]), told
