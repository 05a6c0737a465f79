"""The average of a network's weights over the steps of its training, which errs less than where it happens to end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


class AveragedWeights:
    """Exponential averages of all floating tensors of a network, normalizations' statistics among them.

    After Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992, with a decay that is
    smaller in the first steps, `(1 + step) / (10 + step)`: a short training would else end close to where it began.
    Tensors of integers are those of the last step.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.values = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the weights of one more step."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                self.values[name].lerp_(tensor, 1 - decay)
            else:
                self.values[name].copy_(tensor)

    @contextlib.contextmanager
    def swapped_in(self, network: nn.Module) -> Iterator[None]:
        """Meanwhile, the network has the averages as its weights."""
        own = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        network.load_state_dict(self.values)
        try:
            yield
        finally:
            network.load_state_dict(own)
