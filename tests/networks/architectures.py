"""Small networks, one for each way in which architectures tie channels together; some cannot be pruned, on purpose.

All take images (N, 3, 16, 16) and give logits (N, 5). Normalizations have statistics like those of a trained network,
so that a channel in the wrong place shows in the outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 5
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d)


def make_plain() -> nn.Module:
    """Convolutions with biases, pooling, and a flatten that gives each channel 16 inputs of the next layer (as VGG)."""
    return _settle(
        nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(24 * 16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, CLASSES),
        )
    )  # fmt: skip


class OptionABlock(nn.Module):
    """The block of the CIFAR ResNets whose shortcut has no parameters: every second pixel, then channels of zeros."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.grows = stride != 1 or inputs != outputs
        self.padding = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.grows:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))
        return functional.relu(y + x)


class OptionANet(nn.Module):
    """A stem, two stages of two blocks, a global average, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(OptionABlock(16, 16, 1), OptionABlock(16, 16, 1))
        self.layer2 = nn.Sequential(OptionABlock(16, 32, 2), OptionABlock(32, 32, 1))
        self.linear = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(functional.relu(self.bn1(self.conv1(x)))))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def make_option_a() -> nn.Module:
    return _settle(OptionANet())


class InvertedResidual(nn.Module):
    """A depthwise convolution between two pointwise ones, with squeeze-and-excitation (as MobileNetV3)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.Hardswish())
        depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.depthwise = nn.Sequential(depthwise, nn.BatchNorm2d(inner), nn.Hardswish())
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(inner, 16, 1), nn.ReLU(), nn.Conv2d(16, inner, 1), nn.Sigmoid()
        )
        self.project = nn.Sequential(nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.expand(x))
        result: Tensor = x + self.project(y * self.squeeze(y))
        return result


def make_mobile() -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, padding=1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
    return _settle(nn.Sequential(stem, InvertedResidual(16, 48), InvertedResidual(16, 48), *_head(16)))


class Concatenation(nn.Module):
    """Two branches side by side, then the input itself (as GoogLeNet and DenseNet)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.left = nn.Conv2d(inputs, 16, 1)
        self.right = nn.Conv2d(inputs, 24, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([functional.relu(self.left(x)), functional.relu(self.right(x)), x], dim=1)


def make_concatenated() -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, padding=1), nn.ReLU())
    return _settle(nn.Sequential(stem, Concatenation(16), nn.BatchNorm2d(56), Concatenation(56), *_head(96)))


def make_grouped() -> nn.Module:
    """A convolution in four groups between two pointwise ones (as ResNeXt)."""
    return _settle(
        nn.Sequential(
            nn.Conv2d(3, 32, 1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1, groups=4), nn.BatchNorm2d(64), nn.ReLU(),
            nn.Conv2d(64, 32, 1), nn.ReLU(), *_head(32),
        )
    )  # fmt: skip


def make_upsampling() -> nn.Module:
    """Transposed convolutions, plain and in groups."""
    return _settle(
        nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, padding=1), nn.ReLU(),
            nn.ConvTranspose2d(16, 32, 2, 2), nn.BatchNorm2d(32), nn.ReLU(),
            nn.ConvTranspose2d(32, 32, 3, padding=1, groups=2), nn.ReLU(),
            nn.Conv2d(32, 16, 3, padding=1), nn.ReLU(), *_head(16),
        )
    )  # fmt: skip


class Shuffle(nn.Module):
    """A channel shuffle that has the number of channels written into it (as ShuffleNet)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), 2, 8, 16, 16).transpose(1, 2).reshape(len(x), 16, 16, 16)


def make_shuffled() -> nn.Module:
    """The first convolution is tied to hard-coded shapes and cannot be pruned; the last one can."""
    first = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), Shuffle())
    return _settle(nn.Sequential(first, nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), *_head(32)))


