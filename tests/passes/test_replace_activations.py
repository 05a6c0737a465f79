"""Activations are replaced where that is a gain on the target, and the network stays as it was where it is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from edgeopt.context import Context, Timer
from edgeopt.model import Model, load_model
from edgeopt.network import make_network
from edgeopt.passes import PassResult
from edgeopt.passes.replace_activations import ReplaceActivations
from edgeopt.workers import ignore_progress


def replace(model: Model, folder: Path, clock: str = "", **options: Any) -> PassResult:
    timer = Timer(f"tests.passes.stopwatch:{clock}", "onnxruntime_cpu", 1, 1) if clock else None
    options = {"on": "onnxruntime_cpu/int8" if clock else None} | options
    return ReplaceActivations(**options)(model, Context(folder=folder, progress=ignore_progress, timer=timer))


def kinds(model: Model) -> set[str]:
    return {type(module).__name__ for module in make_network(model).modules()}


@pytest.fixture
def mobile(architecture: Callable[[str], Model]) -> Model:
    return architecture("make_mobile")


def test_what_is_read_back_has_other_activations_and_the_same_weights(mobile: Model, tmp_path: Path) -> None:
    result = replace(mobile, tmp_path)
    assert load_model(tmp_path, mobile.sources) == result.model
    assert result.changed
    assert kinds(result.model) & {"Hardswish", "Sigmoid"} == set()
    assert "Hardsigmoid" in kinds(result.model)
    given, made = make_network(mobile).state_dict(), make_network(result.model).state_dict()
    assert all(torch.equal(made[name], tensor) for name, tensor in given.items())
    assert result.facts["summary"] == "5 Hardswish → ReLU, 2 Sigmoid → Hardsigmoid"
    assert result.facts["gain"] == "not measured: `on` names no candidate"


@pytest.mark.parametrize("to", ["relu", "relu6", "leaky_relu"])
def test_the_kind_that_is_asked_for_is_put_in(mobile: Model, to: str, tmp_path: Path) -> None:
    put = {kind.__name__.lower() for kind in (nn.ReLU, nn.ReLU6, nn.LeakyReLU)} & {
        name.lower() for name in kinds(replace(mobile, tmp_path, to=to, which=["Hardswish"]).model)
    }
    assert to.replace("_", "") in put


def test_what_gains_is_kept_and_told(mobile: Model, tmp_path: Path) -> None:
    result = replace(mobile, tmp_path, "time_by_weights")
    assert result.changed
    assert str(result.facts["gain"]).endswith("× the time on onnxruntime_cpu/int8")
    assert float(result.facts["time_share"]) < 0.97


def test_what_gains_nothing_is_taken_back_and_told(mobile: Model, tmp_path: Path) -> None:
    result = replace(mobile, tmp_path, "time_alike")
    assert not result.changed
    assert result.model.digest() == mobile.digest()
    assert result.facts["gain"] == "no gain on onnxruntime_cpu/int8: 1.00× the time"
    assert str(result.facts["summary"]).startswith("no gain on onnxruntime_cpu/int8: 1.00× the time; left as it was")


def test_what_gains_nothing_is_kept_where_that_is_asked(mobile: Model, tmp_path: Path) -> None:
    result = replace(mobile, tmp_path, "time_alike", keep_without_gain=True)
    assert result.changed
    assert "Hardswish" not in kinds(result.model)
    assert str(result.facts["summary"]).endswith("; no gain on onnxruntime_cpu/int8: 1.00× the time")


def test_a_network_without_costly_activations_says_so(torch_model: Model, tmp_path: Path) -> None:
    result = replace(torch_model, tmp_path)
    assert not result.changed
    assert result.facts["summary"] == "no such activation to replace"


def test_calls_that_cannot_be_replaced_are_named(architecture: Callable[[str], Model], tmp_path: Path) -> None:
    result = replace(architecture("reparameterized.py:make_shortcuts"), tmp_path)
    assert not result.changed
    assert result.facts["left"] == "sigmoid in `the network`: called as a function"


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValidationError, match="which"):
        ReplaceActivations(which=["Softmax"])
