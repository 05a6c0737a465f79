"""A VGG-11 (Simonyan and Zisserman 2014) with batch normalization, half as wide, for 32x32 images.

It has far more channels than ten classes of small images need: what pruning to a goal should find. Plain torch only.
"""

from torch import Tensor, nn

#: channels of each convolution, and `0` where the image is halved
PLAN = (32, 0, 64, 0, 128, 128, 0, 256, 256, 0, 256, 256)


class Vgg(nn.Module):
    """3x3 convolutions, each with its normalization, a global average, a linear layer."""

    def __init__(self, classes: int = 10, plan: tuple[int, ...] = PLAN) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in plan:
            if width:
                conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
                layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            else:
                layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of shape (N, classes) for prepared float32 images of shape (N, 3, 32, 32)."""
        logits: Tensor = self.classifier(self.pool(self.layers(image)).flatten(1))
        return logits