def make_group_normalized() -> nn.Module:
    """A normalization that pruning does not know how to slice, and a convolution behind it that it can."""
    return _settle(
        nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), *_head(32),
        )
    )  # fmt: skip


def make_slopes() -> nn.Module:
    """Slopes for each channel and one for all, and normalizations of each channel by itself, with statistics or not."""
    return _settle(
        nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.PReLU(16), nn.Conv2d(16, 16, 3), nn.InstanceNorm2d(16, affine=True), nn.PReLU(),
            nn.Conv2d(16, 16, 3), nn.InstanceNorm2d(16, track_running_stats=True), nn.ReLU(),
            nn.Conv2d(16, 16, 3), nn.InstanceNorm2d(16), nn.ReLU(), *_head(16),
        )
    )  # fmt: skip


class Attentive(nn.Module):
    """Patches that attend to one another, and two linear layers behind."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.widen, self.narrow = nn.Linear(16, 32), nn.Linear(32, 16)
        self.classifier = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + self.narrow(functional.gelu(self.widen(x)))
        logits: Tensor = self.classifier(x.mean(1))
        return logits


def make_attentive() -> nn.Module:
    """Only what lies between the two linear layers can go."""
    return _settle(Attentive())


class Unseen(nn.Module):
    """Layers that a trace by gradients does not come to, each in its own way, and one that it does."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.lent = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3)
        self.auxiliary, self.last = nn.Conv2d(16, 8, 3), nn.Conv2d(24, 16, 3)
        self.colours, self.head = nn.Embedding(4, 24), nn.Sequential(*_head(16))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = functional.relu(self.backbone(x))
        x = functional.conv2d(x, self.lent.weight, self.lent.bias)
        x = functional.relu(x + self.colours(torch.zeros(1, dtype=torch.long))[..., None, None])
        logits: Tensor = self.head(functional.relu(self.last(x)))
        return logits


def make_unseen() -> nn.Module:
    return _settle(Unseen())


class CentredClassifier(nn.Module):
    """Takes the mean over channels off: it depends on how many there are, which no dependency graph sees."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.linear = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv(x)).mean((2, 3))
        logits: Tensor = self.linear(x - x.mean(1, keepdim=True))
        return logits


def make_centred() -> nn.Module:
    """Runs with fewer channels, but computes something else: the mean over channels counts them."""
    return _settle(CentredClassifier())


class TwoInputs(nn.Module):
    """Two inputs, and a dict of two outputs of which the first are the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 16, 3, padding=1)
        self.right = nn.Conv2d(3, 16, 3, padding=1)
        self.head = nn.Sequential(*_head(16))

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        x = functional.relu(self.left(left) + self.right(right))
        return {"logits": self.head(x), "energy": x.sum((1, 2, 3))}


def make_two_inputs() -> nn.Module:
    return _settle(TwoInputs())


def make_frozen() -> nn.Module:
    """As for inference: no parameter wants a gradient."""
    return make_plain().requires_grad_(False)


def make_tied() -> nn.Module:
    """Two convolutions share their weights, and a third follows."""
    network = _settle(
        nn.Sequential(
            nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU(),
            nn.Conv2d(16, 16, 1), nn.ReLU(), *_head(16),
        )
    )  # fmt: skip
    network[3].weight = network[1].weight
    return network


def make_linear() -> nn.Module:
    """Nothing but an output layer: no channels that could go."""
    return _settle(nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, CLASSES)))


def _head(inputs: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, CLASSES)]


@torch.no_grad()
def _settle(network: nn.Module) -> nn.Module:
    """The network with weights and statistics from a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            low, high = (0.5, 1.5) if name.endswith("running_var") or _is_norm(network, name) else (-0.3, 0.3)
            tensor.uniform_(low, high, generator=generator)
    return network


def _is_norm(network: nn.Module, name: str) -> bool:
    owner, _, kind = name.rpartition(".")
    return kind == "weight" and isinstance(network.get_submodule(owner), NORMS)
