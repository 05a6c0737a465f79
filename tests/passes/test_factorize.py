"""A factored network is smaller where it was asked to be, is read back from its files, and stays whole without gain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgeopt.backends.onnxruntime_cpu import OnnxruntimeCpu
from edgeopt.context import Context, Timer
from edgeopt.data import Samples
from edgeopt.errors import PassError
from edgeopt.model import Model, load_model
from edgeopt.network import count_macs, make_network
from edgeopt.passes import PassResult
from edgeopt.passes.factorize import Factorize
from edgeopt.passes.prune_channels import PruneChannels
from edgeopt.passes.prune_weights import PruneWeights
from edgeopt.reshaping.verdict import random_inputs
from edgeopt.workers import ignore_progress

Architecture = Callable[[str], Model]


def factorize(model: Model, folder: Path, clock: str = "", **options: Any) -> PassResult:
    timer = Timer(f"tests.passes.stopwatch:{clock}", "onnxruntime_cpu", 1, 1) if clock else None
    lent = {name: options.pop(name) for name in ("calibration", "training", "profile") if name in options}
    context = Context(folder=folder, progress=ignore_progress, timer=timer, **lent)
    return Factorize(**{"round_to": 1, "on": "onnxruntime_cpu/fp32" if clock else None} | options)(model, context)


def factored(result: PassResult) -> list[str]:
    return [name.removeprefix("layer ") for name in result.facts if name.startswith("layer ")]


@pytest.mark.parametrize("name", ["plain", "option_a", "mobile", "grouped", "two_inputs", "concatenated"])
def test_what_is_read_back_needs_fewer_operations_and_runs(
    architecture: Architecture, name: str, tmp_path: Path
) -> None:
    model = architecture(f"make_{name}")
    result = factorize(model, tmp_path, energy=0.6)
    assert load_model(tmp_path, model.sources) == result.model
    read_back, inputs = make_network(result.model), random_inputs(model.inputs, 7, 3)
    assert count_macs(read_back, inputs) < 0.9 * count_macs(make_network(model), inputs)
    assert len(factored(result)) == result.facts["layers_factored"] > 0
    assert all(str(result.facts[f"layer {name}"]).endswith("× the operations") for name in factored(result))
    for each in factored(result):
        assert isinstance(read_back.get_submodule(each), nn.Sequential)


def test_all_energy_kept_is_the_same_network(architecture: Architecture, tmp_path: Path) -> None:
    """Only a layer whose full rank is small against its sides saves operations then."""
    model = architecture("make_upsampling")
    result = factorize(model, tmp_path, energy=1.0)
    inputs = random_inputs(model.inputs, 7, 3)
    with torch.inference_mode():
        made, given = make_network(result.model)(*inputs), make_network(model)(*inputs)
    torch.testing.assert_close(made, given, rtol=1e-4, atol=1e-4)


def test_samples_are_asked_where_there_are_any(
    torch_model: Model, make_samples: Callable[..., Samples], tmp_path: Path
) -> None:
    samples = make_samples(torch_model, "some", labelled=False)
    seeing = factorize(torch_model, tmp_path / "seeing", calibration=samples)
    trained = factorize(torch_model, tmp_path / "trained", training=samples)
    blind = factorize(torch_model, tmp_path / "blind", calibration=samples, weigh="weights")
    bare = factorize(torch_model, tmp_path / "bare")
    assert seeing.model.digest() == trained.model.digest() != blind.model.digest()
    assert blind.model.digest() == bare.model.digest()


def test_ignored_modules_stay_whole(torch_model: Model, tmp_path: Path) -> None:
    whole = factored(factorize(torch_model, tmp_path / "all", energy=0.6))
    below = {name.partition(".")[0] for name in whole}
    result = factorize(torch_model, tmp_path / "some", energy=0.6, ignore=sorted(below)[:1])
    assert set(factored(result)) == {name for name in whole if not name.startswith(sorted(below)[0])}


def test_zeros_that_are_to_stay_are_not_factored_away(torch_model: Model, tmp_path: Path) -> None:
    context = Context(folder=tmp_path / "sparse", progress=ignore_progress)
    sparse = PruneWeights(sparsity=0.5, keep_without_gain=True)(torch_model, context)
    result = factorize(sparse.model, tmp_path / "factored")
    assert not result.changed
    assert "has zeros that are to stay" in result.facts.values()


def test_a_name_to_ignore_that_the_network_has_not_is_refused(torch_model: Model, tmp_path: Path) -> None:
    with pytest.raises(PassError, match="no module `steam` to ignore") as caught:
        factorize(torch_model, tmp_path, ignore=["steam"])
    assert "stem" in caught.value.hint


@pytest.mark.parametrize("profile", [None, OnnxruntimeCpu().profile()])
def test_layers_that_are_faster_as_two_are_replaced(architecture: Architecture, profile: Any, tmp_path: Path) -> None:
    result = factorize(architecture("make_plain"), tmp_path, "time_by_weights", energy=0.6, profile=profile)
    assert result.changed
    assert 0 < float(result.facts["time_share"]) < 0.97
    assert str(result.facts["gain"]).endswith("× the time on onnxruntime_cpu/fp32")
    assert str(result.facts["gain"]) in str(result.facts["summary"])
    assert all(str(result.facts[f"layer {name}"]).endswith("× the time") for name in factored(result))


def test_layers_that_are_no_faster_as_two_stay(architecture: Architecture, tmp_path: Path) -> None:
    model = architecture("make_plain")
    result = factorize(model, tmp_path, "time_alike", energy=0.6)
    assert not result.changed
    assert result.model.digest() == model.digest()
    assert "1.00× the time at" in str(result.facts["left 3"])
    assert result.facts["summary"] == "no gain on onnxruntime_cpu/fp32: no layer is faster as two"


@pytest.mark.parametrize("profile", [None, OnnxruntimeCpu().profile()])
def test_a_goal_of_latency_is_met_by_the_clock_at_the_least_loss(
    architecture: Architecture, make_samples: Callable[..., Samples], profile: Any, tmp_path: Path
) -> None:
    model = architecture("make_plain")
    lent = {"calibration": make_samples(model, "some"), "profile": profile}
    measured, lost = [], []
    for share in (0.8, 0.6):
        result = factorize(model, tmp_path / str(share), "time_by_weights", latency=share, **lent)
        assert load_model(tmp_path / str(share), model.sources) == result.model
        assert result.changed
        measured.append(float(result.facts["measured"]))
        lost.append(float(result.facts["divergence"]))
        assert measured[-1] <= share
        assert set(factored(result)) | {
            name.removeprefix("left ") for name in result.facts if name.startswith("left ")
        } >= {"0", "3"}
    assert measured[0] > measured[1]
    assert lost[0] < lost[1]


def test_a_goal_that_factors_cannot_meet_says_how_far_they_get(
    architecture: Architecture, make_samples: Callable[..., Samples], tmp_path: Path
) -> None:
    model = architecture("make_plain")
    with pytest.raises(PassError, match=r"the goal of 0\.01 of .* cannot be met by factoring .*: 0\.\d\d is the least"):
        factorize(model, tmp_path, "time_by_weights", latency=0.01, calibration=make_samples(model, "some"))
    with pytest.raises(PassError, match=r"1\.00 is the least"):
        factorize(model, tmp_path, "time_alike", latency=0.9, calibration=make_samples(model, "some"))


def test_a_goal_of_latency_for_a_network_without_layers_to_factor_says_so(
    architecture: Architecture, make_samples: Callable[..., Samples], tmp_path: Path
) -> None:
    model = architecture("make_linear")
    with pytest.raises(PassError, match="no layer of the network can become two: `1` is ignored") as caught:
        factorize(
            model, tmp_path, "time_by_weights", latency=0.9, ignore=["1"], calibration=make_samples(model, "some")
        )
    assert "take `factorize` out" in caught.value.hint


def test_a_goal_of_latency_needs_samples(torch_model: Model, tmp_path: Path) -> None:
    with pytest.raises(PassError, match="the recipe has none") as caught:
        factorize(torch_model, tmp_path, "time_by_weights", latency=0.7)
    assert "`energy`" in caught.value.hint


@pytest.mark.parametrize(
    ("beside", "words"),
    [({"energy": 0.9}, "one of `energy` and"), ({"keep_without_gain": True}, "no `keep_without_gain` beside")],
)
def test_aims_that_do_not_go_together_are_refused(beside: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Factorize.model_validate({"latency": 0.5, "on": "a/b", **beside})


@pytest.mark.parametrize(
    ("options", "clock"),
    [({}, None), ({"on": "a/b"}, "a/b"), ({"latency": 0.5}, ""), ({"latency": 0.5, "on": "a/b"}, "a/b")],
)
def test_a_goal_of_latency_goes_by_a_clock_whether_or_not_one_is_named(
    options: dict[str, Any], clock: str | None
) -> None:
    step = Factorize.model_validate(options)
    assert step.clocked_by() == clock
    assert ("timer" in step.lent()) == (clock is not None)


def test_a_goal_of_latency_says_of_a_layer_that_cannot_become_two_why(
    architecture: Architecture, make_samples: Callable[..., Samples], tmp_path: Path
) -> None:
    model = architecture("reparameterized.py:make_curious")
    result = factorize(model, tmp_path, "time_by_weights", latency=0.8, calibration=make_samples(model, "some"))
    assert "does not run with two layers there: AttributeError" in str(result.facts["left block.point.0"])


def test_a_network_whose_layers_need_all_they_have_says_so(torch_model: Model, tmp_path: Path) -> None:
    result = factorize(torch_model, tmp_path, energy=1.0, weigh="weights")
    assert not result.changed
    assert result.facts["summary"] == "no layer saves operations where 1 of what it makes is kept"


def test_layers_whose_attributes_are_read_stay_whole(architecture: Architecture, tmp_path: Path) -> None:
    result = factorize(architecture("reparameterized.py:make_curious"), tmp_path, energy=0.5)
    assert "does not run with two layers there: AttributeError" in str(result.facts["left block.point.0"])
    assert result.changed


def test_layers_that_share_a_weight_stay_whole(architecture: Architecture, tmp_path: Path) -> None:
    facts = factorize(architecture("make_tied"), tmp_path, energy=0.5).facts
    assert [facts[f"left {name}"] for name in ("1", "3")] == ["shares its weight, or has it from elsewhere"] * 2


def test_layers_that_cannot_be_factored_are_named_with_the_reason(architecture: Architecture, tmp_path: Path) -> None:
    grouped = factorize(architecture("make_grouped"), tmp_path / "grouped", energy=0.5, ignore=["0"]).facts
    assert (grouped["left 0"], grouped["left 3"]) == ("is ignored", "is in groups")
    upsampling = factorize(architecture("make_upsampling"), tmp_path / "upsampling", energy=0.5).facts
    assert upsampling["left 2"] == "is a ConvTranspose2d"


def test_a_factored_network_can_be_pruned(
    architecture: Architecture, make_samples: Callable[..., Samples], tmp_path: Path
) -> None:
    once = factorize(architecture("make_plain"), tmp_path / "once", energy=0.7).model
    training = make_samples(once, "some")
    pruned = PruneChannels(ratio=0.5, importance="l2", round_to=4, min_channels=4)(
        once, Context(folder=tmp_path / "twice", progress=ignore_progress, training=training)
    )
    inputs = random_inputs(once.inputs, 0)
    assert count_macs(make_network(pruned.model), inputs) < 0.7 * count_macs(make_network(once), inputs)


def test_a_network_without_layers_to_factor_says_so(architecture: Architecture, tmp_path: Path) -> None:
    result = factorize(architecture("make_linear"), tmp_path, ignore=["1"])
    assert not result.changed
    assert result.facts["summary"] == "no convolution or linear layer to factor"
