"""Layers are found to be linear together by how they are connected, and an edit that finds none is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeopt.edits import apply_edit
from edgeopt.edits.fold import find_folds, trace
from edgeopt.errors import SourceError
from edgeopt.model import Edit


class Sums(nn.Module):
    """Sums of two convolutions of the same input, with other things in the way."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.one, self.two = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        one, two = self.one(x), self.two(x)
        if self.kind == "read twice":
            return one + two, one
        if self.kind == "weighed":
            return torch.add(one, two, alpha=2)
        if self.kind == "called twice":
            return one + two + self.one(two)
        if self.kind == "method":
            return one.add(two)
        if self.kind == "in place":
            one += two
            return one
        return one.relu() + two if self.kind == "activated" else one + two


@pytest.mark.parametrize(
    ("kind", "found"),
    [("plain", [["one", "two"]]), ("method", [["one", "two"]]), ("in place", [["one", "two"]]),
     ("read twice", []), ("weighed", []), ("called twice", []), ("activated", [])],
)  # fmt: skip
def test_only_what_nothing_else_reads_is_found(kind: str, found: list[list[str]]) -> None:
    assert [fold.modules for fold in find_folds(trace(Sums(kind)))] == found


def edit(**changes: Any) -> Edit:
    conv = {"in_channels": 4, "out_channels": 4, "kernel_size": [3, 3], "padding": [1, 1]}
    given = {"modules": ["one", "two"], "leaves": [], "conv": conv, "name": "one"} | changes
    return Edit(kind="fold", module="0", arguments=given)


def test_a_folded_module_is_one_wherever_it_stands_and_can_be_copied() -> None:
    shared = Sums("in place")
    network = nn.Sequential(shared, nn.ReLU(), shared)
    apply_edit(network, edit())
    assert network[0] is network[2] is shared
    assert [name for name, _ in shared.named_children()] == ["one"]
    image = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(copy.deepcopy(network)(image), network(image))
    torch.testing.assert_close(shared(image), shared.one(image))


@pytest.mark.parametrize("training", [True, False])
def test_a_folded_module_keeps_its_mode(training: bool) -> None:
    network = nn.Sequential(Sums("plain")).train(training)
    apply_edit(network, edit())
    assert all(module.training == training for module in network.modules())


def test_an_edit_that_finds_no_such_layers_is_refused() -> None:
    with pytest.raises(SourceError, match="no layers to fold together as one, two"):
        apply_edit(nn.Sequential(Sums("activated")), edit())


def test_code_that_cannot_be_traced_any_more_is_refused() -> None:
    class Deciding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(SourceError, match="`0` cannot be traced"):
        apply_edit(nn.Sequential(Deciding()), edit())
