"""A MobileNetV2 (Sandler et al. 2018) for 32x32 images: inverted residuals, depthwise convolutions, ReLU6.

It is hard on int8: each channel of a depthwise convolution has a range of its own, and nothing bounds what a linear
bottleneck returns. The stem halves the image at once, so that an epoch takes a minute or two. Plain torch only.
"""

from torch import Tensor, nn

Stages = tuple[tuple[int, int, int, int], ...]

#: of each stage: expansion, channels, blocks, stride of the first block
STAGES: Stages = ((1, 16, 1, 1), (4, 24, 2, 1), (5, 40, 3, 2), (6, 80, 3, 2))


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution and its batch normalization; no bias, since the normalization brings its own."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class InvertedResidual(nn.Module):
    """Widen, filter each channel by itself, narrow; the last step is linear, and the shortcut joins narrow ends."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        widen = [] if expansion == 1 else [conv_bn(inputs, hidden, 1), nn.ReLU6()]
        depthwise = conv_bn(hidden, hidden, 3, stride, groups=hidden)
        self.layers = nn.Sequential(*widen, depthwise, nn.ReLU6(), conv_bn(hidden, outputs, 1))
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.has_shortcut else y


class MobileNetV2(nn.Module):
    """A stem, the stages, a 1x1 convolution to `last` channels, a global average, a linear layer."""

    def __init__(self, stem: int = 32, last: int = 320, classes: int = 10, stages: Stages = STAGES) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, stem, 3, stride=2), nn.ReLU6())
        blocks: list[nn.Module] = []
        channels = stem
        for expansion, outputs, count, stride in stages:
            for index in range(count):
                blocks.append(InvertedResidual(channels, outputs, expansion, stride if index == 0 else 1))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(conv_bn(channels, last, 1), nn.ReLU6())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(last, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of shape (N, classes) for prepared float32 images of shape (N, 3, 32, 32)."""
        x = self.head(self.blocks(self.stem(image)))
        logits: Tensor = self.classifier(self.pool(x).flatten(1))
        return logits
