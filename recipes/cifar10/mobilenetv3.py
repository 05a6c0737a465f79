"""A MobileNetV3 (Howard et al. 2019) for 32x32 images: inverted residuals, squeeze-and-excite, Hardswish.

It is hard on int8: Hardswish has a small negative part that a coarse scale wipes out, and each gate multiplies two
tensors of unlike ranges. The stem halves the image at once, so that an epoch takes a minute or two. Plain torch only.
"""

from torch import Tensor, nn

Blocks = tuple[tuple[int, int, int, bool, bool, int], ...]

#: of each block: kernel, hidden channels, outputs, whether it has a gate, whether it uses Hardswish, stride
BLOCKS: Blocks = (
    (3, 32, 24, True, False, 1),
    (3, 64, 24, False, False, 1),
    (5, 72, 40, True, True, 2),
    (5, 160, 40, True, True, 1),
    (3, 160, 56, True, True, 1),
    (3, 224, 56, True, True, 1),
    (5, 288, 80, True, True, 2),
    (5, 400, 80, True, True, 1),
)


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution and its batch normalization; no bias, since the normalization brings its own."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate in 0..1 that is computed from the averages of all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = channels // 4
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.relu = nn.ReLU()
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        gates: Tensor = self.gate(self.expand(self.relu(self.reduce(self.pool(x)))))
        return x * gates


class InvertedResidual(nn.Module):
    """Widen, filter each channel by itself, gate, narrow; the last step is linear."""

    def __init__(
        self, inputs: int, kernel: int, hidden: int, outputs: int, gated: bool, hardswish: bool, stride: int
    ) -> None:
        super().__init__()
        activation = nn.Hardswish if hardswish else nn.ReLU
        widen = [] if hidden == inputs else [conv_bn(inputs, hidden, 1), activation()]
        depthwise = [conv_bn(hidden, hidden, kernel, stride, groups=hidden), activation()]
        gate = [SqueezeExcite(hidden)] if gated else []
        self.layers = nn.Sequential(*widen, *depthwise, *gate, conv_bn(hidden, outputs, 1))
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.has_shortcut else y


class MobileNetV3(nn.Module):
    """A stem, the blocks, a 1x1 convolution to `last` channels, a global average, linear layers with `wide` between."""

    def __init__(
        self, stem: int = 32, last: int = 320, wide: int = 320, classes: int = 10, blocks: Blocks = BLOCKS
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, stem, 3, stride=2), nn.Hardswish())
        parts: list[nn.Module] = []
        channels = stem
        for kernel, hidden, outputs, gated, hardswish, stride in blocks:
            parts.append(InvertedResidual(channels, kernel, hidden, outputs, gated, hardswish, stride))
            channels = outputs
        self.blocks = nn.Sequential(*parts)
        self.head = nn.Sequential(conv_bn(channels, last, 1), nn.Hardswish())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Linear(last, wide), nn.Hardswish(), nn.Linear(wide, classes))

    def forward(self, image: Tensor) -> Tensor:
        """Logits of shape (N, classes) for prepared float32 images of shape (N, 3, 32, 32)."""
        x = self.head(self.blocks(self.stem(image)))
        logits: Tensor = self.classifier(self.pool(x).flatten(1))
        return logits
