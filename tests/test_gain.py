"""A gain says what was gained, and says so where nothing was."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from edgeopt.clock import Clock
from edgeopt.context import Timer
from edgeopt.exporting import export_graph
from edgeopt.gain import Gain, download_gain, time_gain
from edgeopt.model import Model
from edgeopt.network import make_network


@pytest.mark.parametrize(
    ("gain", "sentence"),
    [
        (Gain("time", 0.714, "openvino_cpu"), "0.71× the time on openvino_cpu"),
        (Gain("time", 1.02, "onnxruntime_cpu/int8"), "no gain on onnxruntime_cpu/int8: 1.02× the time"),
        (Gain("time", 0.98, "onnxruntime_cpu"), "no gain on onnxruntime_cpu: 0.98× the time"),
        (Gain("download", 0.25), "0.25× the download"),
        (Gain("download", 1.0), "no gain: 1.00× the download"),
    ],
)
def test_a_gain_is_told_in_a_sentence(gain: Gain, sentence: str) -> None:
    assert gain.tell() == sentence
    assert gain.worth == (not sentence.startswith("no gain"))
    assert gain.facts() == {"gain": sentence, f"{gain.kind}_share": gain.share}


def test_what_compresses_better_is_a_smaller_download() -> None:
    noise = random.Random(0).randbytes(40_000)
    gain = download_gain(noise, noise[:1000] * 40)
    assert gain.kind == "download"
    assert gain.share < 0.05


def test_compression_never_counts_as_a_loss() -> None:
    noise = random.Random(0).randbytes(1000)
    assert download_gain(noise, noise).share == 1.0
    assert download_gain(noise, noise[:500]).share == 0.5


def test_a_network_is_not_faster_than_itself(torch_model: Model, tmp_path: Path) -> None:
    clock = Clock(Timer("edgeopt.validation.ranking:time_models", "onnxruntime_cpu", 1, 1), None, tmp_path)
    graph = export_graph(make_network(torch_model), torch_model)
    gain = time_gain(clock, graph, graph)
    assert gain.candidate == "onnxruntime_cpu"
    assert 0.8 < gain.share < 1.25
