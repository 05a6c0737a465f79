"""The table of layers: what is timed is what a layer computes, and nothing that is known already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgeopt import onnx_graph
from edgeopt.backends.onnxruntime_cpu import OnnxruntimeCpu
from edgeopt.clock import Clock
from edgeopt.context import Memo, Timer
from edgeopt.exporting import export_graph
from edgeopt.model import Model, QuantizationProfile
from edgeopt.network import make_network
from edgeopt.pruning.groups import find_groups
from edgeopt.pruning.latency import LatencyTable, make_table
from edgeopt.pruning.layers import Widths, find_layers
from edgeopt.pruning.soundness import make_inputs
from edgeopt.workers import Progress, report_progress


@dataclass(frozen=True)
class Elements(Timer):
    """Runs each graph once, and says that it took a millisecond for each element that came out."""

    timed: list[int] = field(default_factory=list)

    def time(self, models: Sequence[Model], progress: Progress = report_progress) -> list[float]:
        found = [self._run(model) for model in models]
        self.timed.extend(found)
        return [float(count) for count in found]

    def _run(self, model: Model) -> int:
        session = onnx_graph.make_session(model.path.read_bytes())
        made = onnx_graph.run_session(session, onnx_graph.random_inputs(model.inputs, 1, 0))
        return sum(values.size for values in made.values())


def tabulate(
    model: Model, folder: Path, profile: QuantizationProfile | None = None
) -> tuple[LatencyTable, Widths, list[int]]:
    network, inputs = make_network(model), make_inputs(model.inputs, 2)
    groups = [group for group in find_groups(network, inputs) if not group.obstacle]
    widths, timer = Widths(find_layers(network, make_inputs(model.inputs, 1)), groups), Elements("", "none", 1, 1)
    clock, memo = Clock(timer, profile, folder), Memo(folder / "memos", "times")
    table = make_table(widths, export_graph(network, model), clock, memo, 8, lambda fraction: None)
    return table, widths, timer.timed


@pytest.mark.parametrize("profile", [None, OnnxruntimeCpu().profile()], ids=["float", "integers"])
@pytest.mark.parametrize("family", ["unet", "convnext", "regnet", "mobilenetv2"])
def test_a_layer_is_timed_with_all_that_it_makes(
    family: str, profile: QuantizationProfile | None, architecture: Callable[[str], Model], tmp_path: Path
) -> None:
    table, widths, _ = tabulate(architecture(f"families.py:make_{family}"), tmp_path, profile)
    for layer in widths.layers:
        made = layer.positions * layer.outputs
        idle = min(1, 0.95 * made)  # which is taken off
        assert table.layer_ms(layer, layer.inputs, layer.outputs) == pytest.approx(layer.uses * (made - idle)), layer


def test_what_was_timed_once_is_not_timed_again(architecture: Callable[[str], Model], tmp_path: Path) -> None:
    model = architecture("families.py:make_unet")
    first, widths, timed = tabulate(model, tmp_path)
    again, _, timed_again = tabulate(model, tmp_path)
    assert len(timed) > len(widths.layers)
    assert len(timed_again) == 1  # the whole network
    for layer in widths.layers:
        assert again.layer_ms(layer, layer.inputs, layer.outputs) == first.layer_ms(layer, layer.inputs, layer.outputs)
