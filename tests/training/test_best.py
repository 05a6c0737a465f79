"""The best epoch is kept, and waiting for a better one ends."""

from __future__ import annotations

import torch
from torch import nn

from edgeopt.training.best import Best


def follow(patience: int, scores: list[float]) -> tuple[Best, int]:
    """A training of epochs with these scores, whose weight is the number of the epoch; and how many it took."""
    best, network = Best(patience), nn.Linear(1, 1)
    for epoch, score in enumerate(scores, start=1):
        nn.init.constant_(network.weight, epoch)
        best.note(score, network)
        if best.settled:
            return best, epoch
    return best, len(scores)


def kept(best: Best) -> float:
    assert best.weights is not None
    return float(best.weights["weight"])


def test_the_best_is_kept_and_the_wait_for_a_better_one_ends() -> None:
    best, epochs = follow(2, [10, 30, 20, 25, 90])
    assert (epochs, best.epoch, kept(best)) == (4, 2, 2.0)


def test_a_better_one_begins_the_wait_anew() -> None:
    best, epochs = follow(2, [10, 9, 11, 10, 12, 1])
    assert (epochs, best.epoch, kept(best)) == (6, 5, 5.0)


def test_of_equal_ones_the_latest_is_kept_and_the_wait_goes_on() -> None:
    best, epochs = follow(2, [50, 50, 50, 60])
    assert (epochs, best.epoch, kept(best)) == (3, 3, 3.0)


def test_what_was_saved_goes_on_alike() -> None:
    saved, _ = follow(3, [10, 30, 20])
    restored = Best(3)
    restored.restore(saved.state())
    for best in (saved, restored):
        best.note(25, nn.Linear(1, 1))
        best.note(25, nn.Linear(1, 1))
    assert saved.settled
    assert restored.settled
    assert torch.equal(saved.weights["weight"], restored.weights["weight"])  # type: ignore[index]
