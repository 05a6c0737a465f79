"""What `hold_zeros` marks stays zero in training, and nothing else does."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from edgeopt.context import Checkpoints
from edgeopt.edits import apply_edit
from edgeopt.edits.hold_zeros import HeldZeros
from edgeopt.errors import SourceError
from edgeopt.model import Edit
from edgeopt.training.loop import Training
from edgeopt.training.losses import label_loss
from edgeopt.workers import ignore_progress
from tests.training.test_loop import SCHEDULE, make_samples


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        for layer in (network[0], network[2]):
            layer.weight[:, ::2] = 0
    return network


def hold(network: nn.Module, module: str) -> None:
    apply_edit(network, Edit(kind="hold_zeros", module=module, arguments={}))


def test_zeros_of_a_marked_module_stay_and_others_are_trained() -> None:
    network = make_network()
    hold(network, "0")
    before = copy.deepcopy(network)
    Training(network, make_samples(32), label_loss, SCHEDULE).run(Checkpoints(), ignore_progress)
    assert torch.equal(network[0].weight == 0, before[0].weight == 0)
    assert not torch.equal(network[0].weight, before[0].weight)
    assert (network[2].weight == 0).sum() < (before[2].weight == 0).sum()


def test_a_weight_that_two_modules_share_is_held_where_one_is_marked() -> None:
    network = make_network()
    network.append(nn.Linear(4, 8))
    network[3].weight = network[0].weight
    hold(network, "3")
    held = HeldZeros(network)
    nn.init.ones_(network[0].weight)
    held.restore()
    assert torch.equal(network[0].weight[0], torch.tensor([0.0, 1.0, 0.0, 1.0]))


def test_a_copy_of_a_network_holds_its_own_zeros() -> None:
    network = make_network()
    hold(network, "0")
    copied = copy.deepcopy(network)
    held = HeldZeros(copied)
    nn.init.ones_(copied[0].weight)
    held.restore()
    assert (copied[0].weight[:, ::2] == 0).all()
    assert (network[0].weight[:, 1::2] != 0).all()


def test_a_module_without_weights_is_refused() -> None:
    with pytest.raises(SourceError, match="cannot hold zeros of `1`, a ReLU"):
        hold(make_network(), "1")
