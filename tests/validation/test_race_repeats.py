"""The race of candidates ends alike in every run: measured times differ from run to run, the winner does not."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from edgeopt.backends import build_artifact
from edgeopt.context import Context
from edgeopt.model import Artifact, Model, OnnxValue
from edgeopt.onnx_graph import input_specs, load_graph, output_specs, save_graph
from edgeopt.select import Choice, Duel, Entry, select
from edgeopt.validation.latency import measure_sets, ratio_interval
from edgeopt.validation.latency_samples import SET_AXES, LatencySamples, Protocol
from edgeopt.validation.noise import CHANNELS, LAYERS, PIXELS, make_network
from tests.validation.test_latency import ALPHA, fabricate

RUNS = 20

#: that of the recipe, in which the larger of the two equal networks comes first
SIZES = {"large": 400_000, "small": 200_000, "slow": 100_000}

#: sets that were timed, and how many of them, chosen anew, are one run
POOL, PER_RUN = 24, 12

#: where only sets that all agree show a difference: equal networks then differ in one of 4,000 runs, not of 120
UNANIMOUS = 2.0 ** (1 - PER_RUN)


def race(samples: LatencySamples, sizes: dict[str, int], alpha: float = ALPHA) -> Choice:
    """The choice among candidates that all keep their budgets."""
    duels = []
    for first, second in itertools.combinations(sizes, 2):
        found = ratio_interval(samples, first, second, alpha)
        assert found.value is not None
        duels.append(Duel(first=first, second=second, ratio=found.value, low=found.low, high=found.high))
    times = {name: ratio_interval(samples, name, "slow", alpha).value for name in sizes}
    entries = [Entry(id=name, verdict="pass", latency=times[name], size_bytes=sizes[name]) for name in sizes]
    return select(entries, duels)


def fastest(samples: LatencySamples) -> str:
    """Who would win if estimates decided."""
    return min(("large", "small"), key=lambda name: ratio_interval(samples, name, "slow", ALPHA).value or np.inf)


def test_of_equal_networks_the_smaller_wins_every_run_although_either_seems_faster() -> None:
    speeds = {"large": 1.0, "small": 1.0, "slow": 1.5}
    runs = [fabricate(speeds, seed=seed, process=0.02) for seed in range(RUNS)]
    assert Counter(race(run, SIZES).winner for run in runs) == {"small": RUNS}
    assert Counter(map(fastest, runs)).keys() == {"small", "large"}


def enlarged(plain: Model, folder: Path) -> Model:
    """The network with a weight that nothing reads: a larger file, and as fast."""
    graph = load_graph(plain.path)
    unread = np.random.default_rng(1).standard_normal(50_000).astype(np.float32)
    graph.graph.initializer.append(onnx.numpy_helper.from_array(unread, "unread"))
    return saved(graph, folder)


def slowed(plain: Model, folder: Path) -> Model:
    """The network with half as many convolutions again."""
    graph, name = load_graph(plain.path), f"layer{LAYERS - 1}"
    for at in range(LAYERS // 2):
        graph.graph.node.append(helper.make_node("Conv", [name, "weight1"], [f"more{at}"], pads=[1, 1, 1, 1]))
        name = f"more{at}"
    graph.graph.node.append(helper.make_node("GlobalAveragePool", [name], ["extra"]))
    shape = ["batch", CHANNELS, 1, 1]
    graph.graph.output.append(helper.make_tensor_value_info("extra", onnx.TensorProto.FLOAT, shape))
    return saved(graph, folder)


def saved(graph: onnx.ModelProto, folder: Path) -> Model:
    model = Model(value=OnnxValue(), inputs=input_specs(graph), outputs=output_specs(graph), folder=folder)
    save_graph(graph, model.path)
    return model


@pytest.fixture
def sides(tmp_path: Path) -> dict[str, Artifact]:
    folders = {name: tmp_path / name for name in SIZES} | {
        f"built {name}": tmp_path / f"{name}-built" for name in SIZES
    }
    for folder in folders.values():
        folder.mkdir()
    small = make_network(folders["small"])
    models = {"large": enlarged(small, folders["large"]), "small": small, "slow": slowed(small, folders["slow"])}
    return {
        name: build_artifact("onnxruntime_cpu", model, Context(folder=folders[f"built {name}"]))
        for name, model in models.items()
    }


@pytest.mark.slow
def test_real_sessions_choose_the_same_winner_in_every_run(sides: dict[str, Artifact], tmp_path: Path) -> None:
    image = np.random.default_rng(0).standard_normal((1, 3, PIXELS, PIXELS)).astype(np.float32)
    protocol = Protocol(looks=(POOL,), blocks=4, iterations=3)
    pool = measure_sets(sides, [{"image": image}], protocol, POOL, tmp_path / "lock")
    sizes = {name: artifact.size_bytes for name, artifact in sides.items()}
    assert sizes["small"] < sizes["slow"] < sizes["large"]
    random = np.random.default_rng(0)
    runs = [drawn(pool, random.choice(POOL, PER_RUN, replace=False)) for _ in range(RUNS)]
    choices = [race(run, sizes, UNANIMOUS) for run in runs]
    assert Counter(choice.winner for choice in choices) == {"small": RUNS}
    assert all(choice.reasons["large"].startswith("as fast as small and larger: ") for choice in choices)
    assert all(choice.reasons["slow"].startswith("slower than ") for choice in choices)


def drawn(pool: LatencySamples, sets: NDArray[np.int64]) -> LatencySamples:
    """The samples of one run: some of the sets."""
    return replace(pool, **{name: np.take(getattr(pool, name), sets, axis) for name, axis in SET_AXES.items()})
