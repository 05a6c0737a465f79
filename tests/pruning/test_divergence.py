"""What answers lose is told with the statistics that normalizations will have, and looking changes nothing."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.pruning.divergence import Divergence


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    images = np.random.default_rng(0).normal(3, 2, (65, 2, 4, 4)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=images)
    return Samples("npz", tmp_path / "x.npz", ("x",), Preprocess())


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))
    return nn.Sequential(*layers).eval()


def test_statistics_that_are_found_again_are_no_loss(network: nn.Module, samples: Samples) -> None:
    stale = copy.deepcopy(network)
    stale[1].running_mean += 1.0
    stale[1].running_var *= 9.0
    assert Divergence(network, samples, 1, 1).of(stale) > 0.01
    assert Divergence(network, samples, 1, 1, renewed=True).of(stale) == pytest.approx(0, abs=1e-9)
    halved = copy.deepcopy(network)
    with torch.no_grad():
        halved[4].weight[:, :16] = 0
    assert Divergence(network, samples, 1, 1, renewed=True).of(halved) > 0.01


def test_looking_leaves_a_network_as_it_is(network: nn.Module, samples: Samples) -> None:
    before = copy.deepcopy(network.state_dict())
    Divergence(network, samples, 1, 1, renewed=True).of(network)
    assert all(torch.equal(values, network.state_dict()[name]) for name, values in before.items())
    assert not any(module.training for module in network.modules())
    assert network[1].track_running_stats
