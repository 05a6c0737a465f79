"""A DenseNet-BC (Huang et al. 2017) for 32x32 images: each layer reads what all layers before it wrote.

It is hard on int8: a concatenation brings tensors of unlike ranges under one scale, and normalization comes before the
convolutions, so that half of it cannot be folded into one. The stem halves the image at once, so that an epoch takes a
minute or two. Plain torch only.
"""

import torch
from torch import Tensor, nn

#: layers of each block; between two blocks, a transition halves channels and resolution
LAYERS = (2, 6, 8)


def bn_relu_conv(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Normalize and activate what comes in, then convolve."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), conv)


class DenseLayer(nn.Module):
    """A 1x1 bottleneck and a 3x3 convolution, which adds `growth` channels behind those that came in."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bottleneck = bn_relu_conv(inputs, 4 * growth, 1)
        self.conv = bn_relu_conv(4 * growth, growth, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(self.bottleneck(x))], dim=1)


class DenseNet(nn.Module):
    """A stem, the dense blocks with transitions between them, a global average, a linear layer."""

    def __init__(self, growth: int = 16, classes: int = 10, layers: tuple[int, ...] = LAYERS) -> None:
        super().__init__()
        channels = 2 * growth
        self.stem = nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False)
        parts: list[nn.Module] = []
        for index, count in enumerate(layers):
            if index > 0:
                parts.append(nn.Sequential(bn_relu_conv(channels, channels // 2, 1), nn.AvgPool2d(2)))
                channels //= 2
            for _ in range(count):
                parts.append(DenseLayer(channels, growth))
                channels += growth
        self.blocks = nn.Sequential(*parts)
        self.head = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of shape (N, classes) for prepared float32 images of shape (N, 3, 32, 32)."""
        x = self.head(self.blocks(self.stem(image)))
        logits: Tensor = self.classifier(self.pool(x).flatten(1))
        return logits
