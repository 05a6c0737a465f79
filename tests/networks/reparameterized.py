"""Networks that are trained with layers which are linear together; some of them are not quite, on purpose.

All take images (N, 3, 16, 16) and give logits (N, 5).
"""

from __future__ import annotations

import torch
from architectures import _head, _settle
from torch import Tensor, nn
from torch.nn import functional


def _normalized(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Branches(nn.Module):
    """A 3×3 and a 1×1 convolution and, where shapes allow, the input itself, all normalized, summed (as RepVGG)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.dense = _normalized(inputs, outputs, 3, stride, groups)
        self.point = _normalized(inputs, outputs, 1, stride, groups)
        self.itself = nn.BatchNorm2d(inputs) if inputs == outputs and stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.dense(x) + self.point(x)
        if self.itself is not None:
            y += self.itself(x)
        return functional.relu(y)


def make_branches() -> nn.Module:
    """Five blocks: wider, as wide, with strides, in groups, depthwise."""
    blocks = [Branches(3, 16), Branches(16, 16), Branches(16, 24, 2), Branches(24, 24, 1, 4), Branches(24, 24, 1, 24)]
    return _settle(nn.Sequential(*blocks, *_head(24)))


class Shortcuts(nn.Module):
    """Two convolutions of one source, that source itself, and something else, in one sum, with the code at the top."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.square = nn.Conv2d(16, 16, 3, padding=1)
        self.wide = nn.Conv2d(16, 16, (1, 3), padding="same", bias=False)
        self.dilated = nn.Conv2d(16, 16, 3, padding=2, dilation=2)
        self.other = nn.Conv2d(16, 16, 1)
        self.head = nn.Sequential(*_head(16))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        gate = torch.sigmoid(x)
        y = sum([self.square(x), self.wide(x), self.other(gate), x, gate])
        logits: Tensor = self.head(functional.relu(y) + self.dilated(gate))
        return logits


def make_shortcuts() -> nn.Module:
    return _settle(Shortcuts())


def make_chains() -> nn.Module:
    """Convolutions behind one another: two pairs that are one, one that borders forbid, one that is cheaper as is."""
    return _settle(
        nn.Sequential(
            nn.Conv2d(3, 16, 1, bias=False), nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(),
            nn.Conv2d(8, 32, 3, 2, padding=1), nn.BatchNorm2d(32), nn.Conv2d(32, 8, 1), nn.ReLU(),
            nn.Conv2d(8, 32, 1), nn.Conv2d(32, 8, 3, padding=1), nn.ReLU(),
            nn.Conv2d(8, 2, 1), nn.Conv2d(2, 24, 1), nn.ReLU(), *_head(24),
        )
    )  # fmt: skip


class Deciding(nn.Module):
    """Looks at its values, so that it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y if y.sum() > 1e9 else functional.relu(y)


def make_deciding() -> nn.Module:
    """A part that cannot be traced, before one that can be folded."""
    return _settle(nn.Sequential(Deciding(), Branches(16, 16), *_head(16)))


class Curious(nn.Module):
    """Reads a weight of a layer beside running it, which nothing that was folded has."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Branches(3, 16)
        self.head = nn.Sequential(*_head(16))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.block(x)) * self.block.point[0].weight.mean()
        return logits


def make_curious() -> nn.Module:
    return _settle(Curious())
