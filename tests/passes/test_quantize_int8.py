"""The pass: what it writes, tells and refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from pydantic import ValidationError

from edgeopt.context import AccuracyGoal, Context
from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.errors import PassError
from edgeopt.model import Model, OnnxValue, QuantizationProfile, load_model, write_model
from edgeopt.onnx_graph import load_graph, make_session, run_session, save_graph
from edgeopt.passes.quantize_int8 import FEWEST_SAMPLES, QuantizeInt8


@pytest.fixture(scope="module")
def profile() -> QuantizationProfile:
    return QuantizationProfile(
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


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    path = tmp_path_factory.mktemp("samples") / "samples.npz"
    np.savez(path, image=np.random.default_rng(0).standard_normal((128, 1, 16, 16)).astype(np.float32))
    return Samples("npz", path, ("image",), Preprocess())


@pytest.fixture
def context(profile: QuantizationProfile, samples: Samples, tmp_path: Path) -> Context:
    return Context(folder=tmp_path / "result", calibration=samples, profile=profile)


def spoil(model: Model, folder: Path, name: str, value: float) -> Model:
    """The model with one weight of the named initializer set to a value."""
    graph = load_graph(model.path)
    for tensor in graph.graph.initializer:
        if tensor.name == name:
            array = onnx.numpy_helper.to_array(tensor).copy()
            array.flat[0] = value
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))
    save_graph(graph, folder / "model.onnx")
    return write_model(model.model_copy(update={"value": OnnxValue(), "folder": folder}), folder)


def first_weight(model: Model) -> str:
    """The weight of the first convolution."""
    return next(node.input[1] for node in load_graph(model.path).graph.node if node.op_type == "Conv")


def test_every_convolution_is_quantized_and_the_answers_stay(onnx_model: Model, context: Context) -> None:
    result = QuantizeInt8()(onnx_model, context)
    assert result.changed
    assert result.facts["summary"] == "128 images; min-max; 6 of 6 convolutions"
    assert result.facts["images"] == 128
    assert result.facts["float_nodes"] == 0
    assert "left_in_float" not in result.facts
    assert "warning" not in result.facts
    assert result.facts["sqnr_db"] > 25
    assert context.calibration is not None
    batch = next(iter(context.calibration.batches(16))).inputs
    exact, coarse = (
        run_session(make_session(load_graph(model.path)), batch)["output"] for model in (onnx_model, result.model)
    )
    assert np.array_equal(exact.argmax(1), coarse.argmax(1))
    assert not np.array_equal(exact, coarse)


def test_the_model_that_comes_back_knows_its_ranges(onnx_model: Model, context: Context) -> None:
    model = QuantizeInt8()(onnx_model, context).model
    assert load_model(context.folder, model.sources) == model
    assert (model.inputs, model.outputs) == (onnx_model.inputs, onnx_model.outputs)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in load_graph(model.path).graph.initializer}
    assert model.ranges["image"].scale == (float(constants["image_scale"]),)
    assert model.ranges["image"].zero_point == (int(constants["image_zero_point"]),)
    assert len(model.ranges) > 8


def test_the_file_is_about_a_quarter(
    torch_model: Model, samples: Samples, profile: QuantizationProfile, tmp_path: Path
) -> None:
    from edgeopt.network import call_factory, write_network
    from edgeopt.passes.export_onnx import ExportOnnx

    value = torch_model.value.model_copy(update={"options": {"width": 64}})
    described = torch_model.model_copy(update={"value": value})
    network = call_factory(torch_model.sources, "residual.py:make_residual", {"width": 64})
    wide = write_network(network, described, tmp_path / "wide")
    given = ExportOnnx()(wide, Context(folder=tmp_path / "onnx")).model
    context = Context(folder=tmp_path / "result", calibration=samples.spread(8), profile=profile)
    result = QuantizeInt8()(given, context)
    assert result.model.path.stat().st_size < 0.3 * given.path.stat().st_size


def test_what_is_kept_in_float_is_named(onnx_model: Model, context: Context) -> None:
    facts = QuantizeInt8(keep_float=("Gemm", "Add"))(onnx_model, context).facts
    assert facts["convolutions"] == "6 of 6"
    assert facts["float_nodes"] == str(facts["left_in_float"]).count("`") / 2
    assert "Gemm `" in str(facts["left_in_float"])
    assert "Add `" in str(facts["left_in_float"])


def test_few_images_are_warned_of(onnx_model: Model, context: Context, samples: Samples) -> None:
    few = replace(context, calibration=samples.spread(FEWEST_SAMPLES - 1))
    assert QuantizeInt8()(onnx_model, few).facts["warning"].startswith("99 calibration images")


@pytest.mark.parametrize("classes", [1, 2])
def test_images_of_one_class_are_warned_of(classes: int, onnx_model: Model, context: Context, tmp_path: Path) -> None:
    images = np.random.default_rng(0).standard_normal((128, 1, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "labelled.npz", image=images, labels=3 + np.arange(128) % classes)
    labelled = replace(context, calibration=Samples("npz", tmp_path / "labelled.npz", ("image",), Preprocess()))
    warning = QuantizeInt8()(onnx_model, labelled).facts.get("warning", "")
    assert ("are of one class, 3:" in warning) == (classes == 1)


def test_it_tells_how_far_it_is(onnx_model: Model, context: Context) -> None:
    told: list[float | None] = []
    QuantizeInt8()(onnx_model, replace(context, progress=lambda text, fraction: told.append(fraction)))
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_a_network_that_was_quantized_is_not_quantized_again(
    onnx_model: Model, context: Context, tmp_path: Path
) -> None:
    once = QuantizeInt8()(onnx_model, context).model
    with pytest.raises(PassError, match="quantized already") as caught:
        QuantizeInt8()(once, replace(context, folder=tmp_path / "twice"))
    assert "quantize_int8" in caught.value.hint
    assert not (tmp_path / "twice").exists()


def test_a_network_with_nothing_to_quantize_says_so(onnx_model: Model, context: Context) -> None:
    with pytest.raises(PassError, match="nothing to quantize: no Conv, Gemm with a constant float32 weight"):
        QuantizeInt8(keep_float=("Conv", "Gemm"))(onnx_model, context)


def test_a_name_that_is_not_in_the_graph_is_refused(onnx_model: Model, context: Context) -> None:
    with pytest.raises(PassError, match="`keep_float` names `Gem`") as caught:
        QuantizeInt8(keep_float=("Gem",))(onnx_model, context)
    assert caught.value.hint == "did you mean `Gemm`?"


def test_a_weight_that_is_not_a_number_is_found(onnx_model: Model, context: Context, tmp_path: Path) -> None:
    spoiled = spoil(onnx_model, tmp_path / "spoiled", first_weight(onnx_model), np.nan)
    with pytest.raises(PassError, match="values that are not finite"):
        QuantizeInt8()(spoiled, context)
    assert not context.folder.exists()


@pytest.mark.parametrize(
    "options", [{"method": "entropy"}, {"per_channel": "perhaps"}, {"keep_float": 3}, {"symmetric": True}]
)
def test_options_that_there_are_not_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        QuantizeInt8(**options)


def test_images_unlike_those_of_calibration_are_told(
    onnx_model: Model, context: Context, samples: Samples, tmp_path: Path
) -> None:
    with np.load(samples.path) as given:
        np.savez(tmp_path / "bright.npz", **{name: 6 * array for name, array in given.items()})
    alike = QuantizeInt8()(onnx_model, replace(context, tuning=samples)).facts
    assert alike["clipped"] == "0 % of the values of 32 tuning images"
    assert "are they like" not in str(alike.get("warning", ""))
    bright = replace(samples, path=tmp_path / "bright.npz")
    other = QuantizeInt8()(onnx_model, replace(context, tuning=bright, folder=tmp_path / "other")).facts
    assert "are cut off: are they like the calibration images?" in str(other["warning"])


def test_the_ladder_is_told_rung_by_rung(onnx_model: Model, context: Context, samples: Samples) -> None:
    facts = QuantizeInt8(effort="auto")(
        onnx_model, replace(context, tuning=samples, accuracy=AccuracyGoal("top1", 100.0))
    ).facts
    assert str(facts["rung 1: min-max"]).endswith(" s")
    assert "half of 100 pp" in str(facts["tuning"])
    with pytest.raises(PassError, match="chooses on a tuning split, and there is none"):
        QuantizeInt8(effort="auto")(onnx_model, context)
