"""`keep_channels` on one layer: what stays computes what it did, and the layer says so."""

from __future__ import annotations

import copy
import pkgutil
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgeopt import edits
from edgeopt.edits import EDITS, apply_edit
from edgeopt.edits.keep_channels import view_channels
from edgeopt.errors import SourceError
from edgeopt.model import Edit


def keep(layer: nn.Module, axis: str, channels: list[int]) -> nn.Module:
    """A copy of the layer with these channels."""
    network = nn.Sequential(copy.deepcopy(layer))
    apply_edit(network, Edit(kind="keep_channels", module="0", arguments={"axis": axis, "channels": channels}))
    return network[0]


@st.composite
def grouped_layers(draw: st.DrawFn) -> tuple[nn.Module, str, list[int], int]:
    """A convolution of any kind, an axis, and as many channels to keep from each of its groups."""
    groups, per_in, per_out = draw(st.integers(1, 3)), draw(st.integers(2, 4)), draw(st.integers(2, 4))
    kind: Any = draw(st.sampled_from([nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d]))
    layer = kind(groups * per_in, groups * per_out, 3, padding=1, groups=groups, bias=draw(st.booleans()))
    axis = draw(st.sampled_from(["in", "out"]))
    width = per_in if axis == "in" else per_out
    count = draw(st.integers(1, width))
    kept = [
        group * width + place
        for group in range(groups)
        for place in sorted(draw(st.permutations(range(width)))[:count])
    ]
    return layer, axis, kept, groups * width


@given(grouped_layers())
def test_a_convolution_of_any_kind_computes_what_it_did(case: tuple[nn.Module, str, list[int], int]) -> None:
    layer, axis, kept, width = case
    sliced = keep(layer, axis, kept)
    shape = (2, layer.in_channels) + (5,) * (layer.weight.dim() - 2)
    x = torch.randn(shape)
    if axis == "out":
        expected, found = layer(x)[:, kept], sliced(x)
    else:
        x[:, [channel for channel in range(width) if channel not in kept]] = 0
        expected, found = layer(x), sliced(x[:, kept])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (sliced.in_channels if axis == "in" else sliced.out_channels) == len(kept)


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_depthwise_convolution_loses_channels_on_both_sides(kind: Any) -> None:
    layer = kind(6, 6, 3, groups=6)
    sliced = keep(layer, "out", [0, 3, 4])
    x = torch.randn(2, 6, 5, 5)
    torch.testing.assert_close(sliced(x[:, [0, 3, 4]]), layer(x)[:, [0, 3, 4]])
    assert (sliced.groups, sliced.in_channels, sliced.out_channels) == (3, 3, 3)


def test_a_linear_layer_can_lose_features_on_either_side() -> None:
    layer, x = nn.Linear(4, 3), torch.randn(2, 4)
    torch.testing.assert_close(keep(layer, "out", [2])(x), layer(x)[:, [2]])
    x[:, 0] = 0
    torch.testing.assert_close(keep(layer, "in", [1, 2, 3])(x[:, 1:]), layer(x))
    assert keep(layer, "in", [1, 2, 3]).in_features == 3


@pytest.mark.parametrize("affine", [True, False])
def test_a_normalization_keeps_the_statistics_of_what_stays(affine: bool) -> None:
    layer = nn.BatchNorm2d(4, affine=affine)
    layer(torch.randn(8, 4, 3, 3) * 3 + 1)
    layer.eval()
    sliced, x = keep(layer, "out", [1, 3]), torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(sliced(x[:, [1, 3]]), layer(x)[:, [1, 3]])
    assert sliced.num_features == 2
    assert sliced.num_batches_tracked == 1


@pytest.mark.parametrize(
    "layer", [nn.PReLU(4), nn.InstanceNorm2d(4, affine=True), nn.InstanceNorm2d(4, track_running_stats=True)],
    ids=["slopes", "affine", "statistics"],
)  # fmt: skip
def test_slopes_and_normalizations_of_single_channels_keep_what_stays(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.1, 0.9)
    layer(torch.randn(8, 4, 3, 3) * 3 + 1)
    layer.eval()
    sliced, x = keep(layer, "out", [1, 3]), torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(sliced(x[:, [1, 3]]), layer(x)[:, [1, 3]])
    assert 2 in (getattr(sliced, "num_features", 0), getattr(sliced, "num_parameters", 0))


def test_what_was_frozen_stays_frozen() -> None:
    network = nn.Sequential(nn.Linear(4, 3).requires_grad_(False))
    apply_edit(network, Edit(kind="keep_channels", module="0", arguments={"axis": "out", "channels": [0]}))
    assert not network[0].weight.requires_grad


@pytest.mark.parametrize(
    ("layer", "axis", "channels", "message"),
    [
        (nn.Linear(4, 3), "out", [], "has channels 0 to 2"),
        (nn.Linear(4, 3), "out", [3], "has channels 0 to 2"),
        (nn.Linear(4, 3), "in", [-1, 0], "has channels 0 to 3"),
        (nn.Linear(4, 3), "in", [1, 0], "has channels 0 to 3"),
        (nn.Linear(4, 3), "in", [1, 1], "has channels 0 to 3"),
        (nn.Conv2d(4, 4, 1, groups=2), "out", [0, 1], "unequal numbers of channels in its 2 groups"),
        (nn.Conv2d(4, 4, 1, groups=2), "in", [0, 1, 2], "unequal numbers of channels in its 2 groups"),
        (nn.BatchNorm2d(4), "in", [0], "`in` channels of `0`, a BatchNorm2d"),
        (nn.ReLU(), "out", [0], "a ReLU"),
        (nn.GroupNorm(2, 4), "out", [0], "a GroupNorm"),
    ],
)
def test_edits_that_do_not_fit_are_refused(layer: nn.Module, axis: str, channels: list[int], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        keep(layer, axis, channels)


def test_a_view_of_channels_writes_through() -> None:
    layer = nn.Conv2d(4, 6, 1, groups=2)
    view = view_channels(layer, "in", layer.weight.data)
    assert view is not None
    view[1, 0] = 7  # channel 2
    assert (layer.weight[3:, 0] == 7).all()
    assert (layer.weight[:3] != 7).all()
    assert (layer.weight[3:, 1] != 7).all()


def test_every_file_of_edits_is_a_kind_that_replays() -> None:
    assert set(EDITS) == {module.name for module in pkgutil.iter_modules(edits.__path__)}


@pytest.mark.parametrize(
    ("kind", "module", "told"), [("melt", "0", "an edit `melt`"), ("keep_channels", "9", "no module `9`")]
)
def test_an_edit_that_means_nothing_here_is_refused(kind: str, module: str, told: str) -> None:
    with pytest.raises(SourceError, match=told):
        apply_edit(nn.Sequential(nn.Linear(2, 2)), Edit(kind=kind, module=module, arguments={}))
