"""Settings are changed only where they are faster beyond doubt, and by what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from edgeopt import tuning
from edgeopt.backends import build_artifact
from edgeopt.backends.onnxruntime_cpu import OnnxruntimeCpu
from edgeopt.context import Context
from edgeopt.model import Artifact, Model
from edgeopt.tuning import OWN, choose, tune
from edgeopt.validation.latency import Ratio
from edgeopt.validation.latency_samples import Protocol
from edgeopt.workers import ignore_progress

IMAGES = {"image": np.random.default_rng(0).standard_normal((1, 1, 16, 16)).astype(np.float32)}


def ratio(value: float | None, low: float | None, high: float | None) -> Ratio:
    return Ratio(value, low, high, 10)


@pytest.mark.parametrize(
    ("ratios", "chosen"),
    [
        ({}, OWN),
        ({"a": ratio(0.9, 0.85, 1.01)}, OWN),
        ({"a": ratio(0.9, 0.85, 1.0)}, OWN),
        ({"a": ratio(0.9, 0.85, 0.99)}, "a"),
        ({"a": ratio(0.9, 0.85, 0.99), "b": ratio(0.8, 0.6, 0.98), "c": ratio(0.7, 0.5, 1.2)}, "b"),
        ({"a": ratio(0.5, None, None)}, OWN),
        ({"a": ratio(None, None, None)}, OWN),
    ],
)
def test_the_fastest_of_those_that_are_faster_beyond_doubt_is_chosen(ratios: dict[str, Ratio], chosen: str) -> None:
    assert choose(ratios) == chosen


@pytest.fixture
def artifact(onnx_model: Model, tmp_path: Path) -> Artifact:
    return build_artifact("onnxruntime_cpu", onnx_model, Context(folder=tmp_path, target="here", threads=1))


def test_what_cannot_be_timed_is_told_and_left_out(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    def alternatives(self: OnnxruntimeCpu, built: Artifact) -> Mapping[str, Artifact]:
        slow = {"graph": "none", "spinning": "run"}
        return {
            "slow": built.model_copy(update={"settings": built.settings | slow}),
            "broken": built.model_copy(update={"settings": built.settings | {"graph": "sideways"}}),
        }

    monkeypatch.setattr(OnnxruntimeCpu, "alternatives", alternatives)
    monkeypatch.setattr(tuning, "SETS", 2)
    choice = tune(artifact, [IMAGES], Protocol(looks=(2,), blocks=2), ignore_progress)
    assert choice.artifact == artifact
    assert choice.name == OWN
    assert set(choice.ratios) == {"slow"}
    assert "broken" in choice.failed
    facts = choice.facts()
    assert facts["summary"] == "as built: none of 2 is faster beyond doubt"
    assert str(facts["broken"]).startswith("failed: ")


def test_a_backend_without_alternatives_leaves_everything_as_it_is(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnnxruntimeCpu, "alternatives", lambda self, built: {})
    choice = tune(artifact, [IMAGES], Protocol(), ignore_progress)
    assert (choice.artifact, choice.facts()) == (artifact, {"summary": "nothing to choose from"})
