"""The race of edgeopt's candidates for one network beside what peers ship for it: all sides in one set of workers.

Candidates are built as `edgeopt compile` builds them, and the winner is the one that it would choose: `edgeopt.select`,
with no budget, since random weights have no accuracy to lose. Peers' files run in sessions that are opened as the
documentation of their runtime opens them: see plain.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from comparing import BACKENDS, make_peers
from networks import quantize
from plain import PLAIN

from edgeopt import environment, workers
from edgeopt.context import Context
from edgeopt.data import Samples
from edgeopt.errors import EdgeoptError
from edgeopt.model import Artifact, Model, OnnxValue
from edgeopt.select import Duel, Entry, select
from edgeopt.validation.latency import Ratio, measure_latency, measure_sets, ratio_interval
from edgeopt.validation.latency_samples import LatencySamples, Protocol

ALPHA = 0.05
#: the most of the fastest peer's time that the winner may take
LIMIT = 1.02
TIMED_BATCHES = 8

#: a peer, and what all sides are told against
FLOAT = "ONNX Runtime, float"
#: tool → the runtime that its file is for, by our name of it
PEERS = {"quantize_static": "onnxruntime_cpu", "nncf": "openvino_cpu"}


@dataclass(frozen=True)
class Race:
    """What was timed together: our candidates by their ids, peers by what they are called."""

    candidates: dict[str, Artifact]
    peers: dict[str, Artifact]
    samples: LatencySamples

    def ratio(self, side: str, other: str) -> Ratio:
        return ratio_interval(self.samples, side, other, ALPHA)

    def p50_ms(self, side: str) -> float | None:
        return next(one.value for one in measure_latency(self.samples, side, ALPHA) if one.metric == "latency.p50_ms")

    def winner(self) -> str:
        entries = [
            Entry(id=name, verdict="pass", latency=self._speed(name), size_bytes=artifact.size_bytes)
            for name, artifact in self.candidates.items()
        ]
        winner = select(entries, list(self._duels())).winner
        assert winner is not None
        return winner

    def fastest_peer(self) -> str:
        return min(self.peers, key=self._speed)

    def _speed(self, side: str) -> float:
        value = self.ratio(side, FLOAT).value
        assert value is not None
        return value

    def _duels(self) -> Iterator[Duel]:
        for first, second in combinations(self.candidates, 2):
            found = self.ratio(first, second)
            if found.value is not None:
                yield Duel(first=first, second=second, ratio=found.value, low=found.low, high=found.high)


def build_candidates(model: Model, samples: Samples, folder: Path) -> dict[str, Artifact]:
    """Float and INT8 on both runtimes, with the defaults."""
    built: dict[str, Artifact] = {}
    for backend in BACKENDS:
        variants = {"fp32": model, "int8": quantize(model, samples, folder / backend, backend)}
        built |= {f"{backend}/{name}": build(backend, one, folder / backend / name) for name, one in variants.items()}
    return built


def build_peers(model: Model, samples: Samples, folder: Path) -> dict[str, Artifact]:
    """The float file in both runtimes, and what each tool made of it in its own; one that fails is told."""
    built = {
        FLOAT: build(PLAIN["onnxruntime_cpu"], model, folder / "onnxruntime"),
        "OpenVINO, float": build(PLAIN["openvino_cpu"], model, folder / "openvino"),
    }
    for made in make_peers(model, samples.path, folder, tuple(PEERS)):
        if made.backend != PEERS[made.name]:
            continue
        theirs = model.model_copy(update={"value": OnnxValue(file=made.path.name), "folder": made.path.parent})
        try:
            built[made.name] = build(PLAIN[made.backend], theirs, folder / f"{made.name} built")
        except EdgeoptError as error:
            print(f"\n{made.name} is left out: {error.message}")
    return built


def build(backend: str, model: Model, folder: Path) -> Artifact:
    folder.mkdir(parents=True)
    context = Context(folder=folder, threads=1, batch=1, target="bench")
    artifact: Artifact = workers.run("edgeopt.backends:build_artifact", backend, model, context)
    return artifact


def run_race(candidates: Mapping[str, Artifact], peers: Mapping[str, Artifact], samples: Samples, sets: int) -> Race:
    inputs = [batch.inputs for batch in samples.batches(1)][:TIMED_BATCHES]
    protocol = Protocol(looks=(sets,), threads=1)
    timed = measure_sets({**candidates, **peers}, inputs, protocol, sets, environment.timing_lock())
    return Race(dict(candidates), dict(peers), timed)
