"""ONNX Runtime's own profile of an artifact: the time of each node, and of whole runs that differ in one thing.

Profiling makes a run of many small nodes several times as long, so that the profile gives shares only, and whole runs
are timed without it, in turns. All sessions are opened as the backend opens them.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from edgeopt.backends import Arrays, backend_errors
from edgeopt.backends.onnxruntime_cpu import open_runtime
from edgeopt.model import Artifact
from edgeopt.onnx_graph import random_inputs
from edgeopt.onnx_sessions.trace import read_kernels
from edgeopt.validation.subject import Subject

#: whole runs are timed in so many turns, each of about so long
TURNS, TURN_SECONDS = 12, 0.08
LEAST_RUNS, MOST_RUNS = 3, 40

#: of the runs that are profiled, so many are left out: they tell of starting
WARM_UP = 4

#: operator → which of its inputs is the weight
_WEIGHTS = {
    "QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3, "ConvInteger": 1, "MatMulInteger": 1, "MatMulIntegerToFloat": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Node:
    """One node of the running session.

    Attributes:
        time_us: median over the runs, with what profiling costs.
        input_dtype: of its first input, as `float` or `uint8`.
        weight_dtype: of its weight, as `uint8`, where it computes in integers; else empty.
    """

    name: str
    operator: str
    time_us: float
    input_dtype: str
    weight_dtype: str = ""


@dataclass(frozen=True)
class Profile:
    """What was measured of one artifact.

    Attributes:
        run_us: one run.
        doubled_us: one run of twice the batch, or None where the graph takes one batch only.
        fewer_us: one run with as many threads as there are cores, or None where there are not fewer cores.
    """

    nodes: tuple[Node, ...]
    threads: int
    run_us: float
    doubled_us: float | None = None
    fewer_us: float | None = None

    @property
    def fixed_share(self) -> float:
        """The share of a run that does not grow with the batch: what it costs to start nodes, whatever they compute."""
        return 0.0 if self.doubled_us is None else min(1.0, max(0.0, 2.0 - self.doubled_us / self.run_us))

    def share(self, nodes: Sequence[Node]) -> float:
        """The share of the time of all nodes that some of them take."""
        whole = sum(node.time_us for node in self.nodes)
        return sum(node.time_us for node in nodes) / whole if whole else 0.0


def take_profile(artifact: Artifact, graph: onnx.ModelProto, cores: int) -> Profile:
    """Time an artifact and profile its `graph`, in which every node has a name, on random inputs.

    Raises:
        BackendError: ONNX Runtime cannot open or run it.
    """
    threads, batch = int(artifact.settings["threads"]), int(artifact.settings["batch"])
    inputs = random_inputs(artifact.inputs, batch, seed=0)
    subjects = {"run": Subject(artifact, [inputs])}
    if all(isinstance(spec.shape[0], str) for spec in artifact.inputs if spec.shape):
        subjects["doubled"] = Subject(artifact, [random_inputs(artifact.inputs, 2 * batch, seed=0)])
    if threads > cores:
        settings = artifact.settings | {"threads": cores}
        subjects["fewer"] = Subject(artifact.model_copy(update={"settings": settings}), [inputs])
    times = _time(subjects)
    runs = WARM_UP + _runs(times["run"], TURNS * TURN_SECONDS)
    nodes = _profile_nodes(graph, threads, inputs, runs)
    return Profile(nodes, threads, times["run"], times.get("doubled"), times.get("fewer"))


def parse_trace(trace: Sequence[Mapping[str, Any]], optimized: onnx.ModelProto) -> tuple[Node, ...]:
    """The nodes of a profile in the order that they ran; `optimized` is the graph as the session runs it."""
    weights = _weight_dtypes(optimized)
    return tuple(
        Node(
            name=name,
            operator=told["op_name"],
            time_us=time_us,
            input_dtype=next(iter((told.get("input_type_shape") or [{}])[0]), ""),
            weight_dtype=weights.get(name, ""),
        )
        for name, time_us, told in read_kernels(trace, WARM_UP)
    )


def _profile_nodes(graph: onnx.ModelProto, threads: int, inputs: Arrays, runs: int) -> tuple[Node, ...]:
    with tempfile.TemporaryDirectory(prefix="edgeopt-explain-") as scratch:
        optimized = Path(scratch) / "optimized.onnx"
        settings = {"profile_file_prefix": f"{scratch}/trace", "optimized_model_filepath": str(optimized)}
        session = open_runtime(graph.SerializeToString(), threads, enable_profiling=True, **settings)
        with backend_errors("onnxruntime_cpu", "run"):
            for _ in range(runs):
                session.run(None, inputs)
        trace = json.loads(Path(session.end_profiling()).read_bytes())
        return parse_trace(trace, onnx.load(optimized))


def _time(subjects: Mapping[str, Subject]) -> dict[str, float]:
    """The microseconds of a run of each subject, without the time that it waited for its core.

    That of the first is a median over the turns; that of another is as many times as long as it was longer in most
    turns, which are short beside what disturbs a shared machine.
    """
    turns: dict[str, list[float]] = {name: [] for name in subjects}
    runs = {name: _runs(_turn(subject, WARM_UP, LEAST_RUNS), TURN_SECONDS) for name, subject in subjects.items()}
    for _ in range(TURNS):
        for name, subject in subjects.items():
            turns[name].append(_turn(subject, 1, runs[name]))
    first = turns["run"]
    whole = statistics.median(first)
    return {
        name: whole * statistics.median(each / one for each, one in zip(taken, first, strict=True))
        for name, taken in turns.items()
    }


def _turn(subject: Subject, discard: int, runs: int) -> float:
    block = subject.time_block(discard, runs)
    waited = block.waited_ns if block.correctable else [0] * runs
    return statistics.median(taken - lost for taken, lost in zip(block.times_ns, waited, strict=True)) / 1e3


def _runs(run_us: float, seconds: float) -> int:
    return min(MOST_RUNS, max(LEAST_RUNS, int(seconds * 1e6 / run_us)))


def _weight_dtypes(optimized: onnx.ModelProto) -> dict[str, str]:
    """Node → the dtype of its weight, for those that compute in integers and have a constant one."""
    constants = {tensor.name: tensor.data_type for tensor in optimized.graph.initializer}
    found = {}
    for node in optimized.graph.node:
        weight = node.input[_WEIGHTS[node.op_type]] if node.op_type in _WEIGHTS else ""
        if weight in constants:
            found[node.name] = onnx.helper.tensor_dtype_to_np_dtype(constants[weight]).name
    return found
