"""How far the answers of networks are from those of one network: what a change costs, without labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

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
        renewed: normalizations go by what they see of each batch, as they will when what follows has found their
            statistics again: what those of the network before say of another one is loss that nobody will have. After
            Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", ECCV 2020.
    """

    def __init__(self, network: nn.Module, samples: Samples, macs: int, looks: int, *, renewed: bool = False) -> None:
        affordable = int(MOST_MACS / max(1, macs * looks))
        count = min(len(samples), max(LEAST_SAMPLES, min(MOST_SAMPLES, affordable)))
        self._batches = [
            [torch.from_numpy(batch.inputs[name]) for name in samples.inputs]
            for batch in samples.spread(count).mixed_batches(BATCH)
        ]
        self._renewed = renewed
        self._expected = [self._answers(network, batch) for batch in self._batches]

    def of(self, network: nn.Module) -> float:
        """Mean over samples of the Kullback-Leibler divergence of its answers, in nats."""
        total, count = 0.0, 0
        for batch, expected in zip(self._batches, self._expected, strict=True):
            found = self._answers(network, batch)
            total += float(functional.kl_div(found, expected, reduction="sum", log_target=True))
            count += len(expected)
        return total / max(1, count)

    @torch.inference_mode()
    def _answers(self, network: nn.Module, batch: Sequence[torch.Tensor]) -> torch.Tensor:
        renewed = self._renewed and len(batch[0]) > 1  # a single sample may have no variance
        with _renewing(network) if renewed else nullcontext():
            logits = next(iter(name_outputs(network(*batch)).values()))
        return functional.log_softmax(logits.flatten(1).double(), dim=1)


@contextmanager
def _renewing(network: nn.Module) -> Iterator[None]:
    """Let the normalizations of a network go by the batch at hand; what they keep is not touched."""
    batched = (each for each in network.modules() if isinstance(each, _BatchNorm) and each.track_running_stats)
    modes = {each: each.training for each in batched}
    for each in modes:
        each.training, each.track_running_stats = True, False
    try:
        yield
    finally:
        for each, training in modes.items():
            each.training, each.track_running_stats = training, True
