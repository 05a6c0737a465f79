"""Pruning in rounds: the goal is the same, what was killed goes on as it was, and what was left to do is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeopt import environment
from edgeopt.backends.onnxruntime_cpu import OnnxruntimeCpu
from edgeopt.clock import finish_blindly, make_clock
from edgeopt.context import Checkpoints, Context, Memo, Timer
from edgeopt.data import Samples
from edgeopt.errors import PassError
from edgeopt.exporting import export_graph
from edgeopt.model import Model, TorchValue, load_model
from edgeopt.network import call_factory, count_macs, make_network, write_network
from edgeopt.onnx_graph import serialize
from edgeopt.passes.prune_channels import PruneChannels
from edgeopt.pruning.soundness import make_inputs
from edgeopt.workers import ignore_progress

MakeSamples = Callable[..., Samples]
TUNED = {"rounds": 2, "tune": {"epochs": 2, "batch": 16}, "importance": "l2", "round_to": 1, "min_channels": 2}


class Killed(BaseException):
    """What ends a process comes from outside, and no code of ours catches it."""


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "cpu_cores", lambda: 1)


@pytest.fixture
def context(torch_model: Model, make_samples: MakeSamples, tmp_path: Path) -> Context:
    return Context(
        folder=tmp_path / "pruned", training=make_samples(torch_model, "training"), original=torch_model,
        calibration=make_samples(torch_model, "calibration"), progress=ignore_progress,
    )  # fmt: skip


def prune(model: Model, context: Context, folder: str, **options: Any) -> Model:
    step = PruneChannels.model_validate({"importance": "l2", "round_to": 1, "min_channels": 2} | options)
    return step(model, replace(context, folder=context.folder.parent / folder)).model


def edits_of(model: Model) -> Any:
    assert isinstance(model.value, TorchValue)
    return model.value.edits


def widths(model: Model) -> list[int]:
    return [module.out_channels for module in make_network(model).modules() if isinstance(module, torch.nn.Conv2d)]


@pytest.mark.parametrize("rounds", [2, 3])
def test_a_ratio_is_that_of_the_network_as_given_in_however_many_rounds(
    rounds: int, torch_model: Model, context: Context
) -> None:
    once = prune(torch_model, context, "once", ratio=0.5, round_to=4)
    often = prune(torch_model, context, "often", ratio=0.5, round_to=4, rounds=rounds)
    assert widths(once) == widths(often)
    assert len(edits_of(often)) > len(edits_of(once))


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_a_goal_is_met_by_the_last_round_and_the_edits_replay_in_order(
    rounds: int, torch_model: Model, context: Context
) -> None:
    pruned = prune(torch_model, context, "pruned", goal={"macs": 0.4}, rounds=rounds)
    read_back = make_network(load_model(context.folder.parent / "pruned", torch_model.sources))
    inputs = make_inputs(torch_model.inputs, 1)
    share = count_macs(read_back, inputs) / count_macs(make_network(torch_model), inputs)
    assert 0.33 < share <= 0.4
    assert pruned.digest() == load_model(context.folder.parent / "pruned", torch_model.sources).digest()
    assert not [path for path in (context.folder.parent / "pruned").iterdir() if path.is_dir()]


def test_training_between_the_rounds_changes_the_weights_and_none_follows_the_last(
    torch_model: Model, context: Context
) -> None:
    seen: list[str] = []
    told = replace(context, progress=lambda text, fraction: seen.append(text))
    tuned = prune(torch_model, told, "tuned", ratio=0.5, **TUNED)
    plain = prune(torch_model, context, "plain", ratio=0.5, rounds=2)
    assert widths(tuned) == widths(plain)
    assert tuned.path.read_bytes() != plain.path.read_bytes()
    trained = [at for at, text in enumerate(seen) if "epoch" in text]
    assert trained
    assert all(seen[at].startswith("round 1 of 2") for at in trained)


@pytest.mark.parametrize("moment", ["round 1 of 2: epoch 2", "round 2 of 2: weighing", "round 1 of 2: trying"])
@pytest.mark.parametrize("aim", [{"ratio": 0.5}, {"goal": {"macs": 0.4}}])
def test_killed_at_any_moment_it_goes_on_to_the_same_weights(
    moment: str, aim: dict[str, Any], torch_model: Model, context: Context
) -> None:
    if "ratio" in aim and "trying" in moment:
        pytest.skip("a ratio tries nothing")
    whole = prune(torch_model, context, "whole", **(TUNED | aim))
    kept = replace(context, checkpoints=Checkpoints(context.folder.parent / "checkpoints"))

    def kill(text: str, fraction: float | None) -> None:
        if text.startswith(moment):
            raise Killed

    with pytest.raises(Killed):
        prune(torch_model, replace(kept, progress=kill), "killed", **(TUNED | aim))
    again = prune(torch_model, kept, "again", **(TUNED | aim))
    assert again.path.read_bytes() == whole.path.read_bytes()
    assert edits_of(again) == edits_of(whole)


def test_a_round_that_was_finished_is_not_chosen_anew(torch_model: Model, context: Context) -> None:
    """By the clock another choice may look better the next time, and the weights that were trained fit the first."""
    kept = replace(context, checkpoints=Checkpoints(context.folder.parent / "checkpoints"))
    seen: list[str] = []

    def watch(text: str, fraction: float | None) -> None:
        seen.append(text)
        if text.startswith("round 2 of 2: weighing") and seen.count(text) == 1:
            raise Killed

    watched = replace(kept, progress=watch)
    with pytest.raises(Killed):
        prune(torch_model, watched, "killed", ratio=0.5, **TUNED)
    prune(torch_model, watched, "again", ratio=0.5, **TUNED)
    assert len([text for text in seen if text.startswith("round 1 of 2: weighing")]) == 1
    assert len([text for text in seen if text.startswith("round 1 of 2: epoch 1")]) == len(
        [text for text in seen if text.startswith("round 1 of 2: epoch 2")]
    )


def test_statistics_are_found_again_where_that_is_asked_for(torch_model: Model, context: Context) -> None:
    plain = make_network(prune(torch_model, context, "plain", ratio=0.5))
    found = make_network(prune(torch_model, context, "found", ratio=0.5, reestimate_bn=True))
    differing = [name for name, tensor in plain.state_dict().items() if not tensor.equal(found.state_dict()[name])]
    assert differing
    assert all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in differing)


def test_without_training_data_it_prunes_only_where_statistics_are_found_again_and_warns(
    torch_model: Model, context: Context
) -> None:
    bare = replace(context, training=None)
    with pytest.raises(PassError, match="needs training"):
        prune(torch_model, bare, "refused", ratio=0.5)
    facts = PruneChannels(ratio=0.5, importance="l2", reestimate_bn=True)(torch_model, bare).facts
    assert "without training data" in str(facts["warning"])
    facts = PruneChannels(ratio=0.5, importance="l2")(torch_model, replace(context, folder=context.folder / "b")).facts
    assert "warning" not in facts


def test_statistics_cannot_be_found_without_any_samples(torch_model: Model, context: Context) -> None:
    with pytest.raises(PassError, match="`reestimate_bn` needs samples"):
        prune(torch_model, replace(context, training=None, calibration=None), "none", ratio=0.5, reestimate_bn=True)


@pytest.mark.parametrize("aim", [{"ratio": 0.8}, {"goal": {"macs": 0.45}}, {"ratio": 0.8, "scope": "global"}])
def test_no_group_loses_more_than_the_ratio_of_its_module(
    aim: dict[str, Any], torch_model: Model, context: Context
) -> None:
    limits = {"default": 0.9, "blocks.0": 0.25, "blocks.0.conv2": 0.5}
    network = make_network(prune(torch_model, context, "limited", max_ratio=limits, **aim))
    whole = make_network(torch_model)
    assert network.blocks[0].conv1.out_channels >= 0.75 * whole.blocks[0].conv1.out_channels
    assert network.stem[0].out_channels >= 0.5 * whole.stem[0].out_channels  # a sum ties it to blocks.0.conv2
    assert network.blocks[1].conv1.out_channels < 0.75 * whole.blocks[1].conv1.out_channels


def test_a_ratio_for_a_module_that_is_not_there_is_refused(torch_model: Model, context: Context) -> None:
    with pytest.raises(PassError, match="no module `block` to limit") as caught:
        prune(torch_model, context, "refused", ratio=0.5, max_ratio={"block": 0.5})
    assert "`blocks`" in caught.value.hint


def test_each_group_is_told_with_its_channels_what_they_bought_and_its_curve(
    torch_model: Model, context: Context
) -> None:
    options = {"importance": "l2", "round_to": 1, "min_channels": 2, "drop_blocks": False}
    step = PruneChannels.model_validate({"goal": {"macs": 0.5}} | options)
    facts = step(torch_model, context).facts
    columns = str(facts["group"]).split(" · ")
    assert columns[:2] == ["channels", "MACs saved alone"]
    rows = {name: str(value).split(" · ") for name, value in facts.items() if name.startswith("group ")}
    assert len(rows) == 4
    network = make_network(load_model(context.folder, torch_model.sources))
    assert rows["group stem.0"][0] == f"16 → {network.stem[0].out_channels}"
    assert all(len(row) == len(columns) for row in rows.values())
    assert all(len(row[2].split()) == 5 for row in rows.values())
    assert sum(float(row[1].removesuffix(" %")) for row in rows.values()) > 0


def test_groups_are_tried_after_training_where_that_is_asked_for(torch_model: Model, context: Context) -> None:
    """The rows are then at the shares that were tried, and losses are smaller than they were before training."""
    options = {"goal": {"macs": 0.5}, "importance": "l2", "round_to": 1, "min_channels": 2}
    curves, losses = dict[int, list[list[float]]](), dict[int, float]()
    for steps in (0, 30):
        own = replace(context, folder=context.folder / str(steps))
        facts = PruneChannels.model_validate(options | {"retrain": steps})(torch_model, own).facts
        rows = [str(value).split(" · ")[2].split() for name, value in facts.items() if name.startswith("group ")]
        curves[steps] = [[float(loss) for loss in row] for row in rows if len(row) > 1]
        losses[steps] = sum(row[-1] for row in curves[steps])
        assert ("without 25, 50, 75, 88 %" in str(facts["group"])) == bool(steps)
    assert {len(row) for row in curves[0]} == {5}
    assert {len(row) for row in curves[30]} == {4}
    assert losses[30] < losses[0]


def test_branches_and_the_channels_in_them_are_told_as_gone_whichever_round_took_them(
    torch_model: Model, context: Context
) -> None:
    options = {"goal": {"macs": 0.05}, "importance": "l2", "round_to": 1, "min_channels": 2, "rounds": 3}
    result = PruneChannels.model_validate(options)(torch_model, context)
    dropped = [edit.module for edit in edits_of(result.model) if edit.kind == "drop_branch"]
    assert dropped
    assert result.facts["blocks_dropped"] == ", ".join(sorted(dropped))
    whole, network = make_network(torch_model), make_network(result.model)
    for block in dropped:
        assert str(result.facts[f"group {block}"]).startswith("branch dropped")
        inner = whole.get_submodule(block).conv1.out_channels
        assert str(result.facts[f"group {block}.conv1"]).startswith(f"{inner} → 0 ")
    stem = f"{whole.stem[0].out_channels} → {network.stem[0].out_channels} "
    assert str(result.facts["group stem.0"]).startswith(stem)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ratio": 0.5, "importance": "tailor"}, "did you mean `taylor`"),
        ({"ratio": 0.5, "tune": {}}, "`rounds` of 2 or more"),
        ({"ratio": 0.95}, "`max_ratio`"),
        ({"ratio": 0.5, "retrain": 50}, "`retrain` beside a `goal`"),
        ({"goal": {"macs": 0.5}, "on": "onnxruntime_cpu/int8"}, "latency or bytes"),
        ({"goal": {"latency_ms": 0}}, "greater than 0"),
        ({"ratio": 0.5, "rounds": 2, "tune": {"epochs": 0}}, "greater than or equal to 1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="1 validation error") as caught:
        PruneChannels.model_validate(options)
    assert words in str(caught.value)


def test_a_goal_of_bytes_is_met_by_the_file_at_the_precision_of_the_target(
    torch_model: Model, context: Context
) -> None:
    sizes = {}
    for name, profile in (("float", None), ("half", None), ("integers", OnnxruntimeCpu().profile())):
        half = name == "half"
        lent = replace(context, profile=profile, half=half, folder=context.folder.parent / name)
        step = PruneChannels.model_validate({"goal": {"bytes": 0.6}, "importance": "l2", "round_to": 1})
        result = step(torch_model, lent)
        graphs = [export_graph(make_network(model), model) for model in (torch_model, result.model)]
        before, after = (len(serialize(finish_blindly(graph, profile, half=half))) for graph in graphs)
        assert 0.5 < after / before <= 0.6
        assert result.facts["measured"] == pytest.approx(after / before, abs=1e-4)
        sizes[name] = before
    assert sizes["integers"] < sizes["half"] < 0.6 * sizes["float"]


@pytest.mark.slow
def test_a_goal_in_milliseconds_is_met_by_the_clock_of_the_target(
    torch_model: Model, context: Context, tmp_path: Path
) -> None:
    assert isinstance(torch_model.value, TorchValue)
    value = torch_model.value.model_copy(update={"options": {"width": 64}})
    network = call_factory(torch_model.sources, value.factory, value.options)
    (tmp_path / "wide").mkdir()
    wide = write_network(network, torch_model.model_copy(update={"value": value}), tmp_path / "wide")
    timer = Timer("edgeopt.validation.ranking:time_models", "onnxruntime_cpu", 1, 1)
    timed = replace(context, timer=timer, memo=Memo(tmp_path / "memos", "data"))
    (whole,) = make_clock(timed).time([export_graph(make_network(wide), wide)])
    facts = PruneChannels.model_validate({"goal": {"latency_ms": 0.7 * whole}, "importance": "l2"})(wide, timed).facts
    assert float(facts["measured"]) < 0.85  # of a whole that is timed anew, on a machine that others share
    easy = PruneChannels.model_validate({"goal": {"latency_ms": 50 * whole}, "importance": "l2"})
    result = easy(wide, replace(timed, folder=tmp_path / "easy"))
    assert not result.changed
    assert "the goal is met with all of its channels" in str(result.facts["left_whole"])
