"""Moments are those of the values that a layer is given or makes, however they come in."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgeopt.reshaping.moments import Sums, columns, gather, responses


def test_they_do_not_depend_on_how_samples_are_batched() -> None:
    layer, image = nn.Conv2d(3, 5, 3), torch.rand(12, 3, 8, 8)
    key = ("layer", responses)
    whole = gather(layer, {key: layer}, [[image]])[key]
    parts = gather(layer, {key: layer}, [[part] for part in image.split(5)])[key]
    torch.testing.assert_close(parts.mean, whole.mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts.covariance, whole.covariance, rtol=1e-4, atol=1e-6)


def test_small_variance_far_from_zero_is_seen() -> None:
    rows, sums = 1000 + 0.1 * torch.randn(20_000, 3), Sums()
    for part in rows.split(500):
        sums.add(part)
    torch.testing.assert_close(
        sums.moments().covariance, torch.cov(rows.double().T, correction=0), rtol=0.01, atol=1e-4
    )


@pytest.mark.parametrize("bias", [True, False])
def test_responses_are_what_the_weights_make(bias: bool) -> None:
    layer, image = nn.Conv2d(3, 5, 3, bias=bias), torch.rand(6, 3, 8, 8)
    key = ("layer", responses)
    found = gather(layer, {key: layer}, [[image]])[key]
    rows = functional.conv2d(image, layer.weight.detach()).transpose(1, -1).flatten(0, -2)
    torch.testing.assert_close(found.mean.float(), rows.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.covariance.float(), torch.cov(rows.T, correction=0), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_columns_are_what_a_kernel_of_one_column_reads(mode: str) -> None:
    layer = nn.Conv2d(3, 5, (3, 1), (2, 1), (2, 0), (2, 1), bias=False, padding_mode=mode)
    image = torch.rand(2, 3, 12, 7)
    with torch.no_grad():
        made = layer(image)
        rows = columns(layer, image, made)
        expected = made.permute(0, 2, 3, 1).flatten(0, 2)
        torch.testing.assert_close(rows @ layer.weight.flatten(1).T, expected, rtol=1e-4, atol=1e-5)
