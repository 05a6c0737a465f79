"""Small changes to training images that leave their class as it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional


def augment(inputs: Sequence[torch.Tensor], shift: int, flip: bool, generator: torch.Generator) -> list[torch.Tensor]:
    """Images (N, C, H, W) moved by up to `shift` pixels each way, and mirrored left to right half of the time.

    What a shift uncovers repeats the edge, as the background of prepared images need not be zero. All the images of one
    sample change alike; inputs that are no images stay as they are. Only the draws are the CPU's: the work is done
    where the images are.
    """
    count = len(inputs[0])
    moves = torch.randint(0, 2 * shift + 1, (2, count), generator=generator)
    mirrored = (torch.rand(count, generator=generator) < 0.5) & flip
    return [_change(images, shift, moves, mirrored) if images.dim() == 4 else images for images in inputs]


def _change(images: torch.Tensor, shift: int, moves: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
    height, width = images.shape[2:]
    padded = functional.pad(images, (shift,) * 4, mode="replicate")
    columns = torch.arange(width).expand(len(images), -1)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns) + moves[1][:, None]
    rows = torch.arange(height)[None] + moves[0][:, None]
    sample = torch.arange(len(images))
    places = (each.to(images.device) for each in (sample[:, None, None], rows[:, :, None], columns[:, None, :]))
    moved = padded.movedim(1, 3)[tuple(places)]  # channels last: they come along
    return moved.movedim(3, 1).contiguous()
