"""How well a pruned network's time is foreseen, and how long making the table of its layers takes.

For the digits network, pruned to shares of its time on ONNX Runtime: what was foreseen and what was then measured, each
as a share of the time of the network as given, in turns in one process. For a MobileNetV2 with images of 224 × 224
pixels: the seconds that its table takes, with nothing known before. Ratios hold on a busy machine, seconds do not.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

from networks import recipe_splits
from tables import ROOT, describe_machine, show

from edgeopt import registry
from edgeopt.clock import make_clock
from edgeopt.context import Context, Memo, Timer
from edgeopt.exporting import export_graph
from edgeopt.inputs import source_request
from edgeopt.model import Model, TensorSpec
from edgeopt.network import make_network
from edgeopt.passes import run_pass
from edgeopt.plan import TIMER
from edgeopt.pruning.groups import find_groups
from edgeopt.pruning.layers import Widths, find_layers
from edgeopt.pruning.soundness import make_inputs
from edgeopt.pruning.timing import TargetTime
from edgeopt.recipe import load_recipe
from edgeopt.sources import SourceRequest, load_source
from edgeopt.validation.subject import thread_environment
from edgeopt.workers import ignore_progress

DIGITS = ROOT / "recipes/digits.yaml"
BACKEND = "onnxruntime_cpu"
GOALS = (0.3, 0.5, 0.7)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = _load(source_request(load_recipe(DIGITS)), folder / "digits")
        rows = [_prune(model, variant, goal, folder) for variant in ("fp32", "int8") for goal in GOALS]
        columns = ["variant", "goal", "foreseen", "measured", "off by", "seconds"]
        show(f"digits, pruned to a share of its time · {describe_machine()}", columns, rows)
        request = SourceRequest(
            root=ROOT / "recipes",
            factory="cifar10/mobilenetv2.py:MobileNetV2",
            weights=ROOT / "recipes/cifar10/mobilenetv2.safetensors",
            inputs=(TensorSpec(name="image", shape=(3, 224, 224)),),
        )
        wide = _load(request, folder / "mobilenetv2")
        rows = [_make_table(wide, variant, folder) for variant in ("fp32", "int8")]
        show("MobileNetV2, 224 × 224: the table of its layers", ["variant", "layers", "whole ms", "seconds"], rows)


def _prune(model: Model, variant: str, goal: float, folder: Path) -> list[object]:
    splits = recipe_splits(DIGITS)
    context = _context(variant, folder / f"{variant}-{goal:g}", folder, calibration=splits.calibration)
    options = {"goal": {"latency": goal}, "importance": "l2", "reestimate_bn": True}
    started = time.monotonic()
    facts = run_pass("prune_channels", options, model, context).facts
    foreseen, measured = float(facts["predicted"]), float(facts["measured"])
    off = f"{100 * (foreseen / measured - 1):+.1f} %"
    return [variant, goal, f"{foreseen:.3f}", f"{measured:.3f}", off, f"{time.monotonic() - started:.0f}"]


def _make_table(model: Model, variant: str, folder: Path) -> list[object]:
    network, inputs = make_network(model), make_inputs(model.inputs, 1)
    groups = [group for group in find_groups(network, make_inputs(model.inputs, 2)) if not group.obstacle]
    widths = Widths(find_layers(network, inputs), groups)
    context = _context(variant, folder / f"table-{variant}", folder)
    started = time.monotonic()
    made = TargetTime(
        network, widths, make_clock(context), partial(export_graph, model=model), None, 8, lambda fraction: None
    )
    return [variant, len(widths.layers), f"{made.whole:.1f}", f"{time.monotonic() - started:.0f}"]


def _context(variant: str, own: Path, shared: Path, **given: object) -> Context:
    own.mkdir()
    timer = Timer(TIMER, BACKEND, threads=1, batch=1, environ=thread_environment(1))
    profile = registry.resolve("backends", BACKEND)().profile() if variant == "int8" else None
    memo = Memo(shared / "memos", "benchmark")
    return Context(folder=own, timer=timer, profile=profile, memo=memo, progress=ignore_progress, **given)


def _load(request: SourceRequest, folder: Path) -> Model:
    folder.mkdir()
    return load_source("torch_factory", request, folder)[0]


if __name__ == "__main__":
    main()
