"""How many samples a network names rightly: what a pass that trains tells of itself, not what is judged."""

from __future__ import annotations

import torch
from torch import nn

from edgeopt.data import Samples
from edgeopt.training.losses import logits_of

BATCH = 64


@torch.inference_mode()
def measure_top1(network: nn.Module, samples: Samples) -> float | None:
    """The share of `samples` whose largest logit is that of their label; None where they have no labels."""
    labels = samples.labels()
    if labels is None:
        return None
    network.eval()
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    right = 0
    for part in samples.batches(BATCH):
        logits = logits_of(network, [torch.from_numpy(part.inputs[name]).to(device) for name in samples.inputs])
        right += int((logits.argmax(1).cpu().numpy() == part.labels).sum())
    return right / len(labels)
