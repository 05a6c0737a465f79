"""The ladder is climbed no further than it must be, keeps what helps, and goes on where it was killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgeopt.context import AccuracyGoal, Checkpoints
from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.errors import PassError
from edgeopt.model import QuantizationProfile
from edgeopt.onnx_graph import input_specs, make_session, run_session
from edgeopt.quantization import ladder
from edgeopt.quantization.calibration import Arrays
from edgeopt.quantization.evaluation import Evaluation, Loss, _divergence
from edgeopt.quantization.ladder import Ladder, Rung
from edgeopt.quantization.quantize import Quantizing
from edgeopt.quantization.sensitivity import rank_layers
from edgeopt.quantization.technique import Technique

Make = Callable[..., Any]

IMAGES = np.random.default_rng(0).uniform(0, 1, (128, 3, 8, 8)).astype(np.float32)


@pytest.fixture(autouse=True)
def few_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    """What rounding gains is tested where it is done."""
    monkeypatch.setattr(ladder, "ADAROUND", 10)


def draw(count: int) -> Iterator[Arrays]:
    for at in range(0, count, 16):
        yield {"x": IMAGES[at : min(count, at + 16)]}


def unreadable(count: int) -> Iterator[Arrays]:
    raise AssertionError("nothing is to be done again")


def evaluation_of(graph: onnx.ModelProto, folder: Path, *, labelled: bool = True) -> Evaluation:
    """On the other half of the images; the labels are what the float network says, but for some."""
    images = IMAGES[64:]
    labels = run_session(make_session(graph), {"x": images})["y"].argmax(1)
    labels[:4] = (labels[:4] + 1) % 4
    np.savez(folder / "tuning.npz", x=images, **({"labels": labels.astype(np.int64)} if labelled else {}))
    samples = Samples("npz", folder / "tuning.npz", ("x",), Preprocess())
    return Evaluation(graph, samples, input_specs(graph), AccuracyGoal())


def ladder_of(
    graph: onnx.ModelProto, profile: QuantizationProfile, folder: Path, most_pp: float | None, **options: Any
) -> Ladder:
    quantizing = Quantizing(graph, profile, options.pop("draw", draw), 64)
    return Ladder(quantizing, evaluation_of(graph, folder), most_pp, **options)


def test_a_met_budget_ends_the_climb_at_once(
    biased: onnx.ModelProto, profile: QuantizationProfile, tmp_path: Path
) -> None:
    climb = ladder_of(biased, profile, tmp_path, 200.0)
    assert climb.climb(Technique()).technique == Technique()
    assert len(climb.rungs) == 1


def test_half_of_the_budget_is_room_for_what_other_images_would_show(
    biased: onnx.ModelProto, profile: QuantizationProfile, tmp_path: Path
) -> None:
    climb = ladder_of(biased, profile, tmp_path, 2.0)
    assert climb.is_met(Loss(1.0, 90.0, 20.0))
    assert not climb.is_met(Loss(1.1, 90.0, 20.0))
    assert not climb.is_met(Loss(float("nan"), 90.0, 20.0))


def test_the_whole_ladder_ends_at_what_loses_least(
    biased: onnx.ModelProto, profile: QuantizationProfile, tmp_path: Path
) -> None:
    climb = ladder_of(biased, profile, tmp_path, None)
    best = climb.climb(Technique())
    said = [rung.technique.describe() for rung in climb.rungs]
    assert said[0] == "min-max"
    assert said[1:5] == ["percentile", "percentile, MSE weights", "mse", "mse, MSE weights"]
    assert any("equalized" in one for one in said)
    assert any("full bias correction" in one for one in said)
    assert not any(rung.loss.better_than(best.loss) for rung in climb.rungs)
    assert best.technique.bias_correction == "full", "this network is built to need it"
    assert best.loss.sqnr_db > climb.rungs[0].loss.sqnr_db + 2
    found = climb.evaluation.loss_of(climb.result(best).graph)
    assert found == best.loss, "what is shipped is what was tried"


def test_divergence_is_that_of_the_probabilities() -> None:
    exact, coarse = np.zeros((2, 2), np.float32), np.log(np.array([[3, 1], [1, 1]], np.float32))
    assert _divergence(exact, coarse + 8) == pytest.approx(0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(2), rel=1e-4)
    assert _divergence(coarse, coarse) == 0


def test_fewer_changed_answers_are_better_than_a_smaller_drop() -> None:
    lucky, better = Loss(0.1, 86.0, 20.0, 4.0), Loss(0.3, 85.8, 20.0, 2.0)
    assert better.better_than(lucky)
    assert not lucky.better_than(better)
    assert replace(better, sqnr_db=21.0).better_than(better)
    assert Loss(0.1, 86.0, 20.0).better_than(Loss(0.3, 85.8, 30.0))


def test_a_climb_goes_on_where_it_was_killed(
    biased: onnx.ModelProto, profile: QuantizationProfile, tmp_path: Path
) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    first = ladder_of(biased, profile, tmp_path, None, checkpoints=checkpoints)
    best = first.climb(Technique())
    again = ladder_of(biased, profile, tmp_path, None, checkpoints=checkpoints, draw=unreadable)
    assert again.climb(Technique()) == best
    assert again.rungs == first.rungs


def test_without_labels_it_is_agreement_that_is_kept(
    biased: onnx.ModelProto, profile: QuantizationProfile, tmp_path: Path
) -> None:
    evaluation = evaluation_of(biased, tmp_path, labelled=False)
    assert (evaluation.labelled, evaluation.score) == (False, 100.0)
    assert evaluation.loss_of(biased) == Loss(0.0, 100.0, 200.0, None, 0.0)


# layers in float


@pytest.fixture
def spoiled(make_graph: Make, weights: Make) -> onnx.ModelProto:
    """Three convolutions, of which the second has weights that one scale cannot hold."""
    second = weights(8, 8, 1, 1, seed=1)
    second[0, 0] = 800.0
    body = """
        c = Conv (x, w) r = Relu (c) d = Conv (r, v) s = Clip (d, low, high) e = Conv (s, u) t = Relu (e)
        g = GlobalAveragePool (t) f = Flatten (g) y = Gemm (f, z, b)
    """
    given = {
        "w": weights(8, 3, 3, 3), "v": second, "u": weights(8, 8, 1, 1, seed=2), "z": weights(8, 4, seed=3),
        "low": np.float32(0), "high": np.float32(6),
    }  # fmt: skip
    middle = np.median(
        run_session(make_session(make_graph(body, **given, b=np.zeros(4, np.float32))), {"x": IMAGES})["y"], 0
    )
    return make_graph(body, **given, b=-middle)  # so that all four classes are seen


def test_a_network_of_one_layer_is_not_left_without_any(
    make_graph: Make, weights: Make, profile: QuantizationProfile, tmp_path: Path
) -> None:
    graph = make_graph("c = Conv (x, w) g = GlobalAveragePool (c) y = Flatten (g)", w=weights(4, 3, 1, 1))
    climb = ladder_of(graph, profile, tmp_path, -200.0, clock=lambda graphs: [1.0] * len(graphs))
    assert climb.climb(Technique()).technique.keep_float == ()
    assert climb.curve() == []


def test_outputs_that_are_no_classes_are_compared_by_the_metric(
    make_graph: Make, weights: Make, tmp_path: Path
) -> None:
    """One number for each image: its highest never changes."""
    graph = make_graph("c = Conv (x, w) g = GlobalAveragePool (c) y = Flatten (g)", w=weights(1, 3, 1, 1))
    (tmp_path / "own.py").write_text(
        "def near(outputs, labels):\n    return (abs(next(iter(outputs.values()))[:, 0]) < 5).astype(float)\n"
    )
    np.savez(tmp_path / "tuning.npz", x=IMAGES, labels=np.zeros(len(IMAGES), np.int64))
    samples = Samples("npz", tmp_path / "tuning.npz", ("x",), Preprocess())
    far = make_graph("c = Conv (x, w) g = GlobalAveragePool (c) y = Flatten (g)", w=100 * weights(1, 3, 1, 1))
    loss = Evaluation(graph, samples, input_specs(graph), AccuracyGoal("own.py:near", 1.0, tmp_path)).loss_of(far)
    assert loss.drop_pp > 50
    assert (loss.changed, loss.divergence) == (None, None)
    np.savez(tmp_path / "tuning.npz", x=IMAGES)
    with pytest.raises(PassError, match="techniques are chosen by how often the highest score agrees"):
        Evaluation(graph, samples, input_specs(graph), AccuracyGoal())


PER_TENSOR = Technique(per_channel=False)


def test_the_layer_to_blame_comes_first_and_time_counts(
    spoiled: onnx.ModelProto, profile: QuantizationProfile, tmp_path: Path
) -> None:
    quantizing = Quantizing(spoiled, profile, draw, 64)
    evaluation = evaluation_of(spoiled, tmp_path)
    ranked = rank_layers(quantizing, evaluation, PER_TENSOR, None)
    assert ranked[0].node == "d"
    assert ranked[0].noise > 0.5
    assert ranked[0].loss is not None
    assert ranked[0].loss > 0.5
    order = ["c", "d", "e", "y"]

    def dear(graphs: Sequence[onnx.ModelProto]) -> list[float]:
        assert len(graphs) == 5
        return [1.0, *(300.0 if node == "d" else 1.0 for node in order)]

    dearly = rank_layers(quantizing, evaluation, PER_TENSOR, dear)
    assert dearly[0].node != "d"
    assert {one.node: one.cost for one in dearly}["d"] == pytest.approx(299)


def test_no_more_layers_than_needed_stay_in_float(
    spoiled: onnx.ModelProto, profile: QuantizationProfile, tmp_path: Path
) -> None:
    def even(graphs: Sequence[onnx.ModelProto]) -> list[float]:
        return [1.0 + 0.1 * at for at in range(len(graphs))]

    enough = ladder_of(spoiled, profile, tmp_path, None).try_one(PER_TENSOR.model_copy(update={"keep_float": ("d",)}))
    climb = ladder_of(spoiled, profile, tmp_path, 2 * enough.loss.drop_pp + 0.1, clock=even)
    first = climb.try_one(PER_TENSOR)
    assert not climb.is_met(first.loss)
    best = climb._keep_some(first)
    assert climb.is_met(best.loss)
    assert best.technique.keep_float == ("d",)
    along = climb.curve()
    assert [len(rung.technique.keep_float) for rung, _ in along] == [0, 1]
    assert [ratio for _, ratio in along] == pytest.approx([1.0, 1.1])


def test_a_rung_is_told_in_one_line() -> None:
    rung = Rung(Technique(method="kl", equalize=True, keep_float=("a", "b")), Loss(0.4, 86.31, 31.04, 1.25), 4.06)
    assert rung.technique.describe() == "equalized, kl, 2 kept in float"
    assert rung.describe() == "86.31 % (-0.40 pp), 1.25 % changed, 31.0 dB, 4.1 s"
