"""Small networks of our own, each wired as one family of architectures is; pruning must do right by all of them.

All take images (N, 3, 16, 16); the U-Net answers with a map (N, 5, 16, 16), the others with logits (N, 5). Widths are
multiples of 8. Normalizations have the statistics of what runs through them, moved a little, so that signals neither
die nor explode on their way, and a channel in the wrong place shows in the outputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 5

Activation = Callable[[], nn.Module]


def conv_bn(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, activation: Activation | None = nn.ReLU
) -> nn.Sequential:
    """A convolution, its batch normalization, and mostly an activation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *([] if activation is None else [activation()]))


def head(inputs: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, CLASSES))


class PaddedBlock(nn.Module):
    """He et al. 2015, option A: where channels are new, the shortcut brings zeros for them, before and behind."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv_bn(inputs, outputs, 3, stride)
        self.conv2 = conv_bn(outputs, outputs, 3, activation=None)
        self.stride, self.missing = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        if self.missing:
            before = self.missing // 2
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.missing - before))
        return functional.relu(y + x)


def make_resnet_a() -> nn.Module:
    blocks = [PaddedBlock(16, 16, 1), PaddedBlock(16, 32, 2), PaddedBlock(32, 32, 1), PaddedBlock(32, 64, 2)]
    return _settle(nn.Sequential(conv_bn(3, 16, 3), *blocks, head(64)))


class Bottleneck(nn.Module):
    """He et al. 2015, option B: narrow, filter, widen; a 1x1 convolution is the shortcut where the shape changes."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, groups: int = 1) -> None:
        super().__init__()
        self.narrow = conv_bn(inputs, inner, 1)
        self.filter = conv_bn(inner, inner, 3, stride, groups)
        self.widen = conv_bn(inner, outputs, 1, activation=None)
        self.gate: nn.Module = nn.Identity()
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            self.shortcut = conv_bn(inputs, outputs, 1, stride, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.widen(self.gate(self.filter(self.narrow(x)))) + self.shortcut(x))


def make_resnet() -> nn.Module:
    blocks = [
        Bottleneck(16, 16, 32, 1),
        Bottleneck(32, 16, 32, 1),
        Bottleneck(32, 24, 64, 2),
        Bottleneck(64, 24, 64, 1),
    ]
    return _settle(nn.Sequential(conv_bn(3, 16, 3), *blocks, head(64)))


