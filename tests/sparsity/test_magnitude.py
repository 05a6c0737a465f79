"""Which weights go: the least important ones, and just as many as were asked for."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from edgeopt.errors import PassError
from edgeopt.sparsity.magnitude import adapt_to_layer, keep_largest
from edgeopt.sparsity.weights import find_layers, set_zeros, share_of_zeros


def make_scores() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"small": torch.rand(5, 4, generator=generator), "large": 10 * torch.rand(7, 3, 3, generator=generator)}


@pytest.mark.parametrize("sparsity", [0.01, 0.25, 0.7, 0.99])
def test_each_layer_loses_its_share_of_its_lowest(sparsity: float) -> None:
    scores = make_scores()
    for name, mask in keep_largest(scores, sparsity, together=False).items():
        assert int((~mask).sum()) == round(sparsity * mask.numel())
        assert not (~mask).any() or not mask.any() or scores[name][~mask].max() <= scores[name][mask].min()


def test_ranked_together_the_lowest_of_all_go() -> None:
    masks = keep_largest(make_scores(), 20 / 83, together=True)
    assert sum(int((~mask).sum()) for mask in masks.values()) == 20
    assert (~masks["small"]).float().mean() >= 0.8


def test_equal_weights_are_told_apart_by_where_they_stand() -> None:
    mask = keep_largest({"x": torch.ones(2, 4)}, 0.5, together=False)["x"]
    assert mask.tolist() == [[False] * 4, [True] * 4]


def test_the_scale_of_a_layer_means_nothing_once_its_weights_are_adapted() -> None:
    squares = torch.rand(6, 6, generator=torch.Generator().manual_seed(1)) ** 2
    torch.testing.assert_close(adapt_to_layer(squares), adapt_to_layer(1e-6 * squares))
    flat = squares.flatten().sort(descending=True).values
    shares = adapt_to_layer(squares).flatten().sort(descending=True).values
    assert shares[0] == 1
    torch.testing.assert_close(shares[5], (flat[5] / flat[:6].sum()).double())


def test_a_layer_of_zeros_has_no_share() -> None:
    assert adapt_to_layer(torch.zeros(3, 3)).tolist() == [[0.0] * 3] * 3


def test_weights_of_shared_and_ignored_layers_are_not_found_twice_or_at_all() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    network[1][0].weight = network[0].weight
    assert list(find_layers(network)) == ["0", "2"]
    assert list(find_layers(network, ["0"])) == list(find_layers(network, ["1.0"])) == ["2"]
    assert list(find_layers(network, ["2"])) == ["0"]
    with pytest.raises(PassError, match="no module `9` to ignore"):
        find_layers(network, ["9"])


def test_a_weight_that_is_computed_is_refused_until_it_is_ignored() -> None:
    network = nn.Sequential(nn.Linear(4, 4), parametrizations.weight_norm(nn.Linear(4, 4)))
    with pytest.raises(PassError, match="`1` computes its weight from other tensors") as caught:
        find_layers(network)
    assert "ignore" in caught.value.hint
    assert list(find_layers(network, ["1"])) == ["0"]


def test_zeros_are_set_where_the_mask_is_false_and_each_layer_gets_an_edit() -> None:
    network = nn.Sequential(nn.Linear(4, 2))
    mask = torch.tensor([[True, False, True, False]] * 2)
    (edit,) = set_zeros(network, {"0": mask})
    assert torch.equal(network[0].weight != 0, mask)
    assert (edit.kind, edit.module, edit.arguments) == ("hold_zeros", "0", {})
    assert share_of_zeros([network[0]]) == 0.5
