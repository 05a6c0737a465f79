"""A pruned model is smaller, is read back from its files, and computes what masking computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeopt.context import Context
from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.errors import PassError
from edgeopt.model import Model, TorchValue, load_model
from edgeopt.network import count_macs, make_network, name_outputs
from edgeopt.passes import PassResult
from edgeopt.passes.prune_channels import PruneChannels
from edgeopt.pruning.removal import mask_channels
from edgeopt.pruning.soundness import make_inputs
from edgeopt.workers import ignore_progress

Architecture = Callable[[str], Model]
SOUND = [
    "plain",
    "mobile",
    "concatenated",
    "grouped",
    "upsampling",
    "two_inputs",
    "frozen",
    "option_a",
    "shuffled",
]

#: training samples for what only wants to know that there are some
UNREAD = Samples("npz", Path("unread.npz"), ("image",), Preprocess())


def prune(model: Model, folder: Path, **options: Any) -> PassResult:
    options = {"ratio": 0.5, "importance": "l2", "round_to": 4, "min_channels": 4} | options
    return PruneChannels(**options)(model, Context(folder=folder, progress=ignore_progress, training=UNREAD))


def edits_of(model: Model) -> Any:
    assert isinstance(model.value, TorchValue)
    return model.value.edits


def outputs(network: torch.nn.Module, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    with torch.inference_mode():
        return list(name_outputs(network(*inputs)).values())


@pytest.mark.parametrize("name", SOUND)
def test_what_is_read_back_computes_what_masking_computes(
    architecture: Architecture, name: str, tmp_path: Path
) -> None:
    model = architecture(f"make_{name}")
    result = prune(model, tmp_path)
    read_back = make_network(load_model(tmp_path, model.sources))
    masked = make_network(model)
    mask_channels(masked, edits_of(result.model))
    inputs = make_inputs(model.inputs, 3, seed=7)
    for found, expected in zip(outputs(read_back, inputs), outputs(masked, inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert result.changed
    assert count_macs(read_back, inputs) < 0.6 * count_macs(masked, inputs)


def test_facts_are_those_of_the_files(torch_model: Model, tmp_path: Path) -> None:
    result = prune(torch_model, tmp_path, round_to=8)
    for when, model in (("before", torch_model), ("after", result.model)):
        network = make_network(model)
        assert result.facts[f"parameters_{when}"] == sum(part.numel() for part in network.parameters())
        assert result.facts[f"macs_{when}"] == count_macs(network, make_inputs(model.inputs, 1))
    assert result.facts["groups_pruned"] == 4
    assert result.facts["left_whole"] == ""
    assert result.facts["summary"] == "2.13 → 0.543 MMACs; 4 groups, none left whole"


def test_groups_that_are_left_whole_are_named_with_the_reason(architecture: Architecture, tmp_path: Path) -> None:
    facts = prune(architecture("make_option_a"), tmp_path).facts
    assert facts["summary"] == "4.53 → 2.32 MMACs; 1 group left whole: conv1"
    assert str(facts["left_whole"]).startswith("conv1: the network computes something else")
    assert facts["groups_pruned"] == 4


def test_layers_that_share_a_weight_are_left_whole(architecture: Architecture, tmp_path: Path) -> None:
    """The channels that one of them can spare are not those that the other can."""
    facts = prune(architecture("make_tied"), tmp_path).facts
    assert str(facts["summary"]).endswith("3 groups left whole: 0, 1, 3")
    assert facts["groups_pruned"] == 1


def test_a_network_that_cannot_be_pruned_stays_as_it_is(architecture: Architecture, tmp_path: Path) -> None:
    model = architecture("make_centred")
    result = prune(model, tmp_path)
    assert not result.changed
    assert edits_of(result.model) == ()
    assert result.model.digest() == model.digest()
    assert result.facts["groups_left_whole"] == 1
    assert str(result.facts["warning"]).startswith("nothing was pruned: `conv`: the network computes something else")


def test_long_lists_of_groups_are_cut_in_the_summary_only(architecture: Architecture, tmp_path: Path) -> None:
    facts = prune(architecture("make_mobile"), tmp_path, min_channels=64).facts
    assert str(facts["summary"]).endswith("5 groups left whole: 0.0, 1.expand.0, 1.squeeze.1 and 2 more")
    assert str(facts["left_whole"]).count("rounding keeps all") == 5


def test_channels_are_whole_multiples(architecture: Architecture, tmp_path: Path) -> None:
    network = make_network(prune(architecture("make_mobile"), tmp_path, ratio=0.6, round_to=8).model)
    widths = {module.out_channels for module in network.modules() if isinstance(module, torch.nn.Conv2d)}
    assert widths == {8, 24}


def test_ignored_modules_keep_their_channels(torch_model: Model, tmp_path: Path) -> None:
    result = prune(torch_model, tmp_path, ignore=["stem"], round_to=8)
    assert make_network(result.model).stem[0].out_channels == 16
    assert "`stem.0` is ignored" in str(result.facts["left_whole"])
    assert result.facts["groups_pruned"] == 3


def test_pruning_again_starts_from_the_pruned_network(torch_model: Model, tmp_path: Path) -> None:
    once = prune(torch_model, tmp_path / "once", ratio=0.25).model
    twice = prune(once, tmp_path / "twice", ratio=0.25).model
    assert edits_of(twice)[: len(edits_of(once))] == edits_of(once)
    masked = make_network(once)
    mask_channels(masked, edits_of(twice)[len(edits_of(once)) :])
    inputs = make_inputs(torch_model.inputs, 2)
    torch.testing.assert_close(outputs(make_network(twice), inputs), outputs(masked, inputs), rtol=1e-4, atol=1e-5)
    widths = [make_network(model).stem[0].out_channels for model in (torch_model, once, twice)]
    assert widths == [16, 12, 12]  # 75 % of 12 is 9, which is rounded up


@pytest.mark.parametrize("scope", ["local", "global"])
def test_taylor_takes_the_labels_of_training_or_else_of_calibration(
    torch_model: Model, make_samples: Callable[..., Samples], scope: str, tmp_path: Path
) -> None:
    step = PruneChannels(ratio=0.5, importance="taylor", scope=scope, round_to=4)
    labelled, bare = make_samples(torch_model, "labelled"), make_samples(torch_model, "bare", labelled=False)
    split = {"one": {"training": labelled}, "two": {"calibration": labelled, "training": bare}}
    contexts = [Context(folder=tmp_path / name, progress=ignore_progress, **given) for name, given in split.items()]
    one, two = (step(torch_model, context).model for context in contexts)
    assert one.digest() == two.digest()
    assert edits_of(one) != edits_of(prune(torch_model, tmp_path / "l2").model)


def test_taylor_without_labels_says_what_to_do(
    torch_model: Model, make_samples: Callable[..., Samples], tmp_path: Path
) -> None:
    bare = make_samples(torch_model, "bare", labelled=False)
    for context in (Context(folder=tmp_path / "a"), Context(folder=tmp_path / "b", training=bare)):
        with pytest.raises(PassError, match="needs labels") as caught:
            PruneChannels(ratio=0.5, reestimate_bn=True)(torch_model, context)
        assert "importance: l2" in caught.value.hint


def test_a_goal_for_a_network_without_channels_that_could_go_is_refused_in_one_line(
    architecture: Architecture, tmp_path: Path
) -> None:
    for function, ignored in (("make_linear", []), ("make_plain", ["0", "3", "8"])):
        with pytest.raises(PassError, match="no channels of the network can be pruned") as caught:
            prune(architecture(function), tmp_path, ratio=None, goal={"macs": 0.5}, ignore=ignored)
        assert "\n" not in caught.value.message
        assert "`prune_channels`" in caught.value.hint
