"""Which groups can be pruned soundly, found by running the result.

A dependency graph can be wrong: it takes an operation that it does not know for an element-wise one, and does not see
what a network computes with the shapes of its tensors. So nothing is believed: a pruned network must run, give outputs
of the same shape, need fewer operations, and compute what the whole network computes with those channels masked. A
group that fails is left whole.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from edgeopt.edits import apply_edit
from edgeopt.model import Edit, TensorSpec
from edgeopt.network import count_macs, name_outputs
from edgeopt.pruning.groups import Choice, describe
from edgeopt.pruning.removal import make_edits, mask_channels

#: allowed difference of a pruned and a masked network, as a share of the largest output
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Sound:
    """Edits that hold together, how many groups they prune, and why each of the others is left whole, by name."""

    edits: tuple[Edit, ...]
    pruned: int
    left_whole: dict[str, str]


def make_inputs(specs: Sequence[TensorSpec], batch: int, seed: int = 0) -> list[torch.Tensor]:
    """Random inputs in the order of `specs`: normal for floats, zeros and ones for integers."""
    generator = torch.Generator().manual_seed(seed)
    inputs = []
    for spec in specs:
        values, dtype = torch.randn(spec.with_batch(batch), generator=generator), getattr(torch, spec.dtype)
        inputs.append((values if dtype.is_floating_point else values > 0).to(dtype))
    return inputs


def keep_sound(network: nn.Module, choices: Sequence[Choice], inputs: Sequence[torch.Tensor]) -> Sound:
    """The part of `choices` that can be pruned soundly together.

    All are tried at once, which is the usual case; if that fails, one after the other beside those that held.
    """
    accepted = [choice for choice in choices if len(choice.kept) < choice.group.size]
    left_whole = {
        choice.group.name: f"rounding keeps all of its {choice.group.size} channels"
        for choice in choices
        if choice not in accepted
    }
    if find_fault(network, make_edits(network, accepted), inputs):
        candidates, accepted = accepted, []
        for choice in candidates:
            fault = find_fault(network, make_edits(network, [*accepted, choice]), inputs)
            if fault:
                left_whole[choice.group.name] = fault
            else:
                accepted.append(choice)
    return Sound(make_edits(network, accepted), len(accepted), left_whole)


def find_fault(network: nn.Module, edits: Sequence[Edit], inputs: Sequence[torch.Tensor]) -> str:
    """What is wrong with `network` when `edits` are replayed on a copy of it; empty if nothing is."""
    if not edits:
        return ""
    masked, pruned = copy.deepcopy(network), copy.deepcopy(network)
    mask_channels(masked, edits)
    expected = _run(masked, inputs)
    try:
        for edit in edits:
            apply_edit(pruned, edit)
        outputs = _run(pruned, inputs)
    except Exception as error:  # what a wrongly pruned network raises is up to its author; it is told as the reason
        return f"the network does not run without its channels: {describe(error)}"
    if [output.shape for output in outputs] != [output.shape for output in expected]:
        return "the outputs have another shape without its channels"
    if not all(_close(output, wanted) for output, wanted in zip(outputs, expected, strict=True)):
        return "the network computes something else without its channels than with zeros in them"
    return "" if count_macs(pruned, inputs) < count_macs(network, inputs) else "it saves no operations"


@torch.inference_mode()
def _run(network: nn.Module, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return list(name_outputs(network.eval()(*inputs)).values())


def _close(output: torch.Tensor, expected: torch.Tensor) -> bool:
    output, expected = output.double(), expected.double()
    return bool(((output - expected).abs() <= TOLERANCE * expected.abs().max()).all())
