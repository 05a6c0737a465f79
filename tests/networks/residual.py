"""A small residual network with what passes meet in practice: strided shortcuts, residual sums, normalization.

Its normalization has statistics like a trained one's. That matters: with the fresh ones (mean 0, variance 1) exporters
find equal tensors everywhere and share them, and the graph is not one that anybody would ship.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


class ResidualNet(nn.Module):
    """Images (N, channels, 16, 16) to logits (N, classes)."""

    def __init__(self, width: int, channels: int, classes: int) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.stem = nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(Block(width, width, 1), Block(width, 2 * width, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Linear(2 * width, classes)

    def forward(self, image: Tensor) -> Tensor:
        x = self.pool(self.blocks(self.stem(image))).flatten(1)
        logits: Tensor = self.classifier(self.dropout(x))
        return logits


def make_residual(width: int = 8, channels: int = 1, classes: int = 4, seed: int = 0) -> nn.Module:
    """The network with weights and statistics from `seed`, in training mode as factories return it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ResidualNet(width, channels, classes)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                _settle(module)
    return network


def _settle(norm: nn.BatchNorm2d) -> None:
    nn.init.uniform_(norm.running_mean, -0.1, 0.1)
    nn.init.uniform_(norm.running_var, 0.5, 1.5)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.uniform_(norm.bias, -0.2, 0.2)