def make_vgg() -> nn.Module:
    """Simonyan and Zisserman 2014: a flatten gives each channel four inputs of a linear layer."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 48)):
        layers += [conv_bn(inputs, outputs, 3), conv_bn(outputs, outputs, 3), nn.MaxPool2d(2)]
    linear = [nn.Flatten(), nn.Linear(48 * 4, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 64), nn.ReLU()]
    return _settle(nn.Sequential(*layers, *linear, nn.Linear(64, CLASSES)))


class Gate(nn.Module):
    """Squeeze-and-excitation (Hu et al. 2018): a factor for each channel, from the averages of all."""

    def __init__(self, channels: int, squeezed: int, activation: Activation, gate: Activation) -> None:
        super().__init__()
        self.reduce, self.activation = nn.Conv2d(channels, squeezed, 1), activation()
        self.expand, self.gate = nn.Conv2d(squeezed, channels, 1), gate()

    def forward(self, x: Tensor) -> Tensor:
        factors: Tensor = self.gate(self.expand(self.activation(self.reduce(x.mean((2, 3), keepdim=True)))))
        return x * factors


class Inverted(nn.Module):
    """Sandler et al. 2018: widen, filter each channel by itself, narrow without an activation."""

    def __init__(
        self, inputs: int, inner: int, outputs: int, stride: int, kernel: int, activation: Activation,
        gate: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        widen = [] if inner == inputs else [conv_bn(inputs, inner, 1, activation=activation)]
        depthwise = conv_bn(inner, inner, kernel, stride, inner, activation)
        narrow = conv_bn(inner, outputs, 1, activation=None)
        self.layers = nn.Sequential(*widen, depthwise, *([] if gate is None else [gate]), narrow)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.has_shortcut else y


def make_mobilenetv2() -> nn.Module:
    blocks = [
        Inverted(16, 16, 16, 1, 3, nn.ReLU6), Inverted(16, 64, 24, 2, 3, nn.ReLU6),
        Inverted(24, 96, 24, 1, 3, nn.ReLU6), Inverted(24, 96, 40, 2, 3, nn.ReLU6),
    ]  # fmt: skip
    last = conv_bn(40, 80, 1, activation=nn.ReLU6)
    return _settle(nn.Sequential(conv_bn(3, 16, 3, activation=nn.ReLU6), *blocks, last, head(80)))


def make_mobilenetv3() -> nn.Module:
    """Howard et al. 2019: some blocks with a gate, hard-swish, and two linear layers behind the average."""

    def block(inputs: int, inner: int, outputs: int, stride: int, kernel: int, gated: bool) -> nn.Module:
        gate = Gate(inner, inner // 4, nn.ReLU, nn.Hardsigmoid) if gated else None
        return Inverted(inputs, inner, outputs, stride, kernel, nn.Hardswish if gated else nn.ReLU, gate)

    blocks = [block(16, 16, 16, 1, 3, False), block(16, 64, 24, 2, 3, False), block(24, 96, 24, 1, 5, True)]
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 64), nn.Hardswish(), nn.Linear(64, CLASSES)]
    first, last = conv_bn(3, 16, 3, activation=nn.Hardswish), conv_bn(24, 96, 1, activation=nn.Hardswish)
    return _settle(nn.Sequential(first, *blocks, last, *tail))


def make_efficientnet() -> nn.Module:
    """Tan and Le 2019: SiLU throughout, and each gate squeezed to a quarter of its block's inputs."""

    def block(inputs: int, expansion: int, outputs: int, stride: int, kernel: int) -> nn.Module:
        inner = inputs * expansion
        return Inverted(inputs, inner, outputs, stride, kernel, nn.SiLU, Gate(inner, inputs // 2, nn.SiLU, nn.Sigmoid))

    blocks = [block(16, 1, 16, 1, 3), block(16, 4, 24, 2, 3), block(24, 4, 24, 1, 5), block(24, 6, 40, 2, 5)]
    first, last = conv_bn(3, 16, 3, activation=nn.SiLU), conv_bn(40, 80, 1, activation=nn.SiLU)
    return _settle(nn.Sequential(first, *blocks, last, head(80)))


class DenseLayer(nn.Module):
    """Huang et al. 2017: normalize, activate, convolve, twice; the result stands behind all that came in."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, 2 * growth, 1, bias=False),
            nn.BatchNorm2d(2 * growth), nn.ReLU(), nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.layers(x)], 1)


def make_densenet() -> nn.Module:
    first = nn.Conv2d(3, 32, 3, padding=1, bias=False)
    blocks = [[DenseLayer(inputs + 16 * number, 16) for number in range(3)] for inputs in (32, 40)]
    transition = [nn.BatchNorm2d(80), nn.ReLU(), nn.Conv2d(80, 40, 1, bias=False), nn.AvgPool2d(2)]
    return _settle(nn.Sequential(first, *blocks[0], *transition, *blocks[1], nn.BatchNorm2d(88), nn.ReLU(), head(88)))


class Branches(nn.Module):
    """Szegedy et al. 2015: four branches side by side, of which one pools."""

    def __init__(self, inputs: int, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        one, three, five, pooled = widths
        self.one = conv_bn(inputs, one, 1)
        self.three = nn.Sequential(conv_bn(inputs, three // 2, 1), conv_bn(three // 2, three, 3))
        narrow = conv_bn(inputs, five, 1)
        self.five = nn.Sequential(narrow, conv_bn(five, five, 3), conv_bn(five, five, 3))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), conv_bn(inputs, pooled, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


class Shrink(nn.Module):
    """Between two resolutions: a convolution beside a pool, which passes on the channels that came in."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv, self.pool = conv_bn(inputs, outputs, 3, 2), nn.MaxPool2d(3, 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv(x), self.pool(x)], 1)


def make_inception() -> nn.Module:
    blocks = [Branches(16, (16, 32, 16, 16)), Shrink(80, 16), Branches(96, (24, 32, 16, 24))]
    return _settle(nn.Sequential(conv_bn(3, 16, 3), *blocks, head(96)))


class Shuffled(nn.Module):
    """Ma et al. 2018: half of the channels pass through, the other half are filtered; then both are interleaved.

    Args:
        size: of an image's side where the shuffle has all shapes written into it; 0: it computes them.
    """

    def __init__(self, channels: int, size: int = 0) -> None:
        super().__init__()
        half = channels // 2
        depthwise = conv_bn(half, half, 3, groups=half, activation=None)
        self.branch = nn.Sequential(conv_bn(half, half, 1), depthwise, conv_bn(half, half, 1))
        self.half, self.size = half, size

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        joined = torch.cat([left, self.branch(right)], 1)
        batch, channels, height, width = joined.shape
        if self.size:
            pairs = joined.view(-1, 2, self.half, self.size, self.size).transpose(1, 2).contiguous()
            return pairs.view(-1, 2 * self.half, self.size, self.size)
        pairs = joined.view(batch, 2, channels // 2, height, width).transpose(1, 2)
        return pairs.reshape(batch, channels, height, width)


def make_shufflenetv2() -> nn.Module:
    blocks = [Shuffled(48), Shuffled(48), conv_bn(48, 96, 3, 2), Shuffled(96), conv_bn(96, 128, 1)]
    return _settle(nn.Sequential(conv_bn(3, 48, 3, 2), *blocks, head(128)))


def make_shufflenetv2_fixed() -> nn.Module:
    blocks = [Shuffled(48, 8), Shuffled(48, 8), conv_bn(48, 96, 3, 2), Shuffled(96, 4), conv_bn(96, 128, 1)]
    return _settle(nn.Sequential(conv_bn(3, 48, 3, 2), *blocks, head(128)))


def make_regnet() -> nn.Module:
    """Radosavovic et al. 2020: as wide inside as outside, in groups of 8 channels, with a gate."""
    blocks = []
    for inputs, outputs, stride in ((16, 32, 1), (32, 32, 1), (32, 64, 2)):
        block = Bottleneck(inputs, outputs, outputs, stride, groups=outputs // 8)
        block.gate = Gate(outputs, outputs // 4, nn.ReLU, nn.Sigmoid)
        blocks.append(block)
    return _settle(nn.Sequential(conv_bn(3, 16, 3), *blocks, head(64)))


class ChannelNorm(nn.LayerNorm):
    """Layer normalization over the channels of (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Scaled(nn.Module):
    """Liu et al. 2022: a depthwise 7x7, then linear layers on the last axis, and a factor for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.widen, self.narrow = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.empty(channels))
        nn.init.uniform_(self.gamma, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.narrow(functional.gelu(self.widen(y)))
        return x + y.permute(0, 3, 1, 2)


def make_convnext() -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(3, 24, 2, 2), ChannelNorm(24))
    shrink = nn.Sequential(ChannelNorm(24), nn.Conv2d(24, 48, 2, 2))
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(48), nn.Linear(48, CLASSES)]
    return _settle(nn.Sequential(stem, Scaled(24), Scaled(24), shrink, Scaled(48), *tail))


class UNet(nn.Module):
    """Ronneberger et al. 2015: what goes down joins what comes up, by a transposed convolution and by upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = self._twice(3, 16), self._twice(16, 32)
        self.bottom = self._twice(32, 64)
        self.up2, self.join2 = nn.ConvTranspose2d(64, 32, 2, 2), self._twice(64, 32)
        self.up1 = nn.Sequential(nn.Upsample(scale_factor=2), conv_bn(32, 16, 3))
        self.join1, self.last = self._twice(32, 16), nn.Conv2d(16, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(functional.max_pool2d(first, 2))
        x = self.bottom(functional.max_pool2d(second, 2))
        x = self.join2(torch.cat([second, self.up2(x)], 1))
        x = self.join1(torch.cat([first, self.up1(x)], 1))
        answers: Tensor = self.last(x)
        return answers

    @staticmethod
    def _twice(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(conv_bn(inputs, outputs, 3), conv_bn(outputs, outputs, 3))


def make_unet() -> nn.Module:
    return _settle(UNet())


#: family → the function that makes its network; ShuffleNet is written in two ways
FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "ResNet, padded shortcuts": make_resnet_a,
    "ResNet, 1×1 shortcuts": make_resnet,
    "VGG": make_vgg,
    "MobileNetV2": make_mobilenetv2,
    "MobileNetV3": make_mobilenetv3,
    "EfficientNet": make_efficientnet,
    "DenseNet": make_densenet,
    "Inception": make_inception,
    "ShuffleNetV2": make_shufflenetv2,
    "ShuffleNetV2, fixed shapes": make_shufflenetv2_fixed,
    "RegNet": make_regnet,
    "ConvNeXt": make_convnext,
    "U-Net": make_unet,
}


@torch.no_grad()
def _settle(network: nn.Module) -> nn.Module:
    """The network with weights from a fixed seed and the statistics of random images, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)
            if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.2, 0.2)
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        network.train()(torch.randn(32, 3, 16, 16))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1
                module.running_mean += 0.1 * torch.randn(module.num_features)
                module.running_var *= torch.empty(module.num_features).uniform_(0.7, 1.4)
    return network.eval()
