"""Uniform pruning by Torch-Pruning itself, as its readme does it: the same share of every layer, by magnitude.

What it removes is written down as edits, so that what comes after, fine-tuning and int8, is the same as for ours.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence

import torch
import torch_pruning
from torch import nn

from edgeopt.edits.keep_channels import is_depthwise
from edgeopt.model import Edit
from edgeopt.pruning.groups import count_channels
from edgeopt.pruning.soundness import Trial

ROUND_TO = 8


def prune_uniformly(
    network: nn.Module, inputs: Sequence[torch.Tensor], ratio: float, ignored: Sequence[str]
) -> tuple[Edit, ...]:
    """What Torch-Pruning removes of a copy of `network` at a ratio, in channel numbers of the network as it is.

    Args:
        ignored: modules whose channels stay: the classifier, and what it cannot prune.
    """
    pruned = copy.deepcopy(network).eval().requires_grad_(True)
    names = {id(module): name for name, module in pruned.named_modules()}
    pruner = torch_pruning.pruner.BasePruner(
        pruned, tuple(inputs), importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio, round_to=ROUND_TO, ignored_layers=[pruned.get_submodule(name) for name in ignored],
    )  # fmt: skip
    gone: dict[tuple[str, str], set[int]] = defaultdict(set)
    for group in pruner.step(interactive=True):
        for entry, channels in group:
            module = entry.target.module
            name = names.get(id(module), "")
            if name and any(True for _ in module.parameters(recurse=False)):
                makes = is_depthwise(module) or pruner.DG.is_out_channel_pruning_fn(entry.handler)
                gone[name, "out" if makes else "in"].update(channels)
    edits = tuple(_edit(network, name, axis, channels) for (name, axis), channels in gone.items())
    fault = Trial(network, inputs).fault(edits)
    if fault:
        raise RuntimeError(f"Torch-Pruning at {ratio}: {fault}")
    return edits


def _edit(network: nn.Module, name: str, axis: str, gone: set[int]) -> Edit:
    kept = sorted(set(range(count_channels(network.get_submodule(name), axis))) - gone)
    return Edit(kind="keep_channels", module=name, arguments={"axis": axis, "channels": kept})
