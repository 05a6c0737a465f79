"""Re-estimated statistics are those of the samples, and nothing else of the network moves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.training.statistics import normalizes, reestimate_normalization


def make_samples(folder: Path, count: int) -> tuple[Samples, torch.Tensor]:
    images = np.random.default_rng(0).normal(3, 2, (count, 2, 4, 4)).astype(np.float32)
    np.savez(folder / "x.npz", x=images)
    return Samples("npz", folder / "x.npz", ("x",), Preprocess()), torch.from_numpy(images)


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5))


def test_one_batch_gives_its_mean_and_variance(tmp_path: Path) -> None:
    samples, images = make_samples(tmp_path, 32)
    network = make_network()
    reestimate_normalization(network, samples, batch=32)
    first, second = network[0], network[2]
    torch.testing.assert_close(first.running_mean, images.mean((0, 2, 3)))
    torch.testing.assert_close(first.running_var, images.var((0, 2, 3)))
    normal = (images - images.mean((0, 2, 3), keepdim=True)) / images.var((0, 2, 3), unbiased=False, keepdim=True).add(
        1e-5
    ).sqrt()
    torch.testing.assert_close(second.running_mean, network[1](normal).mean((0, 2, 3)).detach())


def test_batches_count_by_their_samples(tmp_path: Path) -> None:
    samples, images = make_samples(tmp_path, 40)
    network = make_network()
    reestimate_normalization(network, samples, batch=32)
    torch.testing.assert_close(network[0].running_mean, images.mean((0, 2, 3)))


def test_a_single_sample_left_over_does_not_count(tmp_path: Path) -> None:
    samples, images = make_samples(tmp_path, 3)
    network = make_network()
    reestimate_normalization(network, samples, batch=2)
    torch.testing.assert_close(network[0].running_mean, images[[0, 2]].mean((0, 2, 3)))


def test_values_vary_as_those_of_all_classes_where_the_samples_are_sorted_by_class(tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(0, 1, (64, 2, 4, 4)).astype(np.float32)
    images[32:] += 10  # the second class
    np.savez(tmp_path / "x.npz", x=images)
    network = make_network()
    reestimate_normalization(network, Samples("npz", tmp_path / "x.npz", ("x",), Preprocess()), batch=16)
    torch.testing.assert_close(network[0].running_var, torch.from_numpy(images).var((0, 2, 3)), rtol=0.02, atol=0)


def test_no_more_than_count_samples_are_read(tmp_path: Path) -> None:
    samples, images = make_samples(tmp_path, 33)
    network = make_network()
    reestimate_normalization(network, samples, count=2)
    torch.testing.assert_close(network[0].running_mean, images[[0, 32]].mean((0, 2, 3)))


def test_the_past_is_forgotten_and_nothing_else_moves(tmp_path: Path) -> None:
    samples, _ = make_samples(tmp_path, 16)
    once, twice = make_network(), make_network()
    with torch.no_grad():
        twice[0].running_mean.fill_(100)
    for network in (once, twice):
        network[2].eval()
        reestimate_normalization(network, samples)
    found, again = once.state_dict(), twice.state_dict()
    assert all(torch.equal(found[name], again[name]) for name in found)
    assert all(torch.equal(one, two) for one, two in zip(once.parameters(), make_network().parameters(), strict=True))
    assert [module.training for module in once] == [True, True, False, True]
    assert once[0].momentum == 0.1


def test_settings_are_set_back_when_a_sample_cannot_be_read(tmp_path: Path) -> None:
    network = make_network().eval()
    samples = Samples("npz", tmp_path / "x.npz", ("x",), Preprocess())
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 5, 4, 4), np.float32))
    with pytest.raises(RuntimeError):
        reestimate_normalization(network, samples)
    assert not any(module.training for module in network.modules())
    assert network[0].momentum == 0.1


def test_without_normalization_no_sample_is_read(tmp_path: Path) -> None:
    missing = Samples("npz", tmp_path / "missing.npz", ("x",), Preprocess())
    network = nn.Sequential(nn.Linear(2, 2), nn.GroupNorm(1, 2), nn.BatchNorm1d(2, track_running_stats=False))
    assert not normalizes(network)
    reestimate_normalization(network, missing)
