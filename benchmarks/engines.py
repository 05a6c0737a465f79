"""What edgeopt makes of five known networks at 224×224, with random weights: one thread, a batch of one.

- The race: the candidate that `edgeopt compile` would choose, beside the fastest of what peers ship on a CPU. Wanted:
  at most 1.02 of its time.
- The peak: what ResNet-18 does in a second, as a share of the most that this machine does in int8. Wanted: 75 %.
- The linter: what `edgeopt lint` finds in what is quantized for TensorRT, these networks and those of recipes/, which
  take the data that `EDGEOPT_CIFAR10` names. Wanted: nothing.

Peers run in the Python that `EDGEOPT_PEERS` names (see peers.py); where there is none, only the float files race. With
all of them and 6 sets it takes about an hour.

    python benchmarks/engines.py [--only resnet18,mobilenetv2] [--tables race,peak,lint] [--sets 6]
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from comparing import BACKENDS
from networks import export_recipe, quantize_for, recipe_splits
from originals import SIDE, prepare
from peak import CHAINS, DTYPES, count_operations, describe_theory, write_chain
from plain import offer
from race import FLOAT, LIMIT, Race, build, build_candidates, build_peers, run_race
from tables import ROOT, describe_machine, show

from edgeopt import environment
from edgeopt.data import Arrays, Samples
from edgeopt.model import Artifact, Model
from edgeopt.onnx_graph import load_graph, random_inputs
from edgeopt.quantization.lint import lint
from edgeopt.quantization.profiles import TENSORRT
from edgeopt.validation.latency import Ratio, describe_waiting, measure_sets
from edgeopt.validation.latency_samples import LatencySamples, Protocol
from edgeopt.validation.statistics import median_interval

NETWORKS = ("resnet18", "resnet50", "mobilenetv2", "mobilenetv3_small", "efficientnet")
TABLES = ("race", "peak", "lint")
#: the network whose share of the peak is told, and the share that is wanted
PEAK_NETWORK, LEAST_SHARE = "resnet18", 0.75
ALPHA = 0.05
#: of notes, in characters
WIDTH = 100


@dataclass(frozen=True)
class Network:
    """A network in its ONNX form, the images to calibrate on, and a folder of its own."""

    name: str
    model: Model
    samples: Samples
    folder: Path


@dataclass(frozen=True)
class Load:
    """Something timed for its rate: GOP/s in each set of workers, NaN where a set does not count."""

    name: str
    kind: str
    backend: str
    operations: int
    artifact: Artifact
    rates: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return float(np.nanmedian(self.rates))


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        offer(root / "plain")
        networks = [_make(name, root) for name in options.only]
        if "race" in options.tables:
            _show_races(networks, options.sets)
        if "peak" in options.tables:
            found = (network for network in networks if network.name == PEAK_NETWORK)
            _show_peak(next(found, None) or _make(PEAK_NETWORK, root), root / "peak", options.sets)
        if "lint" in options.tables:
            rows = list(_lint_rows(networks, root / "lint"))
            show("`edgeopt lint --profile tensorrt`; wanted: 0", ["network", "illegal", "slow", "rules"], rows)


def _make(name: str, root: Path) -> Network:
    return Network(name, *prepare(name, root / name), root / name)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=NETWORKS, help=",".join(NETWORKS))
    parser.add_argument("--tables", type=lambda text: text.split(","), default=TABLES, help=",".join(TABLES))
    parser.add_argument("--sets", type=int, default=6, help="sets of workers; fewer than 6 give no interval")
    return parser.parse_args()


def _show_races(networks: Sequence[Network], sets: int) -> None:
    summary = []
    for network in networks:
        candidates = build_candidates(network.model, network.samples, network.folder / "ours")
        peers = build_peers(network.model, network.samples, network.folder / "peers")
        race = run_race(candidates, peers, network.samples, sets)
        _show_race(network, race)
        winner, peer = race.winner(), race.fastest_peer()
        ratio = race.ratio(winner, peer)
        summary.append([network.name, winner, peer, *_tell(ratio), _judge(ratio)])
    title = f"the winner ÷ the fastest peer; wanted: at most {LIMIT}"
    show(title, ["network", "winner", "fastest peer", "ratio", "95 % interval", ""], summary)


def _show_race(network: Network, race: Race) -> None:
    title = f"{network.name}, {SIDE}×{SIDE}, one thread, in turns · {describe_machine()}"
    rows = [
        [f"{who} {side}", f"{race.p50_ms(side):.2f}", *_tell(race.ratio(side, FLOAT)), f"{one.size_bytes / 1e6:.1f}"]
        for who, sides in (("edgeopt", race.candidates), ("peer", race.peers))
        for side, one in sides.items()
    ]
    show(title, ["side", "p50 ms", f"÷ {FLOAT}", "95 % interval", "MB"], rows)
    if waiting := describe_waiting(race.samples):
        print(textwrap.fill(waiting, WIDTH))


def _tell(ratio: Ratio) -> tuple[str, str]:
    value = "none" if ratio.value is None else f"{ratio.value:.3f}"
    return value, "none" if ratio.low is None or ratio.high is None else f"[{ratio.low:.3f}, {ratio.high:.3f}]"


def _judge(ratio: Ratio) -> str:
    if ratio.low is None or ratio.high is None:
        return "not decided"
    return "missed" if ratio.low > LIMIT else "met" if ratio.high <= LIMIT else "not decided"


def _show_peak(network: Network, folder: Path, sets: int) -> None:
    """Everything takes its turn once in each round, so that what the machine does to one it does to all."""
    groups = [_network_group(network, folder / "network"), *_chain_groups(folder)]
    for seed in range(sets):
        for inputs, loads in groups:
            _time(inputs, loads, seed)
    (_, own), chains = groups[0], [load for _, loads in groups[1:] for load in loads]
    _show_chains(chains)
    best = {kind: max((load for load in chains if load.kind == kind), key=lambda load: load.rate) for kind in DTYPES}
    for kind, load in best.items():
        print(f"peak in {kind}: {load.rate:.1f} GOP/s, {load.name}, {load.backend}")
    print(describe_theory())
    every, inside = count_operations(load_graph(network.model.path))
    title = f"{network.name}, {every / 1e9:.2f} GOP; wanted of the best: {LEAST_SHARE:.0%} of the int8 peak"
    rows = [_share_row(load, best, inside / every) for load in own]
    show(title, ["", "GOP/s", "of int8 peak", "95 % interval", "less padding", "of float peak"], rows)


def _show_chains(chains: Sequence[Load]) -> None:
    rates = {(load.name, load.backend, load.kind): f"{load.rate:.1f}" for load in chains}
    columns = [(backend, kind) for kind in DTYPES for backend in BACKENDS]
    rows = [
        [name, *(rates.get((name, *column), "") for column in columns)]
        for name in dict.fromkeys(load.name for load in chains)
    ]
    heads = [f"{backend.removesuffix('_cpu')} {kind}" for backend, kind in columns]
    show(f"GOP/s of one thread · {describe_machine()}", ["", *heads], rows)


def _network_group(network: Network, folder: Path) -> tuple[list[Arrays], list[Load]]:
    candidates = build_candidates(network.model, network.samples, folder)
    operations, _ = count_operations(load_graph(network.model.path))
    kinds = {"int8": "int8", "fp32": "float"}
    loads = [
        Load(network.name, kinds[name.partition("/")[2]], name.partition("/")[0], operations, artifact)
        for name, artifact in candidates.items()
    ]
    return [batch.inputs for batch in network.samples.batches(1)], loads


def _chain_groups(folder: Path) -> Iterator[tuple[list[Arrays], list[Load]]]:
    for index, chain in enumerate(CHAINS):
        for kind in chain.kinds:
            here = folder / f"{index} {kind}"
            model = write_chain(chain, kind, here)
            built = {backend: build(backend, model, here / backend) for backend in BACKENDS}
            loads = [Load(chain.name, kind, backend, chain.operations, one) for backend, one in built.items()]
            yield [random_inputs(model.inputs, 1, seed=0)], loads


def _time(inputs: Sequence[Arrays], loads: Sequence[Load], seed: int) -> None:
    """Add one set to the rates: the time that a side waited for its core is not in them."""
    sides = {f"{load.backend} {load.kind}": load for load in loads}
    artifacts = {name: load.artifact for name, load in sides.items()}
    protocol = Protocol(looks=(1,), threads=1, seed=seed)
    samples = measure_sets(artifacts, inputs, protocol, 1, environment.timing_lock())
    for name, load in sides.items():
        load.rates.append(_rate(samples, name, load.operations))


def _rate(samples: LatencySamples, side: str, operations: int) -> float:
    """GOP/s; NaN where the only set was too disturbed to count."""
    for times, _ in samples.paired_times_of(side, side):
        return operations / float(np.median(times))
    return math.nan


def _share_row(load: Load, best: Mapping[str, Load], inside: float) -> list[object]:
    """`inside`: the share of the operations that are no padding, which a runtime may skip."""
    shares = np.array(load.rates) / np.array(best["int8"].rates)
    interval = median_interval(shares[np.isfinite(shares)], ALPHA)
    told = "none" if interval is None else f"[{interval[0]:.1%}, {interval[1]:.1%}]"
    of_float = "" if load.kind == "int8" else f"{load.rate / best['float'].rate:.1%}"
    share = float(np.nanmedian(shares))
    return [
        f"{load.backend} {load.kind}", f"{load.rate:.1f}", f"{share:.1%}", told, f"{inside * share:.1%}", of_float,
    ]  # fmt: skip


def _lint_rows(networks: Sequence[Network], folder: Path) -> Iterator[list[object]]:
    for network in networks:
        yield _lint_row(network.name, network.model, network.samples, folder / network.name)
    if not os.environ.get("EDGEOPT_CIFAR10"):
        print("\nno networks of recipes/: `EDGEOPT_CIFAR10` does not name the folder of the data (recipes/README.md)")
        return
    for recipe in sorted(ROOT.glob("recipes/cifar10_*.yaml")):
        calibration = recipe_splits(recipe).calibration
        assert calibration is not None
        model = export_recipe(recipe, folder / recipe.stem / "float")
        yield _lint_row(recipe.stem, model, calibration, folder / recipe.stem)


def _lint_row(name: str, model: Model, samples: Samples, folder: Path) -> list[object]:
    found = lint(load_graph(quantize_for(TENSORRT, model, samples, folder).path), TENSORRT)
    illegal = [one for one in found if one.severity == "illegal"]
    return [name, len(illegal), len(found) - len(illegal), ", ".join(dict.fromkeys(one.rule for one in found))]


if __name__ == "__main__":
    main()
