"""The schedule, and what a training leaves of torch's settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgeopt import environment
from edgeopt.context import Checkpoints
from edgeopt.training.loop import Training
from edgeopt.training.losses import label_loss
from edgeopt.training.schedule import Schedule, learning_rate_at
from edgeopt.training.shuffling import ShuffledSamples
from edgeopt.workers import ignore_progress

SCHEDULE = Schedule(epochs=2, batch=8, learning_rate=0.1, weight_decay=0.0, shift=0, flip=False, seed=0)


def make_samples(count: int) -> ShuffledSamples:
    records = np.zeros(count, np.dtype([("x", np.float32, (4,))]))
    records["x"] = np.random.default_rng(0).normal(0, 1, (count, 4))
    return ShuffledSamples(records, torch.arange(count) % 3)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_almost_nothing() -> None:
    rates = [learning_rate_at(step, 100, 0.5) for step in range(100)]
    peak = rates.index(max(rates))
    assert peak == 9
    assert rates[peak] == 0.5
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert 0 < rates[-1] < 0.001


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_few_steps_have_sound_learning_rates_too(steps: int) -> None:
    assert all(0 < learning_rate_at(step, steps, 0.5) <= 0.5 for step in range(steps))


@pytest.mark.parametrize(("count", "batch"), [(9, 8), (17, 8), (3, 8), (3, 2), (5, 4)])
def test_no_batch_is_left_with_one_sample(count: int, batch: int) -> None:
    """A normalization cannot train on a single value per channel."""
    sizes: list[int] = []

    class Watched(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sizes.append(len(x))
            return super().forward(x)

    schedule = replace(SCHEDULE, batch=batch)
    Training(Watched(4, 3), make_samples(count), label_loss, schedule).run(Checkpoints(), ignore_progress)
    assert min(sizes) > 1
    assert max(sizes) <= batch + 1
    assert sum(sizes) == SCHEDULE.epochs * count


def test_weights_decay_and_biases_do_not() -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    groups = Training(network, make_samples(4), label_loss, SCHEDULE).optimizer.param_groups
    decayed = {id(parameter) for group in groups if group["weight_decay"] is not None for parameter in group["params"]}
    assert decayed == {id(parameter) for parameter in network.parameters()}
    assert [parameter.dim() for parameter in groups[0]["params"]] == [2]
    assert groups[1]["weight_decay"] == 0.0


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "none of ours"])
def test_a_damaged_checkpoint_is_dropped_with_a_word_and_training_starts_over(damage: str, tmp_path: Path) -> None:
    def train(folder: Path) -> tuple[list[float], list[str]]:
        told: list[str] = []
        torch.manual_seed(0)
        training = Training(nn.Linear(4, 3), make_samples(32), label_loss, SCHEDULE)
        return training.run(Checkpoints(folder), lambda text, _: told.append(text)), told

    losses, _ = train(tmp_path)
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    half = len(data) // 2
    flipped = data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :]
    path.write_bytes({"cut": data[:half], "flip": flipped, "empty": b"", "none of ours": b"PK" * 100}[damage])
    again, told = train(tmp_path)
    assert told[0] == "a checkpoint is damaged: starting over"
    assert told[1].startswith("epoch 1 of 2")
    assert again == losses
    assert path.read_bytes()[:32] == data[:32]


def test_dropout_follows_the_seed_and_settings_are_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "cpu_cores", lambda: 2)
    torch.set_num_threads(1)

    def train(seed: int) -> torch.Tensor:
        layer = nn.Linear(4, 3)
        nn.init.constant_(layer.weight, 0.1)
        nn.init.zeros_(layer.bias)
        schedule = replace(SCHEDULE, seed=seed)
        before = torch.get_rng_state()
        Training(nn.Sequential(nn.Dropout(0.5), layer), make_samples(32), label_loss, schedule).run(
            Checkpoints(), ignore_progress
        )
        assert torch.equal(torch.get_rng_state(), before)
        return layer.weight.detach()

    first, again, other = train(1), train(1), train(2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.get_num_threads() == 1
    assert not torch.are_deterministic_algorithms_enabled()
