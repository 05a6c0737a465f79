"""A short training before a loss is judged: what is soon learned anew costs little, and what cannot be cut stays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgeopt.context import Context
from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.pruning.branches import find_branches
from edgeopt.pruning.divergence import Divergence
from edgeopt.pruning.groups import Choice, Group, find_groups
from edgeopt.pruning.removal import mask
from edgeopt.pruning.retraining import open_retraining
from edgeopt.pruning.sensitivity import scan

INPUTS = [torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))]


class Block(nn.Module):
    """Adds what it computes from the means of an image; `tangled`: too wildly to be learned soon."""

    def __init__(self, tangled: bool) -> None:
        super().__init__()
        self.tangled, self.first, self.second = tangled, nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = self.first(x.mean((2, 3), keepdim=True))
        return x + self.second((20 * means).sin() if self.tangled else means.relu())


class Net(nn.Module):
    """Two blocks: what the first adds is the same for all images, what the second adds tells them apart."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 4)
        self.steady, self.telling = Block(tangled=False), Block(tangled=True)
        with torch.no_grad():
            self.steady.second.weight.zero_()
            self.steady.second.bias.copy_(torch.linspace(-2, 2, 16)[torch.randperm(16)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.telling(self.steady(self.stem(x).relu())).mean((2, 3)))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    draw = np.random.default_rng(0)
    images = draw.normal(size=(3200, 3, 8, 8)) + draw.normal(size=(3200, 3, 1, 1))
    np.savez(tmp_path / "images.npz", image=images.astype(np.float32))
    return Samples("npz", tmp_path / "images.npz", ("image",), Preprocess())


@pytest.fixture
def curves(network: nn.Module, samples: Samples) -> Callable[..., dict[str, float]]:
    """What each block loses, by what removes it."""

    def find(remove: Callable[..., nn.Module]) -> dict[str, float]:
        blocks = find_branches(network, INPUTS)
        divergence = Divergence(network, samples, 1, 1)
        found = scan(blocks, [torch.ones(1)] * len(blocks), remove, (0.5,), divergence, lambda _: None)
        return {curve.group: curve.at(1.0) for curve in found}

    return find


def test_what_is_soon_learned_anew_costs_less_than_what_is_not(
    network: nn.Module, samples: Samples, curves: Callable[..., dict[str, float]], tmp_path: Path
) -> None:
    masked = curves(partial(mask, network))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with open_retraining(network, INPUTS, samples, 50, Context(folder=tmp_path)) as retraining:
        trained, again = curves(retraining.without), curves(retraining.without)
    assert masked["steady"] > 2 * masked["telling"]  # what a choice without training would go by
    assert 1.5 * trained["steady"] < trained["telling"] <= masked["telling"]
    assert trained == again  # the same in each process, on a CPU
    assert all(bool((network.state_dict()[name] == value).all()) for name, value in before.items())


def test_what_the_network_itself_moves_by_is_no_loss(network: nn.Module, samples: Samples) -> None:
    """Training moves even a network of which nothing went; every group would pay for that once more."""
    spoiled = Net().eval()  # stands for one that training only spoils
    group = next(group for group in find_groups(network, INPUTS) if not group.obstacle)
    divergence = Divergence(network, samples, 1, 1)
    assert divergence.of(spoiled) > 0
    (curve,) = scan([group], [torch.ones(group.size)], lambda _: spoiled, (0.5,), divergence, lambda _: None)
    assert curve.at(0.5) == 0


def test_what_cannot_be_cut_soundly_is_masked(network: nn.Module, samples: Samples, tmp_path: Path) -> None:
    """A layer taken for the last of a branch that is not: the network is another one without the block."""
    wrong = Group("steady", 1, 1, (), silenced="steady.first")
    with open_retraining(network, INPUTS, samples, 2, Context(folder=tmp_path)) as retraining:
        found = retraining.without([Choice(wrong, ())])
    masked = mask(network, [Choice(wrong, ())])
    assert all(bool((a == b).all()) for a, b in zip(found.parameters(), masked.parameters(), strict=True))


def test_one_that_diverges_is_judged_as_it_was_cut(
    network: nn.Module, samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeopt.pruning.retraining.LEARNING_RATE", 1e30)
    (steady, _) = find_branches(network, INPUTS)
    with open_retraining(network, INPUTS, samples, 4, Context(folder=tmp_path)) as retraining:
        found = retraining.without([Choice(steady, ())])
    with torch.no_grad():
        torch.testing.assert_close(found(*INPUTS), mask(network, [Choice(steady, ())])(*INPUTS))
