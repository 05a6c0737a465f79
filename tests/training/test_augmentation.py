"""Images move as a whole, all those of a sample alike, and nothing else moves."""

from __future__ import annotations

import pytest
import torch

from edgeopt.training.augmentation import augment


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moved(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """The image moved, what is uncovered repeating the edge: by indexing, pixel by pixel."""
    height, width = image.shape[1:]
    rows = [min(max(row - down, 0), height - 1) for row in range(height)]
    columns = [min(max(column - right, 0), width - 1) for column in range(width)]
    return image[:, rows][:, :, columns]


def test_without_options_nothing_changes() -> None:
    images = torch.randn(5, 3, 6, 7)
    assert torch.equal(augment([images], 0, False, generator())[0], images)


def test_each_image_is_moved_by_no_more_than_the_shift() -> None:
    images = torch.randn(60, 3, 6, 7)
    seen = set()
    for before, after in zip(images, augment([images], 2, False, generator())[0], strict=True):
        matching = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(moved(before, down, right), after)
        ]
        assert len(matching) == 1
        seen.update(matching)
    assert len(seen) > 15


def test_about_half_of_the_images_are_mirrored() -> None:
    images = torch.randn(200, 1, 4, 5)
    after = augment([images], 0, True, generator())[0]
    mirrored = [torch.equal(image.flip(2), changed) for image, changed in zip(images, after, strict=True)]
    same = [torch.equal(image, changed) for image, changed in zip(images, after, strict=True)]
    assert sum(mirrored) + sum(same) == 200
    assert 70 < sum(mirrored) < 130


@pytest.mark.parametrize("flip", [False, True])
def test_the_images_of_a_sample_change_alike(flip: bool) -> None:
    images = torch.randn(20, 1, 8, 8)
    left, right = augment([images, images * 2], 3, flip, generator())
    assert torch.equal(left * 2, right)


def test_inputs_that_are_no_images_stay() -> None:
    images, vectors = torch.randn(4, 1, 8, 8), torch.randn(4, 6)
    assert torch.equal(augment([images, vectors], 3, True, generator())[1], vectors)


def test_the_same_generator_gives_the_same_changes() -> None:
    images = torch.randn(10, 1, 8, 8)
    one, two, other = (augment([images], 2, True, generator(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
