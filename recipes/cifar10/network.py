"""The ResNet-20 of He et al. 2015 for CIFAR-10, with parameter-free shortcuts (their option A).

Where a stage halves the resolution and doubles the channels, the shortcut takes every second pixel and fills up with
channels of zeros. Module names fit the checkpoint that `recipes/README.md` names. Plain torch only.
"""

from torch import Tensor, nn
from torch.nn import functional


class SubsampleAndPad(nn.Module):
    """Option A: every second pixel, and zeros for the channels that are new, half before and half behind."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.padding = (0, 0, 0, 0, new_channels // 2, new_channels - new_channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, ::2, ::2], self.padding)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if stride == 1 else SubsampleAndPad(outputs - inputs)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return functional.relu(y + self.shortcut(x))


class ResNet20(nn.Module):
    """A stem, three stages of three blocks with 16, 32 and 64 channels, a global average, a linear layer."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = make_stage(16, 16, stride=1)
        self.layer2 = make_stage(16, 32, stride=2)
        self.layer3 = make_stage(32, 64, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of shape (N, classes) for prepared float32 images of shape (N, 3, 32, 32)."""
        x = functional.relu(self.bn1(self.conv1(image)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(self.pool(x).flatten(1))
        return logits


def make_stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Three blocks, the first of which changes the shape."""
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, BasicBlock(outputs, outputs, 1), BasicBlock(outputs, outputs, 1))
