"""Networks that exporters stumble over, each in its own way; images (N, 1, 8, 8) to logits (N, 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _body() -> nn.Sequential:
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers)


class TwoOutputs(nn.Module):
    """Returns a dict, whose tensors stand in this order in the model as well."""

    def __init__(self) -> None:
        super().__init__()
        self.body = _body()
        self.head = nn.Linear(8, 4)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.body(image)
        return {"features": features, "logits": self.head(features)}


class TwoInputs(nn.Module):
    """Multiplies its logits by a second input."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(_body(), nn.Linear(8, 4, bias=False))

    def forward(self, image: Tensor, scale: Tensor) -> Tensor:
        logits: Tensor = self.body(image) * scale
        return logits


class Stateful(nn.Module):
    """Multiplies its logits by how often it was run: no graph can say that, and no exporter notices."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(_body(), nn.Linear(8, 4))
        self.runs = 0

    def forward(self, image: Tensor) -> Tensor:
        self.runs += 1
        logits: Tensor = self.body(image) * self.runs
        return logits


class ValueDependent(nn.Module):
    """Takes one of two branches by what it sees, which a trace cannot see."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(_body(), nn.Linear(8, 4))

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.body(image)
        return logits if bool(image.mean() > 0) else -logits


class FreshNorms(nn.Module):
    """Normalizations with fresh statistics: exporters find their folded tensors equal, and share them."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (1, 4, 4, 4):
            layers += [nn.Conv2d(inputs, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.body(image)
        return logits


def make_network(kind: str) -> nn.Module:
    """The network of the class `kind`, with weights from a fixed seed."""
    kinds: dict[str, type[nn.Module]] = {
        each.__name__: each for each in (TwoOutputs, TwoInputs, Stateful, ValueDependent, FreshNorms)
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kinds[kind]()
