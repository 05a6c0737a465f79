"""Channels that do nothing matter least, whatever the measure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.errors import PassError
from edgeopt.pruning.groups import Group, find_groups
from edgeopt.pruning.importance import BATCH, SAMPLES, score_channels, weigh_magnitude, weigh_taylor

SILENT = 3


@pytest.fixture
def network() -> nn.Module:
    """Channel 3 of the first convolution is made like the others and read by nobody."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3)
    )
    with torch.no_grad():
        network[5].weight[:, 4 * SILENT : 4 * SILENT + 4] = 0
    return network


@pytest.fixture
def group(network: nn.Module) -> Group:
    return find_groups(network, [torch.randn(2, 1, 8, 8)])[0]


def write_samples(folder: Path, count: int, scale: float = 1.0) -> Samples:
    generator = np.random.default_rng(0)
    images = (generator.normal(0, 1, (count, 1, 8, 8)) * scale).astype(np.float32)
    np.savez(folder / "samples.npz", image=images, labels=np.sort(generator.integers(0, 3, count)))
    return Samples("npz", folder / "samples.npz", ("image",), Preprocess())


def test_a_channel_that_nobody_reads_has_no_effect_on_the_loss(
    network: nn.Module, group: Group, tmp_path: Path
) -> None:
    scores = score_channels(network, group, weigh_taylor(network, write_samples(tmp_path, 40)))
    assert scores[SILENT] == 0
    assert (scores > 0).sum() == 7


@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_small_weights_matter_least(network: nn.Module, group: Group, kind: str) -> None:
    with torch.no_grad():
        for index in (0, 1):
            network[index].weight[5] *= 0.01
        network[5].weight[:, 20:24] *= 0.01
    scores = score_channels(network, group, weigh_magnitude(network, kind))  # type: ignore[arg-type]
    assert scores.argmin() == 5


def test_magnitudes_are_those_of_the_weights() -> None:
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[-3.0, 0.5]])
    assert weigh_magnitude(layer, "l1")["weight"].tolist() == [[3.0, 0.5]]
    assert weigh_magnitude(layer, "l2")["weight"].tolist() == [[9.0, 0.25]]


def test_scores_have_mean_one_and_do_not_hang_on_the_scale_of_a_layer(network: nn.Module, group: Group) -> None:
    scores = score_channels(network, group, weigh_magnitude(network, "l1"))
    torch.testing.assert_close(scores.mean(), torch.tensor(1.0, dtype=torch.float64))
    with torch.no_grad():
        network[5].weight *= 100
    torch.testing.assert_close(score_channels(network, group, weigh_magnitude(network, "l1")), scores)


def test_the_weights_of_a_dead_layer_give_scores_of_zero_and_no_nan(network: nn.Module, group: Group) -> None:
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    assert score_channels(network, group, weigh_magnitude(network, "l2")).tolist() == [0.0] * 8


def test_gradients_are_taken_on_samples_from_the_whole_split(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    plain = Samples.batches

    def watch(self: Samples, size: int):  # type: ignore[no-untyped-def] # noqa: ANN202
        for batch in plain(self, size):
            seen.extend(int(index) for index in batch.indices)
            yield batch

    monkeypatch.setattr(Samples, "batches", watch)
    weigh_taylor(network, write_samples(tmp_path, 3 * SAMPLES))
    assert len(seen) == SAMPLES
    assert SAMPLES % BATCH == 0
    assert seen[0] == 0
    assert seen[-1] == 3 * SAMPLES - 1
    assert max(np.diff(seen)) <= 4


def test_the_network_is_left_without_gradients_and_frozen_as_it_was(network: nn.Module, tmp_path: Path) -> None:
    network.requires_grad_(False).train()
    weigh_taylor(network, write_samples(tmp_path, 8))
    assert network.training
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in network.parameters())


def test_gradients_that_are_not_finite_are_refused(network: nn.Module, tmp_path: Path) -> None:
    with torch.no_grad():
        network[0].weight[0] = float("inf")
    with pytest.raises(PassError, match="not finite") as caught:
        weigh_taylor(network, write_samples(tmp_path, 8))
    assert "l2" in caught.value.hint
