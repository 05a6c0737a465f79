"""Channels that do nothing matter least, whatever they are weighed by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgeopt import registry
from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.errors import PassError, UsageError
from edgeopt.model import Model
from edgeopt.network import make_network
from edgeopt.pruning.groups import Choice, Group, find_groups
from edgeopt.pruning.importance import KIND, Evidence, weigh_channels
from edgeopt.pruning.removal import make_edits, mask_channels
from edgeopt.pruning.saliency import (
    BATCH,
    SAMPLES,
    measure_activations,
    score_weights,
    weigh_gradients,
    weigh_magnitude,
)
from edgeopt.pruning.soundness import make_inputs

SILENT = 3
KINDS = registry.names(KIND)
NETWORKS = ["make_plain", "make_mobile", "make_concatenated", "make_grouped", "make_upsampling"]


@pytest.fixture
def network() -> nn.Module:
    """Channel 3 of the first convolution is made like the others and read by nobody."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3)
    )
    with torch.no_grad():
        network[5].weight[:, 4 * SILENT : 4 * SILENT + 4] = 0
    return network.eval()


@pytest.fixture
def group(network: nn.Module) -> Group:
    return find_groups(network, [torch.randn(2, 1, 8, 8)])[0]


def write_samples(folder: Path, count: int, shape: tuple[int, ...] = (1, 8, 8), classes: int = 3) -> Samples:
    generator = np.random.default_rng(0)
    images = generator.normal(0, 1, (count, *shape)).astype(np.float32)
    np.savez(folder / "samples.npz", image=images, labels=np.sort(generator.integers(0, classes, count)))
    return Samples("npz", folder / "samples.npz", ("image",), Preprocess())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("function", NETWORKS)
def test_scores_are_finite_one_for_each_channel_and_of_mean_one(
    kind: str, function: str, architecture: Callable[[str], Model], tmp_path: Path
) -> None:
    model = architecture(function)
    network = make_network(model)
    groups = [group for group in find_groups(network, make_inputs(model.inputs, 2)) if not group.obstacle]
    evidence = Evidence(network, groups, write_samples(tmp_path, 32, (3, 16, 16), 5), seed=1)
    for group, scores in zip(groups, weigh_channels(kind, evidence).scores, strict=True):
        assert scores.shape == (group.size,)
        assert scores.isfinite().all()
        assert (scores >= 0).all()
        assert float(scores.mean()) == pytest.approx(1)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "random"])
@pytest.mark.parametrize("function", ["make_plain", "make_mobile", "make_concatenated", "make_grouped"])
def test_a_channel_whose_weights_are_all_zero_matters_least(
    kind: str, function: str, architecture: Callable[[str], Model], tmp_path: Path
) -> None:
    model = architecture(function)
    network = make_network(model)
    groups = [group for group in find_groups(network, make_inputs(model.inputs, 2)) if not group.obstacle]
    samples = write_samples(tmp_path, 32, (3, 16, 16), 5)
    for number, group in enumerate(groups):
        masked = make_network(model)
        kept = tuple(channel for channel in range(group.size) if channel != SILENT)
        mask_channels(masked, make_edits(network, [Choice(group, kept)]))
        scores = weigh_channels(kind, Evidence(masked, groups, samples)).scores[number]
        assert scores[SILENT] == scores.min() < 0.01, group.name  # others may be as dead


def test_chance_follows_from_the_seed(network: nn.Module, group: Group) -> None:
    one, again, other = (weigh_channels("random", Evidence(network, [group], seed=seed)).scores for seed in (1, 1, 2))
    assert one[0].tolist() == again[0].tolist() != other[0].tolist()


def test_a_channel_that_nobody_reads_has_no_effect_on_the_loss(
    network: nn.Module, group: Group, tmp_path: Path
) -> None:
    for kind in ("taylor", "fisher"):
        (scores,) = weigh_channels(kind, Evidence(network, [group], write_samples(tmp_path, 40))).scores
        assert scores[SILENT] == 0
        assert (scores > 0).sum() == 7


@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_small_weights_matter_least(network: nn.Module, group: Group, kind: str) -> None:
    with torch.no_grad():
        for index in (0, 1):
            network[index].weight[5] *= 0.01
        network[5].weight[:, 20:24] *= 0.01
    (scores,) = weigh_channels(kind, Evidence(network, [group])).scores
    assert scores.argmin() == 5


