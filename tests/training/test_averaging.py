"""The average is that of its formula, and lends itself to the network without a trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeopt.training.averaging import AveragedWeights


def make_network(value: float) -> nn.Sequential:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.fill_(value)
    return network


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
def test_the_average_is_that_of_its_formula(decay: float) -> None:
    network, seen = make_network(5.0), [5.0, 1.0, -2.0, 7.0]
    average = AveragedWeights(network, decay)
    wanted = seen[0]
    for step, value in enumerate(seen[1:]):
        network.load_state_dict(make_network(value).state_dict())
        average.update(network)
        kept = min(decay, (1 + step) / (10 + step))
        wanted = kept * wanted + (1 - kept) * value
    floating = [tensor for tensor in average.values.values() if tensor.is_floating_point()]
    assert len(floating) == 6
    for tensor in floating:
        torch.testing.assert_close(tensor, torch.full_like(tensor, wanted))
    assert int(average.values["1.num_batches_tracked"]) == 7


def test_steady_weights_are_their_own_average() -> None:
    network = make_network(3.0)
    average = AveragedWeights(network, 0.9)
    for _ in range(5):
        average.update(network)
    assert all(torch.equal(average.values[name], tensor) for name, tensor in network.state_dict().items())


def test_the_network_has_the_average_meanwhile_and_its_own_weights_again() -> None:
    network = make_network(1.0)
    average = AveragedWeights(network, 0.5)
    network.load_state_dict(make_network(9.0).state_dict())
    with average.swapped_in(network):
        assert all(bool((tensor == 1).all()) for tensor in network.state_dict().values())
    assert all(bool((tensor == 9).all()) for tensor in network.state_dict().values())
    assert all(bool((tensor == 1).all()) for tensor in average.values.values())
