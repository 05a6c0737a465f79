"""Twelve families of architectures with 30 % of their channels gone: what was pruned, and whether it is still right.

The networks are small ones of our own (`tests/networks/families.py`), with the wiring of each family and statistics
like those of trained ones. `masked` and `runtime` are how far the pruned network, in torch and in ONNX Runtime, is from
the dense one with zeros in those channels, as a share of its largest output. `silent` counts layers that are neither
narrowed nor named with a reason nor an output. `latency` is pruned ÷ dense in float, one thread, batch 1, in turns.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from tables import ROOT, describe_machine, show
from torch import nn
from torch.nn.modules.conv import _ConvNd

from edgeopt import onnx_graph
from edgeopt.context import Context
from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.model import Model, TensorSpec, TorchValue
from edgeopt.network import make_network, write_network
from edgeopt.passes.export_onnx import ExportOnnx
from edgeopt.passes.prune_channels import PruneChannels
from edgeopt.pruning.removal import mask_channels
from edgeopt.pruning.soundness import make_inputs
from edgeopt.workers import ignore_progress

NETWORKS = ROOT / "tests/networks"
STEP = PruneChannels(ratio=0.3, importance="l2", round_to=4, min_channels=4)
#: largest difference that is rounding; how often both sides are timed, each time by the fastest of so many runs
ROUNDING, ROUNDS, RUNS = 1e-4, 60, 20

#: the second way of writing one of the twelve
SECOND = ", fixed shapes"


@dataclass(frozen=True)
class Row:
    """One network: what the table shows of it."""

    name: str
    facts: dict[str, str | int | float]
    silent: int
    masked: float
    runtime: float
    latency: float

    @property
    def is_right(self) -> bool:
        return max(self.masked, self.runtime) < ROUNDING and self.facts["groups_pruned"] != 0 and not self.silent

    def cells(self) -> list[str]:
        before, after = float(self.facts["macs_before"]), float(self.facts["macs_after"])
        counts = [self.facts["groups_pruned"], self.facts["groups_left_whole"], self.silent]
        macs = [f"{before / 1e6:.2f} → {after / 1e6:.2f}", f"{after / before:.2f}"]
        found = [f"{self.masked:.0e}", f"{self.runtime:.0e}", f"{self.latency:.2f}"]
        return [self.name, *map(str, counts), *macs, *found]


def main() -> None:
    sys.path.insert(0, str(NETWORKS))
    from families import FAMILIES

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            look(name, make.__name__, Path(folder) / str(number))
            for number, (name, make) in enumerate(FAMILIES.items())
        ]
    columns = ["architecture", "pruned", "left", "silent", "MMACs", "ratio", "masked", "runtime", "latency"]
    show(f"30 % of the channels gone · {describe_machine()}", columns, [row.cells() for row in rows])
    print("\nleft whole:")
    for row in rows:
        for reason in filter(None, str(row.facts["left_whole"]).split("; ")):
            print(f"  {row.name}: {reason}")
    wrong = {row.name.removesuffix(SECOND) for row in rows if not row.is_right}
    families = {row.name.removesuffix(SECOND) for row in rows}
    print(f"\n{len(families - wrong)} of {len(families)} prune, export, run and match their masked twin; "
          f"{sum(row.silent for row in rows)} layers left without a word")  # fmt: skip


def look(name: str, function: str, folder: Path) -> Row:
    model = make_model(function, folder / "dense")
    samples = write_samples(folder / "samples.npz")
    result = STEP(model, Context(folder=folder / "pruned", progress=ignore_progress, training=samples))
    pruned, dense = result.model, make_network(model)
    assert isinstance(pruned.value, TorchValue)
    masked = make_network(model)
    mask_channels(masked, pruned.value.edits)
    inputs = make_inputs(model.inputs, 8, seed=1)
    with torch.inference_mode():
        expected = masked(*inputs).numpy()
        found = make_network(pruned)(*inputs).numpy()
    files = [export(each, folder / f"onnx{number}") for number, each in enumerate((model, pruned))]
    ran = onnx_graph.run_session(onnx_graph.make_session(files[1].read_bytes()), {"image": inputs[0].numpy()})
    largest = np.abs(expected).max()
    return Row(
        name=name, facts=dict(result.facts), silent=count_silent(dense, pruned, str(result.facts["left_whole"])),
        masked=float(np.abs(found - expected).max() / largest),
        runtime=float(np.abs(ran["output"] - expected).max() / largest), latency=compare(*files),
    )  # fmt: skip


def make_model(function: str, folder: Path) -> Model:
    shape = (5, 16, 16) if function == "make_unet" else (5,)
    described = Model(
        value=TorchValue(factory=f"families.py:{function}"), sources=NETWORKS,
        inputs=(TensorSpec(name="image", shape=("batch", 3, 16, 16)),),
        outputs=(TensorSpec(name="output", shape=("batch", *shape)),),
    )  # fmt: skip
    import families

    folder.mkdir(parents=True)
    return write_network(getattr(families, function)(), described, folder)


def write_samples(path: Path) -> Samples:
    np.savez(path, image=np.random.default_rng(0).standard_normal((16, 3, 16, 16)).astype(np.float32))
    return Samples("npz", path, ("image",), Preprocess())


def export(model: Model, folder: Path) -> Path:
    return ExportOnnx()(model, Context(folder=folder, progress=ignore_progress)).model.path


def count_silent(dense: nn.Module, pruned: Model, told: str) -> int:
    """Layers that are neither narrowed nor named; the last one of each of these networks gives its outputs."""
    assert isinstance(pruned.value, TorchValue)
    layers = [name for name, module in dense.named_modules() if isinstance(module, (_ConvNd, nn.Linear))]
    narrowed = {edit.module for edit in pruned.value.edits if edit.arguments["axis"] == "out"}
    named = [name for name in layers if f"`{name}`" in told or f"; {name}: " in f"; {told}"]
    return len(set(layers[:-1]) - narrowed - set(named))


def compare(dense: Path, pruned: Path) -> float:
    """Pruned ÷ dense: the median ratio of times taken in turns."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = [onnxruntime.InferenceSession(str(path), options) for path in (dense, pruned)]
    image = {"image": np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)}
    ratios = []
    for _ in range(ROUNDS):
        dense_s, pruned_s = (min(take_time(session, image) for _ in range(RUNS)) for session in sessions)
        ratios.append(pruned_s / dense_s)
    return statistics.median(ratios)


def take_time(session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray]) -> float:
    started = time.perf_counter()
    session.run(None, inputs)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
