"""The 224×224 originals, for 1,000 classes, of the families that recipes/cifar10 holds small versions of.

Their weights are random: what they are for is timing, which depends on shapes, not on what was learned. Parameters, in
thousands: MobileNetV2 3,505, MobileNetV3-Large 5,481, MobileNetV3-Small 2,537, EfficientNet-B0 5,289, DenseNet-121
7,979, ResNet-18 11,690, ResNet-50 25,557. All are as published but for the two of MobileNetV3, which have 1.8 and 5.6
fewer: their gates are squeezed to exactly a quarter, not to a multiple of 8. Dropout does nothing here and is left out.
"""

from __future__ import annotations

from torch import Tensor, nn

from recipes.cifar10.densenet import DenseNet
from recipes.cifar10.efficientnet import EfficientNet
from recipes.cifar10.mobilenetv2 import MobileNetV2, conv_bn
from recipes.cifar10.mobilenetv3 import MobileNetV3

CLASSES = 1000

#: of each stage: expansion, channels, blocks, stride of the first block
MOBILENETV2 = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip

#: of each block: kernel, hidden channels, outputs, whether it has a gate, whether it uses Hardswish, stride
MOBILENETV3_LARGE = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)
MOBILENETV3_SMALL = (
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)

#: of each stage: expansion, channels, blocks, stride of the first block, kernel
EFFICIENTNET_B0 = (
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)  # fmt: skip

#: layers of each dense block
DENSENET121 = (6, 12, 24, 16)

#: of each stage: channels of the 3×3 convolutions, blocks, stride of the first block
RESNET18 = ((64, 2, 1), (128, 2, 2), (256, 2, 2), (512, 2, 2))
RESNET50 = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))


def mobilenetv2() -> nn.Module:
    return MobileNetV2(stem=32, last=1280, classes=CLASSES, stages=MOBILENETV2)


def mobilenetv3() -> nn.Module:
    return MobileNetV3(stem=16, last=960, wide=1280, classes=CLASSES, blocks=MOBILENETV3_LARGE)


def mobilenetv3_small() -> nn.Module:
    return MobileNetV3(stem=16, last=576, wide=1024, classes=CLASSES, blocks=MOBILENETV3_SMALL)


def efficientnet() -> nn.Module:
    return EfficientNet(stem=32, last=1280, classes=CLASSES, stages=EFFICIENTNET_B0)


def densenet() -> nn.Module:
    network = DenseNet(growth=32, classes=CLASSES, layers=DENSENET121)
    network.stem = make_stem()
    return network


class Basic(nn.Module):
    """Filter twice around a shortcut (He et al. 2015)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv_bn(inputs, width, 3, stride), nn.ReLU(), conv_bn(width, width, 3))
        self.shortcut = nn.Identity() if inputs == width else conv_bn(inputs, width, 1, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.layers(x) + self.shortcut(x))
        return y


class Bottleneck(nn.Module):
    """Narrow, filter, widen to four times as many channels, around a shortcut (He et al. 2015)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        filtered = nn.Sequential(conv_bn(inputs, width, 1), nn.ReLU(), conv_bn(width, width, 3, stride), nn.ReLU())
        self.layers = nn.Sequential(filtered, conv_bn(width, 4 * width, 1))
        self.shortcut = nn.Identity() if inputs == 4 * width else conv_bn(inputs, 4 * width, 1, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.layers(x) + self.shortcut(x))
        return y


def resnet18() -> nn.Module:
    return _make_resnet(Basic, RESNET18, widening=1)


def resnet50() -> nn.Module:
    return _make_resnet(Bottleneck, RESNET50, widening=4)


def _make_resnet(block: type[nn.Module], stages: tuple[tuple[int, int, int], ...], widening: int) -> nn.Module:
    channels, blocks = 64, []
    for width, count, stride in stages:
        for index in range(count):
            blocks.append(block(channels, width, stride if index == 0 else 1))
            channels = widening * width
    return nn.Sequential(make_stem(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


def make_stem() -> nn.Sequential:
    """The stem of ResNets and DenseNets: from 224×224 pixels to 64 channels of 56×56."""
    conv = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1))
