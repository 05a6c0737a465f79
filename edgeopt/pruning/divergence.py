"""How far the answers of networks are from those of one network: what a change costs, without labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from edgeopt.data import Samples
from edgeopt.network import name_outputs

#: samples of one look, fewer where a network is so large that all looks would take more operations than these
MOST_SAMPLES, LEAST_SAMPLES, MOST_MACS = 512, 64, 4e11

BATCH = 64


class Divergence:
    """Looks at networks that take and give what `network` does, on samples spread evenly over a split.

    Args:
        network: whose answers the others are held against.
        macs: of one sample.
        looks: how many networks are going to be looked at.
    """

    def __init__(self, network: nn.Module, samples: Samples, macs: int, looks: int) -> None:
        affordable = int(MOST_MACS / max(1, macs * looks))
        count = min(len(samples), max(LEAST_SAMPLES, min(MOST_SAMPLES, affordable)))
        self._batches = [
            [torch.from_numpy(batch.inputs[name]) for name in samples.inputs]
            for batch in samples.spread(count).batches(BATCH)
        ]
        self._expected = [_answers(network, batch) for batch in self._batches]

    def of(self, network: nn.Module) -> float:
        """Mean over samples of the Kullback-Leibler divergence of its answers, in nats."""
        total, count = 0.0, 0
        for batch, expected in zip(self._batches, self._expected, strict=True):
            found = _answers(network, batch)
            total += float(functional.kl_div(found, expected, reduction="sum", log_target=True))
            count += len(expected)
        return total / max(1, count)


@torch.inference_mode()
def _answers(network: nn.Module, batch: Sequence[torch.Tensor]) -> torch.Tensor:
    logits = next(iter(name_outputs(network(*batch)).values()))
    return functional.log_softmax(logits.flatten(1).double(), dim=1)
