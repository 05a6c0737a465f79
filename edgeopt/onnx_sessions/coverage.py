"""What ran where: the nodes of a session, by the provider that ran them, with the time that they took.

ONNX Runtime's profile names the provider of each node that ran, and the graph assignment names what a provider took
together: one that compiles runs a part of the graph as one node. The time of a node is the host's: a GPU works on while
the host goes on, and the node that waits for it takes the time of those before it.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeopt.errors import BackendError
from edgeopt.onnx_sessions import SHORT_NAMES, Opening, first_line, open_session
from edgeopt.onnx_sessions.trace import read_kernels

#: of the runs that are profiled, so many are left out: they tell of starting
WARM_UP, RUNS = 2, 5

#: parts of a cut that a fact names; the others are counted
LISTED = 6

_ASSIGNED = "session.record_ep_graph_assignment_info"

#: as reports write them
_TITLES = {"cuda": "CUDA", "tensorrt": "TensorRT", "cpu": "CPU", "openvino": "OpenVINO", "xnnpack": "XNNPACK"}


@dataclass(frozen=True)
class Ran:
    """One node of a running session; `nodes` of the graph are in it, more than one where its provider compiles."""

    name: str
    operator: str
    provider: str
    time_us: float
    nodes: int = 1

    @property
    def copies(self) -> bool:
        """Whether all that it does is bring a tensor from one memory to another."""
        return self.operator.startswith("Memcpy")


@dataclass(frozen=True)
class Coverage:
    """What ran, in the order that it ran."""

    ran: tuple[Ran, ...]

    def operators_on(self, provider: str) -> list[str]:
        """The operators that ran on a provider, with their number where there are several: `Conv`, `Relu ×2`."""
        counted = Counter(one.operator for one in self.ran if one.provider == provider and not one.copies)
        return [name if number == 1 else f"{name} ×{number}" for name, number in sorted(counted.items())]

    def require(self, allowed: Collection[str]) -> None:
        """Return if every node ran on one of the `allowed` providers.

        Raises:
            BackendError: names the operators that did not.
        """
        for provider in sorted({one.provider for one in self.ran} - set(allowed)):
            operators = self.operators_on(provider)
            if operators:
                wanted = " or ".join(_title(name) for name in allowed)
                hint = "allow it by the backend's options, or keep these operators out of the network"
                raise BackendError(f"not on {wanted}, but on {_title(provider)} ran {', '.join(operators)}", hint)

    def facts(self) -> dict[str, str | int | float]:
        """Shares of nodes and of time, copies between memories, and where the graph is cut, for the report."""
        computing = [one for one in self.ran if not one.copies]
        nodes, time_us = sum(one.nodes for one in computing), sum(one.time_us for one in self.ran)
        told = []
        for provider in dict.fromkeys(one.provider for one in computing):
            mine = [one for one in computing if one.provider == provider]
            of_nodes = 100 * sum(one.nodes for one in mine) / max(1, nodes)
            of_time = 100 * sum(one.time_us for one in mine) / (time_us or 1.0)
            told.append(f"{_title(provider)} {of_nodes:.0f} % of nodes, {of_time:.0f} % of time")
        return {"coverage": "; ".join(told), "copies": len(self.ran) - len(computing), "parts": self._describe_cut()}

    def parts(self) -> list[tuple[str, int]]:
        """The stretches that one provider runs without another between, with their nodes, in order."""
        computing = (one for one in self.ran if not one.copies)
        grouped = itertools.groupby(computing, key=lambda one: one.provider)
        return [(provider, sum(one.nodes for one in stretch)) for provider, stretch in grouped]

    def _describe_cut(self) -> str:
        parts = self.parts()
        told = [f"{_title(provider)} {nodes}" for provider, nodes in parts[:LISTED]]
        more = [f"{len(parts) - LISTED} more"] if len(parts) > LISTED else []
        return f"{len(parts)}: " + ", ".join(told + more)


def take_coverage(graph: str | bytes, opening: Opening, inputs: Mapping[str, Any]) -> Coverage:
    """Open the graph with profiling on, run it and see what ran where.

    Raises:
        BackendError: ONNX Runtime cannot open or run it.
    """
    with tempfile.TemporaryDirectory(prefix="edgeopt-coverage-") as scratch:
        attributes = {**opening.attributes, "enable_profiling": True, "profile_file_prefix": f"{scratch}/trace"}
        entries = {**opening.entries, _ASSIGNED: "1"}
        session = open_session(graph, replace(opening, attributes=attributes, entries=entries))
        try:
            for _ in range(WARM_UP + RUNS):
                session.run(None, dict(inputs))
        except Exception as error:  # the runtime's own exceptions have no base but Exception
            raise BackendError(f"ONNX Runtime failed: {first_line(error)}") from error
        trace = json.loads(Path(session.end_profiling()).read_bytes())
        return parse_coverage(trace, assigned_nodes(session))


def assigned_nodes(session: Any) -> list[tuple[str, int]]:
    """Provider and number of nodes of each part that a provider took of the graph; none where it is not told.

    ONNX Runtime tells since 1.24.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return []
    told = session.get_provider_graph_assignment_info()
    return [(_short(part.ep_name), len(part.get_nodes())) for part in told]


def parse_coverage(trace: Sequence[Mapping[str, Any]], assigned: Sequence[tuple[str, int]] = ()) -> Coverage:
    """What a profile tells; `assigned`: provider and number of nodes of each part that was taken as one."""
    compiled = _compiled(assigned)
    return Coverage(
        tuple(
            Ran(
                name=name,
                operator=told["op_name"],
                provider=(provider := _short(told["provider"])),
                time_us=time_us,
                nodes=next(compiled.get(provider, iter(())), 1),
            )
            for name, time_us, told in read_kernels(trace, WARM_UP)
        )
    )


def _compiled(assigned: Sequence[tuple[str, int]]) -> dict[str, Iterator[int]]:
    """The sizes of the parts of each provider that compiles, which runs a part of any size as one node."""
    sizes = defaultdict[str, list[int]](list)
    for provider, nodes in assigned:
        sizes[provider].append(nodes)
    return {provider: iter(parts) for provider, parts in sizes.items() if max(parts) > 1}


def _short(provider: str) -> str:
    return SHORT_NAMES.get(provider, provider.removesuffix("ExecutionProvider").lower())


def _title(provider: str) -> str:
    return _TITLES.get(provider, provider)
