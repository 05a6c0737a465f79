"""Ranks by time: a layer that matters nothing is timed like any other, and what is foreseen is what comes out."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeopt.clock import Clock
from edgeopt.context import Timer
from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.exporting import export_graph
from edgeopt.model import Model, TensorSpec, TorchValue
from edgeopt.reshaping.factorizing import find_layers, propose, ranks_by_cost
from edgeopt.reshaping.rank_search import SHARES, Found, RankSearch


class Idle(nn.Module):
    """One of its two branches says nothing of the answers."""

    def __init__(self) -> None:
        super().__init__()
        self.heard, self.unheard = (nn.Conv2d(8, 64, 3, padding=1) for _ in range(2))
        self.linear = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        answers: Tensor = self.linear((self.heard(x) + 0.0 * self.unheard(x)).mean((2, 3)))
        return answers


def meet(share: float, stopwatch: str, folder: Path) -> Found:
    torch.manual_seed(0)
    network, inputs = Idle().eval(), [torch.randn(1, 8, 8, 8)]
    image = TensorSpec(name="image", shape=("batch", 8, 8, 8))
    output = TensorSpec(name="output", shape=("batch", 5))
    model = Model(value=TorchValue(factory=""), inputs=(image,), outputs=(output,))
    np.savez(folder / "some.npz", image=np.random.default_rng(0).normal(size=(16, 8, 8, 8)).astype(np.float32))
    samples = Samples("npz", folder / "some.npz", ("image",), Preprocess())
    clock = Clock(Timer(f"tests.passes.stopwatch:{stopwatch}", "onnxruntime_cpu", 1, 1), None, folder)
    layers, _ = find_layers(network, inputs, ())
    found = propose(network, layers, ranks_by_cost(SHARES, 1), None)
    export = partial(export_graph, model=model, seed=0)
    search = RankSearch(network, found, inputs, samples, clock, export, lambda text, fraction: None)
    return search.meet(share)


@pytest.mark.parametrize("share", [0.8, 0.5])
def test_a_layer_that_matters_nothing_is_timed_like_any_other(share: float, tmp_path: Path) -> None:
    met = meet(share, "time_by_weights", tmp_path)
    assert "unheard" in [one.layer.name for one in met.chosen]
    assert met.measured <= share
    assert met.predicted == pytest.approx(met.measured, abs=0.02)


@pytest.mark.parametrize("share", [0.9, 0.7])
def test_layers_that_take_longer_together_are_foreseen_so(share: float, tmp_path: Path) -> None:
    met = meet(share, "time_together", tmp_path)
    assert met.measured <= share
    assert met.predicted == pytest.approx(met.measured, abs=0.02)