def test_a_small_factor_of_its_normalization_makes_a_channel_matter_little(network: nn.Module, group: Group) -> None:
    factors = torch.tensor([0.9, -0.1, 0.5, 2.0, 0.7, 0.3, 0.6, 0.8])
    network[1].weight.data = factors
    (scores,) = weigh_channels("bn_scale", Evidence(network, [group])).scores
    torch.testing.assert_close(scores, factors.abs().double() / factors.abs().double().mean())


def test_groups_without_a_normalization_are_weighed_by_the_size_of_weights_and_named(network: nn.Module) -> None:
    bare = nn.Sequential(network[0], nn.ReLU(), *network[3:])
    (group,) = find_groups(bare, [torch.randn(2, 1, 8, 8)])
    weighed = weigh_channels("bn_scale", Evidence(bare, [group]))
    assert weighed.by_l2 == ("0",)
    torch.testing.assert_close(weighed.scores, weigh_channels("l2", Evidence(bare, [group])).scores)
    assert weigh_channels("l2", Evidence(bare, [group])).by_l2 == ()


def test_a_filter_between_the_others_can_be_spared() -> None:
    """He et al.: what lies at the geometric median can be made of the others, however large it is."""
    layers = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    layers[0].weight.data = torch.tensor([10.0, 5.0, 6.0, 1.0]).view(4, 1, 1, 1)
    (group,) = find_groups(layers, [torch.randn(2, 1, 1, 1)])
    (scores,) = weigh_channels("fpgm", Evidence(layers, [group])).scores
    distances = torch.tensor([18.0, 10.0, 10.0, 18.0], dtype=torch.float64)
    torch.testing.assert_close(scores, distances / distances.mean())


def test_activations_are_those_that_the_next_layer_reads(network: nn.Module, tmp_path: Path) -> None:
    samples = write_samples(tmp_path, 40)
    found = measure_activations(network, ["5"], samples)["5"]
    (batch,) = samples.batches(40)
    with torch.inference_mode():
        expected = network[:5](torch.from_numpy(batch.inputs["image"])).abs().mean(0)
    torch.testing.assert_close(found, expected.double(), rtol=1e-5, atol=1e-7)


def test_magnitudes_are_those_of_the_weights() -> None:
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[-3.0, 0.5]])
    assert weigh_magnitude(layer, "l1")["weight"].tolist() == [[3.0, 0.5]]
    assert weigh_magnitude(layer, "l2")["weight"].tolist() == [[9.0, 0.25]]


def test_scores_do_not_hang_on_the_scale_of_a_layer(network: nn.Module, group: Group) -> None:
    scores = score_weights(network, group, weigh_magnitude(network, "l1"))
    with torch.no_grad():
        network[5].weight *= 100
    torch.testing.assert_close(score_weights(network, group, weigh_magnitude(network, "l1")), scores)


def test_the_weights_of_a_dead_layer_give_scores_of_zero_and_no_nan(network: nn.Module, group: Group) -> None:
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    for kind in ("l2", "fpgm", "bn_scale"):
        assert weigh_channels(kind, Evidence(network, [group])).scores[0].tolist() == [0.0] * 8


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
    weigh_gradients(network, write_samples(tmp_path, 3 * SAMPLES), power=1)
    assert len(seen) == SAMPLES
    assert SAMPLES % BATCH == 0
    assert seen[0] == 0
    assert seen[-1] == 3 * SAMPLES - 1
    assert max(np.diff(seen)) <= 4


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_is_left_without_gradients_and_hooks_and_frozen_as_it_was(
    kind: str, network: nn.Module, group: Group, tmp_path: Path
) -> None:
    network.requires_grad_(False).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    weigh_channels(kind, Evidence(network, [group], write_samples(tmp_path, 8)))
    assert network.training
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in network.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_gradients_that_are_not_finite_are_refused(network: nn.Module, group: Group, tmp_path: Path) -> None:
    with torch.no_grad():
        network[0].weight[0] = float("inf")
    with pytest.raises(PassError, match="not finite") as caught:
        weigh_channels("taylor", Evidence(network, [group], write_samples(tmp_path, 8)))
    assert "l2" in caught.value.hint
    with pytest.raises(PassError, match="the `l1` importance of the channels of `0` is not finite"):
        weigh_channels("l1", Evidence(network, [group]))


def test_an_unknown_kind_is_refused_with_the_closest_name(network: nn.Module, group: Group) -> None:
    with pytest.raises(UsageError) as caught:
        weigh_channels("tailor", Evidence(network, [group]))
    assert "`taylor`" in caught.value.hint
