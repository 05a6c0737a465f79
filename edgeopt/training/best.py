"""The best weights of a training so far, by what a judge says after each epoch, and when to stop waiting for better."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Best:
    """Of epochs that are equally good, the latest counts: its learning rate was the smallest.

    Args:
        patience: so many epochs without a better one settle the matter; None: nothing does.
    """

    def __init__(self, patience: int | None) -> None:
        self.patience, self.score, self.epoch, self.epochs, self._risen = patience, float("-inf"), 0, 0, 0
        self.weights: dict[str, torch.Tensor] | None = None

    @property
    def settled(self) -> bool:
        return self.patience is not None and self.epochs - self._risen >= self.patience

    def note(self, score: float, network: nn.Module) -> None:
        """Take in how good the network is after one more epoch."""
        self.epochs += 1
        if score > self.score:
            self._risen = self.epochs
        if score >= self.score:
            self.score, self.epoch = score, self.epochs
            self.weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """All of it as plain data and tensors, for a checkpoint."""
        return dict(vars(self))

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        vars(self).update(state)
