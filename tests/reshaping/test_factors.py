"""Two layers compute what one did where their rank is full, and what they lose at a lower one is what they say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeopt.edits import apply_edit
from edgeopt.edits.factor import make_factors
from edgeopt.errors import PassError, SourceError
from edgeopt.model import Edit
from edgeopt.reshaping.factors import NEEDS, Factoring
from edgeopt.reshaping.moments import Moments, gather

pair = lambda low, high: st.tuples(st.integers(low, high), st.integers(low, high))  # noqa: E731
geometries = st.fixed_dictionaries(
    {
        "kernel_size": pair(1, 5), "stride": pair(1, 3), "dilation": pair(1, 2), "bias": st.booleans(),
        "padding": pair(0, 3), "padding_mode": st.sampled_from(["zeros", "reflect", "circular"]),
    }
)  # fmt: skip


def make_conv(inputs: int, outputs: int, **options: Any) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(inputs, outputs, **options).eval()


def learn(layer: nn.Module, scheme: str, given: Tensor) -> Moments:
    (moments,) = gather(layer, {("layer", NEEDS[scheme]): layer}, [[given]]).values()
    return moments


@given(geometries, st.integers(1, 9), st.integers(1, 9), st.sampled_from(["channel", "spatial"]), st.booleans())
@settings(max_examples=40)
def test_at_full_rank_two_convolutions_are_the_one(
    geometry: dict[str, Any], inputs: int, outputs: int, scheme: str, weighed: bool
) -> None:
    conv, image = make_conv(inputs, outputs, **geometry), torch.randn(2, inputs, 13, 14)
    assume(make_factors(conv, scheme, 1, bias=True) is not None)
    factoring = Factoring(conv, scheme, learn(conv, scheme, image) if weighed else None)
    with torch.no_grad():
        torch.testing.assert_close(factoring.make(factoring.full_rank)(image), conv(image), rtol=1e-4, atol=1e-4)


@given(st.integers(1, 20), st.integers(1, 20), st.booleans(), st.booleans(), st.booleans())
@settings(max_examples=30)
def test_at_full_rank_two_linear_layers_are_the_one(
    inputs: int, outputs: int, bias: bool, sequence: bool, weighed: bool
) -> None:
    torch.manual_seed(0)
    layer, rows = nn.Linear(inputs, outputs, bias), torch.randn(*((6, 5) if sequence else (30,)), inputs)
    factoring = Factoring(layer, "linear", learn(layer, "linear", rows) if weighed else None)
    with torch.no_grad():
        torch.testing.assert_close(factoring.make(factoring.full_rank)(rows), layer(rows), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("scheme", ["channel", "spatial"])
def test_padding_may_be_named(padding: str, scheme: str) -> None:
    conv, image = make_conv(6, 8, kernel_size=(3, 4), padding=padding), torch.randn(2, 6, 9, 9)
    factoring = Factoring(conv, scheme, learn(conv, scheme, image))
    with torch.no_grad():
        torch.testing.assert_close(factoring.make(factoring.full_rank)(image), conv(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", [False, True])
def test_what_is_kept_of_responses_is_what_is_said(bias: bool) -> None:
    conv, image = make_conv(12, 16, kernel_size=3, bias=bias), torch.rand(16, 12, 8, 8)
    factoring = Factoring(conv, "channel", learn(conv, "channel", image))
    with torch.no_grad():
        expected, found = conv(image), factoring.make(6)(image)
    variance = (expected - expected.mean((0, 2, 3), keepdim=True)).square().sum()
    assert float((found - expected).square().sum() / variance) == pytest.approx(1 - factoring.energy(6), rel=1e-3)


def test_by_weights_what_is_kept_is_what_singular_values_say() -> None:
    conv = make_conv(12, 16, kernel_size=3)
    values = torch.linalg.svdvals(conv.weight.detach().flatten(1).double()).square()
    factoring = Factoring(conv, "channel")
    for rank in (1, 5, 16):
        assert factoring.energy(rank) == pytest.approx(float(values[:rank].sum() / values.sum()), rel=1e-6)
    first, second = factoring.make(5)
    made = (second.weight.flatten(1) @ first.weight.flatten(1)).view_as(conv.weight)
    lost = float(((made - conv.weight).square().sum() / conv.weight.square().sum()).detach())
    assert lost == pytest.approx(1 - factoring.energy(5), rel=1e-3)


@pytest.mark.parametrize("scheme", ["channel", "spatial"])
def test_samples_tell_what_can_go(scheme: str) -> None:
    """Half of the inputs say the same as the others: weights alone cannot know that."""
    half = torch.rand(16, 8, 10, 10)
    conv, image = make_conv(16, 24, kernel_size=3), torch.cat([half, half], 1)
    blind, seeing = Factoring(conv, scheme), Factoring(conv, scheme, learn(conv, scheme, image))
    with torch.no_grad():
        lost = [(one.make(8)(image) - conv(image)).square().mean() for one in (blind, seeing)]
    assert lost[1] < 0.5 * lost[0]


def test_the_least_rank_that_keeps_enough_is_rounded_up() -> None:
    factoring = Factoring(make_conv(12, 16, kernel_size=3), "channel")
    rank = factoring.rank_for(0.8)
    assert factoring.energy(rank - 1) < 0.8 <= factoring.energy(rank)
    assert factoring.rank_for(0.8, 8) == -(-rank // 8) * 8
    assert factoring.rank_for(1.0, 7) == factoring.full_rank == 16


def test_a_layer_of_zeros_needs_one_channel() -> None:
    conv = make_conv(4, 8, kernel_size=3)
    nn.init.zeros_(conv.weight)
    factoring = Factoring(conv, "channel")
    assert factoring.rank_for(0.9) == 1
    image = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(factoring.make(1)(image), conv(image))


@pytest.mark.parametrize(
    ("layer", "scheme"),
    [(nn.Conv2d(4, 4, 3, groups=2), "channel"), (nn.Conv2d(4, 4, 1), "spatial"), (nn.Conv1d(4, 4, 3), "channel"),
     (nn.Conv2d(4, 4, 3), "linear"), (nn.Linear(4, 4), "channel"), (nn.ConvTranspose2d(4, 4, 3), "spatial")],
)  # fmt: skip
def test_what_does_not_fit_is_refused(layer: nn.Module, scheme: str) -> None:
    with pytest.raises(PassError, match=f"no factors by `{scheme}`"):
        Factoring(layer, scheme)


@pytest.mark.parametrize(
    "arguments",
    [{"child": "9"}, {"scheme": "nothing"}, {"rank": 0}, {"child": "1"}, {"scheme": "linear"}],
)
def test_an_edit_that_does_not_fit_is_refused(arguments: dict[str, Any]) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    given = {"child": "0", "scheme": "channel", "rank": 2, "bias": True} | arguments
    with pytest.raises(SourceError, match="cannot factor"):
        apply_edit(network, Edit(kind="factor", module="", arguments=given))
