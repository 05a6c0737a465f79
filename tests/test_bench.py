from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgeopt import bench
from edgeopt.cli import cli
from edgeopt.model import Artifact, TensorSpec
from edgeopt.validation.latency import Ratio

FOUND = {
    "a": {"path": "a.onnx", "p50_ms": 2.0, "p90_ms": 2.5},
    "b": {"path": "b.onnx", "p50_ms": 1.0, "p90_ms": 1.5},
    "ratio": {"value": 0.5, "low": 0.45, "high": 0.55, "confidence": 0.95},
    "sets": 10,
    "sentence": "B is faster",
    "note": "",
    "machine": {},
}


def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, found: dict[str, Any], *options: str) -> str:
    monkeypatch.setattr(bench, "compare_files", lambda *paths, **options: found)
    result = CliRunner().invoke(cli, ["bench", str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx"), *options])
    assert result.exit_code == 0, result.output
    return result.output


def test_both_sides_and_their_ratio_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = told(monkeypatch, tmp_path, FOUND)
    assert "A      2.000 ms p50      2.500 ms p90  a.onnx" in text
    assert text.endswith("B ÷ A = 0.500 [0.450, 0.550] at 95 % confidence: B is faster\n")
    assert json.loads(told(monkeypatch, tmp_path, FOUND, "--json")) == FOUND


def test_where_every_set_was_throttled_the_note_is_told_in_place_of_figures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nothing = {"path": "a.onnx", "p50_ms": None, "p90_ms": None}
    ratio = {"value": None, "low": None, "high": None, "confidence": 0.95}
    held = "the machine held the processes back in 6 of 6 sets"
    text = told(monkeypatch, tmp_path, FOUND | {"a": nothing, "b": nothing, "ratio": ratio, "sentence": held})
    assert "A          - ms p50          - ms p90  a.onnx" in text
    assert text.endswith(f"B ÷ A = -: {held}\n")


def test_waiting_for_a_core_is_told_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert told(monkeypatch, tmp_path, FOUND | {"note": "the machine was shared"}).endswith("the machine was shared\n")


@pytest.mark.parametrize(
    ("ratio", "sentence"),
    [
        (Ratio(None, None, None, 0, "held back in 6 of 6 sets"), "held back in 6 of 6 sets"),
        (Ratio(1.2, 1.1, 1.3, 10), "B is slower"),
        (Ratio(0.8, 0.7, 0.9, 10), "B is faster"),
        (Ratio(1.0, 0.9, 1.1, 10), "no difference could be shown"),
    ],
)
def test_the_sentence_is_the_verdict_or_why_there_is_none(ratio: Ratio, sentence: str) -> None:
    assert bench._sentence(ratio) == sentence


@pytest.mark.parametrize("packed", [False, True])
def test_a_bundle_is_opened_for_the_threads_and_batch_that_were_asked_for(
    packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = TensorSpec(name="image", shape=("batch", 3))
    built = Artifact(
        target="x86", backend="onnxruntime_cpu", files=(), inputs=(spec,), outputs=(spec,),
        settings={"threads": 1, "batch": 8, "more": "kept"},
    )  # fmt: skip

    class Bundle:
        artifact = built

    monkeypatch.setattr(bench, "load_bundle", lambda path: Bundle)
    monkeypatch.setattr(bench, "unpack_bundle", lambda path, folder: Bundle)
    path = tmp_path / "digits.edgeopt"
    path.touch() if packed else path.mkdir()
    artifact = bench._artifact(path, tmp_path / "a", "onnxruntime_cpu", 4, 2)
    assert artifact.settings == {"threads": 4, "batch": 2, "more": "kept"}
