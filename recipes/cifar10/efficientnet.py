"""An EfficientNet (Tan and Le 2019) for 32x32 images: MBConv blocks with squeeze-and-excite, sigmoid and SiLU.

It is hard on int8: SiLU has no bound above and a small negative part, and each gate multiplies two tensors of unlike
ranges. The stem halves the image at once, so that an epoch takes a minute or two. Plain torch only.
"""

from torch import Tensor, nn

Stages = tuple[tuple[int, int, int, int, int], ...]

#: of each stage: expansion, channels, blocks, stride of the first block, kernel
STAGES: Stages = ((1, 16, 1, 1, 3), (4, 24, 1, 1, 3), (4, 48, 2, 2, 5), (4, 64, 1, 1, 3), (6, 96, 2, 2, 3))


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution and its batch normalization; no bias, since the normalization brings its own."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate in 0..1 that is computed from the averages of all channels."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.silu = nn.SiLU()
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        gates: Tensor = self.gate(self.expand(self.silu(self.reduce(self.pool(x)))))
        return x * gates


class MBConv(nn.Module):
    """Widen, filter each channel by itself, gate, narrow; the gate is squeezed to a quarter of the block's inputs."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        widen = [] if expansion == 1 else [conv_bn(inputs, hidden, 1), nn.SiLU()]
        depthwise = [conv_bn(hidden, hidden, kernel, stride, groups=hidden), nn.SiLU()]
        self.layers = nn.Sequential(
            *widen, *depthwise, SqueezeExcite(hidden, max(1, inputs // 4)), conv_bn(hidden, outputs, 1)
        )
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.has_shortcut else y


class EfficientNet(nn.Module):
    """A stem, the stages, a 1x1 convolution to `last` channels, a global average, a linear layer."""

    def __init__(self, stem: int = 24, last: int = 320, classes: int = 10, stages: Stages = STAGES) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, stem, 3, stride=2), nn.SiLU())
        blocks: list[nn.Module] = []
        channels = stem
        for expansion, outputs, count, stride, kernel in stages:
            for index in range(count):
                blocks.append(MBConv(channels, outputs, expansion, stride if index == 0 else 1, kernel))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(conv_bn(channels, last, 1), nn.SiLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(last, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of shape (N, classes) for prepared float32 images of shape (N, 3, 32, 32)."""
        x = self.head(self.blocks(self.stem(image)))
        logits: Tensor = self.classifier(self.pool(x).flatten(1))
        return logits
