"""The network that the digits recipe makes small: a residual CNN for 32x32 grey images.

It is an ordinary network on purpose: residual sums, strided shortcuts and batch normalization are what pruning and
quantization meet in practice. Plain torch only, so that the recipe's `factory` is a file anybody could have written.
"""

from torch import Tensor, nn


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution and its batch normalization; no bias, since the normalization brings its own."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = conv_bn(inputs, outputs, 3, stride)
        self.first_relu = nn.ReLU()
        self.second = conv_bn(outputs, outputs, 3)
        same_shape = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same_shape else conv_bn(inputs, outputs, 1, stride)
        self.last_relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first_relu(self.first(x)))
        result: Tensor = self.last_relu(y + self.shortcut(x))
        return result


class DigitsNet(nn.Module):
    """A stem, three stages of residual blocks at 1x, 1.5x and 2x `width`, a global average, a linear layer.

    The stem halves the image at once: integer kernels earn their keep on many channels, not on many pixels.
    """

    def __init__(self, width: int = 64, classes: int = 10) -> None:
        super().__init__()
        middle, last = width * 3 // 2, width * 2
        self.stem = nn.Sequential(conv_bn(1, width, 3, stride=2), nn.ReLU())
        self.stage1 = nn.Sequential(ResidualBlock(width, width, 1), ResidualBlock(width, width, 1))
        self.stage2 = nn.Sequential(ResidualBlock(width, middle, 2), ResidualBlock(middle, middle, 1))
        self.stage3 = ResidualBlock(middle, last, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(last, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of shape (N, classes) for prepared float32 images of shape (N, 1, 32, 32)."""
        x = self.stage3(self.stage2(self.stage1(self.stem(image))))
        logits: Tensor = self.classifier(self.pool(x).flatten(1))
        return logits
