"""Training with quantization wins back what quantizing lost, and gives the same graph however often it was killed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgeopt import environment
from edgeopt.context import Checkpoints, Context
from edgeopt.data import Samples
from edgeopt.errors import PassError
from edgeopt.model import Model, OnnxValue, QuantizationProfile, TensorSpec, load_model, write_model
from edgeopt.onnx_graph import load_graph, make_session, run_session, save_graph
from edgeopt.passes import PassResult
from edgeopt.passes.export_onnx import ExportOnnx
from edgeopt.passes.fine_tune import FineTune
from edgeopt.passes.quantize_aware_train import QuantizeAwareTrain
from edgeopt.passes.quantize_int8 import QuantizeInt8
from edgeopt.workers import ignore_progress

MakeSamples = Callable[..., Samples]

PROFILE = QuantizationProfile(
    name="cpu",
    activation_dtype="uint8",
    weight_dtype="int8",
    weight_bits=7,
    weight_axes={"Conv": 0, "Gemm": 1},
    quantized_ops=("Conv", "Gemm", "Add", "GlobalAveragePool"),
    passthrough_ops=("Flatten", "Reshape"),
    fused_activations=("Relu",),
    float_output_ops=("Gemm",),
)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "cpu_cores", lambda: 1)


@pytest.fixture
def context(onnx_model: Model, make_samples: MakeSamples, tmp_path: Path) -> Context:
    return Context(
        folder=tmp_path / "trained",
        seed=3,
        calibration=make_samples(onnx_model, "calibration"),
        training=make_samples(onnx_model, "training", 128),
        tuning=make_samples(onnx_model, "tuning", 200),
        profile=PROFILE,
        progress=ignore_progress,
    )


@pytest.fixture
def learned(torch_model: Model, context: Context, tmp_path: Path) -> Model:
    """The graph of a network that has learned its task."""
    tuned = FineTune(epochs=6, batch=16, learning_rate=0.01, distill=False, precision="fp32")
    model = tuned(torch_model, replace(context, folder=tmp_path / "tuned")).model
    return ExportOnnx()(model, replace(context, folder=tmp_path / "exported")).model


def unequal(model: Model, folder: Path) -> Model:
    """The same network with channels of very unequal size: what goes into one convolution is taken off the next."""
    graph = load_graph(model.path)
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    readers = {name: node for node in graph.graph.node for name in node.input}
    shared = [name for node in graph.graph.node for name in node.input]
    for conv in [node for node in graph.graph.node if node.op_type == "Conv"]:
        relu = readers[conv.output[0]]
        following = readers.get(relu.output[0])
        if relu.op_type != "Relu" or following.op_type != "Conv" or shared.count(relu.output[0]) != 1:
            continue
        factors = 2.0 ** np.linspace(-5, 5, len(arrays[conv.input[1]])).astype(np.float32)
        arrays[conv.input[1]] = arrays[conv.input[1]] * factors[:, None, None, None]
        arrays[conv.input[2]] = arrays[conv.input[2]] * factors
        arrays[following.input[1]] = arrays[following.input[1]] / factors[None, :, None, None]
    for tensor in graph.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(arrays[tensor.name], tensor.name))
    save_graph(graph, folder / OnnxValue().file)
    return write_model(model.model_copy(update={"folder": folder}), folder)


def train(model: Model, context: Context, folder: str = "trained", **options: Any) -> PassResult:
    options = {"epochs": 2, "batch": 16} | options
    return QuantizeAwareTrain(**options)(model, replace(context, folder=context.folder.parent / folder))


def top1(model: Model, samples: Samples) -> float:
    """Per cent, of the graph in ONNX Runtime as it ships."""
    session = make_session(load_graph(model.path))
    (batch,) = samples.batches(len(samples))
    (logits,) = run_session(session, batch.inputs).values()
    assert batch.labels is not None
    return float(100 * (logits.argmax(1) == batch.labels).mean())


@pytest.mark.parametrize("ranges", ["learned", "averaged"])
def test_what_one_scale_for_unequal_channels_loses_is_won_back(
    learned: Model, context: Context, ranges: str, tmp_path: Path
) -> None:
    model = unequal(learned, tmp_path / "unequal")
    assert context.tuning is not None
    plain = QuantizeInt8(per_channel=False)(model, replace(context, folder=tmp_path / "plain")).model
    result = train(model, context, ranges=ranges, per_channel=False, epochs=4, learning_rate=2e-3)
    exact, before, after = (top1(each, context.tuning) for each in (model, plain, result.model))
    assert before < exact - 20
    assert after > exact - 3
    assert result.facts["epochs"] == 4
    assert result.facts["tuning_top1_float"] == exact
    assert abs(float(result.facts["tuning_top1_after"]) - after) <= 1
    assert str(result.facts["summary"]).startswith(f"4 epochs, {result.facts['tuning_top1_before']:.1f} % → ")


@pytest.mark.parametrize("ranges", ["learned", "averaged"])
def test_at_two_bits_the_output_comes_closer_to_the_float_one(
    learned: Model, context: Context, ranges: str, tmp_path: Path
) -> None:
    coarse = replace(context, profile=PROFILE.model_copy(update={"weight_bits": 2}))
    plain = QuantizeInt8(per_channel=False)(learned, replace(coarse, folder=tmp_path / "plain"))
    result = train(learned, coarse, ranges=ranges, per_channel=False, epochs=3, learning_rate=1e-3)
    assert float(result.facts["sqnr_db"]) > float(plain.facts["sqnr_db"]) + 5


def test_the_graph_ships_with_pairs_and_known_ranges(onnx_model: Model, context: Context) -> None:
    result = train(onnx_model, context, epochs=1)
    operators = [node.op_type for node in load_graph(result.model.path).graph.node]
    assert operators.count("QuantizeLinear") == len(result.model.ranges) > 5
    assert load_model(result.model.folder, result.model.sources) == result.model
    assert sorted(path.name for path in result.model.folder.iterdir()) == ["model.json", "model.onnx"]
    assert result.facts["integer_nodes"] == 10


def test_without_labels_the_float_network_teaches_alone(
    learned: Model, context: Context, make_samples: MakeSamples, tmp_path: Path
) -> None:
    model = unequal(learned, tmp_path / "unequal")
    bare = replace(context, training=make_samples(learned, "bare", 128, labelled=False), tuning=None)
    result = train(model, bare, per_channel=False, epochs=4, learning_rate=2e-3)
    assert context.tuning is not None
    assert top1(result.model, context.tuning) > top1(model, context.tuning) - 3
    assert "tuning_top1_after" not in result.facts
    assert str(result.facts["summary"]).startswith("4 epochs, loss ")


def test_nothing_to_learn_from_is_refused(onnx_model: Model, context: Context, make_samples: MakeSamples) -> None:
    bare = replace(context, training=make_samples(onnx_model, "bare", labelled=False))
    with pytest.raises(PassError, match="no labels to learn from") as caught:
        train(onnx_model, bare, distill=False)
    assert "distill: true" in caught.value.hint


def test_nodes_kept_in_float_are_named(onnx_model: Model, context: Context) -> None:
    facts = train(onnx_model, context, epochs=1, keep_float=("Gemm",)).facts
    assert "classifier" in str(facts["left_in_float"])
    assert int(facts["float_nodes"]) >= 1


def test_a_graph_with_nothing_to_quantize_is_refused(onnx_model: Model, context: Context) -> None:
    with pytest.raises(PassError, match="nothing to quantize") as caught:
        train(onnx_model, context, keep_float=("Conv", "Gemm"))
    assert "keep_float" in caught.value.hint


def test_a_fixed_batch_is_refused(onnx_model: Model, context: Context) -> None:
    fixed = onnx_model.model_copy(update={"inputs": (TensorSpec(name="image", shape=(1, 1, 16, 16)),)})
    with pytest.raises(PassError, match="batches of 1 only"):
        train(write_model(fixed, context.folder.parent / "fixed"), context)


class Interrupted(BaseException):
    """What a test raises in place of a kill."""


def stop_after(epochs: int) -> Callable[[str, float | None], None]:
    """Progress that ends the run once an epoch after `epochs` has begun."""

    def progress(text: str, fraction: float | None) -> None:
        if text.startswith(f"epoch {epochs + 1} "):
            raise Interrupted

    return progress


@pytest.mark.parametrize(("ranges", "stops"), [("learned", (0,)), ("learned", (1, 2)), ("averaged", (1, 2))])
def test_an_interrupted_run_goes_on_to_the_same_graph(
    onnx_model: Model, context: Context, ranges: str, stops: tuple[int, ...], tmp_path: Path
) -> None:
    options = {"ranges": ranges, "epochs": 3}
    whole = train(onnx_model, context, "whole", **options)
    kept = replace(context, checkpoints=Checkpoints(tmp_path / "checkpoints"))
    for stop in stops:
        with pytest.raises(Interrupted):
            train(onnx_model, replace(kept, progress=stop_after(stop)), "torn", **options)
    told: list[str] = []
    resumed = train(onnx_model, replace(kept, progress=lambda text, _: told.append(text)), "resumed", **options)
    assert resumed.model.path.read_bytes() == whole.model.path.read_bytes()
    assert resumed.facts == whole.facts
    assert not any(text.startswith(f"epoch {epoch} ") for text in told for epoch in range(1, stops[-1] + 1))


def test_another_seed_gives_another_graph(onnx_model: Model, context: Context) -> None:
    once, other = (train(onnx_model, replace(context, seed=seed), str(seed), epochs=1) for seed in (1, 2))
    assert once.model.path.read_bytes() != other.model.path.read_bytes()


@pytest.mark.parametrize("ranges", ["learned", "averaged"])
def test_with_every_option_an_interrupted_run_goes_on_to_the_same_graph(
    learned: Model, context: Context, ranges: str, tmp_path: Path
) -> None:
    options = {
        "ranges": ranges, "epochs": 3, "learning_rate": None, "ema": 0.9, "shift": 1, "flip": True, "mixup": 0.2,
        "label_smoothing": 0.1, "stop_after": 3, "schedule": "one_cycle", "clip": 1.0,
    }  # fmt: skip
    whole = train(learned, context, "whole", **options)
    kept = replace(context, checkpoints=Checkpoints(tmp_path / "checkpoints"), progress=stop_after(2))
    with pytest.raises(Interrupted):
        train(learned, kept, "torn", **options)
    resumed = train(learned, replace(kept, progress=ignore_progress), "resumed", **options)
    assert resumed.model.path.read_bytes() == whole.model.path.read_bytes()
    assert resumed.facts == whole.facts
    assert 0 < float(whole.facts["learning_rate"]) < 1
    assert abs(float(whole.facts["tuning_top1_after"]) - top1(whole.model, context.tuning)) <= 1  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_the_original_teaches_where_it_is_asked_to(
    learned: Model, torch_model: Model, context: Context, form: str, tmp_path: Path
) -> None:
    """A network that has learned nothing, with an original that has: only that one can teach without labels."""
    assert context.training is not None
    assert context.tuning is not None
    tuned = FineTune(epochs=6, batch=16, learning_rate=0.01, distill=False, precision="fp32")
    given = tuned(torch_model, replace(context, folder=tmp_path / "given")).model if form == "torch" else learned
    blank = ExportOnnx()(torch_model, replace(context, folder=tmp_path / "blank")).model
    asked = {"teacher": "original", "epochs": 6, "learning_rate": 5e-3}
    result = train(blank, replace(context, original=given), **asked)
    own = train(
        blank, replace(context, training=unlabelled(context.training, tmp_path)), "own", **asked | {"teacher": "float"}
    )
    assert top1(result.model, context.tuning) > 70 > top1(own.model, context.tuning)


def unlabelled(samples: Samples, folder: Path) -> Samples:
    with np.load(samples.path) as content:
        np.savez(folder / "unlabelled.npz", **{name: content[name] for name in samples.inputs})
    return replace(samples, path=folder / "unlabelled.npz")


def test_an_original_that_is_not_there_cannot_teach(onnx_model: Model, context: Context) -> None:
    with pytest.raises(PassError, match="no original network") as caught:
        train(onnx_model, context, teacher="original")
    assert caught.value.hint == "set `teacher: float`"


def test_the_original_is_lent_only_where_it_teaches() -> None:
    assert "original" in QuantizeAwareTrain(teacher="original").lent()
    assert "original" not in QuantizeAwareTrain(teacher="original", distill=False).lent()
    assert "original" not in QuantizeAwareTrain().lent()


def test_a_divergence_leaves_the_graph_of_the_last_sound_epoch_where_the_message_says(
    learned: Model, context: Context, tmp_path: Path
) -> None:
    kept = replace(context, checkpoints=Checkpoints(tmp_path / "checkpoints"))
    with pytest.raises(PassError, match=r"not finite in epoch \d+; the weights after epoch \d+ are kept in") as caught:
        train(learned, kept, epochs=40, learning_rate=1e3, warm_up=0.99, batch=64)
    assert "try 1e+02" in caught.value.hint
    folder = Path(caught.value.message.split("`")[1])
    graph = load_graph(load_model(folder).path)
    assert all(np.isfinite(onnx.numpy_helper.to_array(tensor)).all() for tensor in graph.graph.initializer)
    assert [node.op_type for node in graph.graph.node].count("QuantizeLinear") > 5
