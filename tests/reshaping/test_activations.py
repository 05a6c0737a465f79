"""Activations are found whether they are modules or calls, and those that make outputs are left."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeopt.edits import apply_edit
from edgeopt.errors import SourceError
from edgeopt.model import Edit
from edgeopt.reshaping.activations import FUNCTIONS, Replacing, find_replacements


class Mixed(nn.Module):
    """One activation at two places, a gate, calls, and a Sigmoid at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.smooth = nn.SiLU()
        self.again = self.smooth
        self.gate = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid())
        self.last = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.again(self.smooth(x)) * self.gate(x)
        return {"chance": self.last(functional.gelu(x)), "other": x * x.sigmoid()}


def find(network: nn.Module, which: Sequence[str] = tuple(FUNCTIONS), to: str = "ReLU") -> Replacing:
    return find_replacements(network, [torch.randn(2, 4)], which, to)


def test_modules_are_replaced_and_gates_keep_their_bounds() -> None:
    network = Mixed()
    found = find(network)
    assert found.counts == {"SiLU → ReLU": 2, "Sigmoid → Hardsigmoid": 1}
    for edit in found.edits:
        apply_edit(network, edit)
    kinds = [type(module) for module in (network.smooth, network.again, network.gate[1], network.last[1])]
    assert kinds == [nn.ReLU, nn.ReLU, nn.Hardsigmoid, nn.Sigmoid]


def test_what_is_left_is_named_with_the_reason() -> None:
    left = find(Mixed()).left
    assert "gelu in `the network`: called as a function" in left
    assert "sigmoid in `the network`: called as a function" in left
    assert "Sigmoid `last.1`: it makes an output" in left
    assert len(left) == 3


@pytest.mark.parametrize("last", [[nn.SiLU(inplace=True)], [nn.Sigmoid(), nn.Flatten(0)]])
def test_an_output_is_one_whether_it_is_made_in_place_or_seen_otherwise(last: list[nn.Module]) -> None:
    found = find(nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 4), *last))
    assert found.counts == {"SiLU → ReLU": 1}
    assert found.left == (f"{type(last[0]).__name__} `3`: it makes an output",)


def test_an_activation_that_somebody_wrote_is_named_by_what_it_calls() -> None:
    class SiLU(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.sigmoid(x)

    assert find(nn.Sequential(SiLU(), nn.Linear(4, 4))).left == ("sigmoid in `0`: called as a function",)


def test_only_the_kinds_that_are_named_are_replaced() -> None:
    found = find(Mixed(), ["SiLU"])
    assert found.counts == {"SiLU → ReLU": 2}
    assert found.left == ()


def test_nothing_is_replaced_by_itself() -> None:
    network = nn.Sequential(nn.Hardswish(), nn.Linear(4, 4))
    assert find(network, to="Hardswish").edits == ()
    assert find(network, to="ReLU6").counts == {"Hardswish → ReLU6": 1}


@pytest.mark.parametrize("kind", list(FUNCTIONS))
def test_every_kind_is_known_to_torch_as_a_module_and_as_a_function(kind: str) -> None:
    network = nn.Sequential(getattr(nn, kind)(), nn.Linear(4, 4))
    assert len(find(network).edits) == 1
    assert find(network).left == ()

    class Calling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = getattr(functional, FUNCTIONS[kind])(x)
            return made

    assert find(nn.Sequential(Calling(), nn.Linear(4, 4))).left == (f"{FUNCTIONS[kind]} in `0`: called as a function",)


def test_an_edit_replaces_nothing_that_has_tensors_and_puts_nothing_unknown() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.SiLU())
    with pytest.raises(SourceError, match="no activation `0`"):
        apply_edit(network, Edit(kind="replace_module", module="", arguments={"child": "0", "kind": "ReLU"}))
    with pytest.raises(SourceError, match="no activation `7`"):
        apply_edit(network, Edit(kind="replace_module", module="", arguments={"child": "7", "kind": "ReLU"}))
    with pytest.raises(SourceError, match="cannot put `Softmax`") as caught:
        apply_edit(network, Edit(kind="replace_module", module="", arguments={"child": "1", "kind": "Softmax"}))
    assert "ReLU6" in caught.value.hint
