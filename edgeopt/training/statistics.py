"""The statistics of normalizations, found again on samples: a network that was cut still has those of the whole one."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from edgeopt.data import Samples


@torch.no_grad()
def reestimate_normalization(network: nn.Module, samples: Samples, count: int = 1024, batch: int = 64) -> None:
    """Put in place of every running mean and variance the average of those of `count` samples; in place, no labels.

    Each batch counts by its samples, and a single one that is left over not at all. Each spans the whole split, as
    values vary less within one class. Nothing else changes, the mode of no module either. After Wu and Johnson,
    "Rethinking 'Batch' in BatchNorm", 2021.
    """
    modes = {module: module.training for module in network.modules()}
    followed = {module: module.momentum for module in modes if isinstance(module, _NormBase) and _follows(module)}
    if not followed:
        return
    network.eval()
    seen = 0
    try:
        for module in followed:
            module.reset_running_stats()
            module.train()
        for part in samples.spread(count).mixed_batches(batch):
            size = len(part.indices)
            if seen and size == 1:
                continue
            seen += size
            for module in followed:
                module.momentum = size / seen
            network(*(torch.from_numpy(part.inputs[name]) for name in samples.inputs))
    finally:
        for module, momentum in followed.items():
            module.momentum = momentum
        for each, mode in modes.items():
            each.training = mode


def normalizes(network: nn.Module) -> bool:
    """Whether some module of the network keeps running statistics."""
    return any(_follows(module) for module in network.modules())


def _follows(module: nn.Module) -> bool:
    return isinstance(module, _NormBase) and module.running_mean is not None
