"""ResNet-20 on CIFAR-10, where its weights and images are there: what cannot be pruned stays whole, int8 loses little.

`recipes/README.md` says where both come from; `EDGEOPT_CIFAR10` names the folder.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edgeopt.context import Context
from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.model import Model, TensorSpec, TorchValue

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
FOLDER = Path(os.environ.get("EDGEOPT_CIFAR10") or ROOT.parent / "shared" / "data" / "cifar10")
WEIGHTS = FOLDER / "resnet20-12fca82f.th"

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PREPROCESS = Preprocess.model_validate(
    {"scale": 0.00392157, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
)
IMAGES = 1000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"no `{WEIGHTS.name}`: see recipes/README.md"),
]

needs_images = pytest.mark.skipif(
    not (FOLDER / "train").is_dir() or not (FOLDER / "test").is_dir(),
    reason="no unpacked CIFAR-10: see recipes/README.md",
)


@pytest.fixture(scope="module")
def resnet20(tmp_path_factory: pytest.TempPathFactory) -> Model:
    import torch

    from edgeopt.checkpoint import read_tensors
    from edgeopt.network import call_factory, load_tensors, write_network

    torch.set_num_threads(1)
    value = TorchValue(factory="cifar10/network.py:ResNet20")
    image, logits = TensorSpec(name="image", shape=("batch", 3, 32, 32)), TensorSpec(name="output", shape=("batch", 10))
    described = Model(value=value, inputs=(image,), outputs=(logits,), sources=RECIPES)
    network = call_factory(RECIPES, value.factory, {})
    load_tensors(network, read_tensors(WEIGHTS, "state_dict", "module."), WEIGHTS.name)
    return write_network(network.eval(), described, tmp_path_factory.mktemp("resnet20"))


def test_shortcuts_without_parameters_leave_their_groups_whole_and_named(resnet20: Model, tmp_path: Path) -> None:
    """Where a shortcut pads channels, what feeds it cannot lose any; what lies inside a block can."""
    import torch

    from edgeopt.network import make_network
    from edgeopt.passes.prune_channels import PruneChannels

    random = np.random.default_rng(0).normal(size=(64, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "some.npz", image=random)
    context = Context(
        folder=make(tmp_path / "pruned"), calibration=Samples("npz", tmp_path / "some.npz", ("image",), Preprocess())
    )
    result = PruneChannels(ratio=0.5, importance="l2", reestimate_bn=True)(resnet20, context)
    before, after = make_network(resnet20), make_network(result.model)
    widths = {name: module.out_channels for name, module in after.named_modules() if hasattr(module, "out_channels")}
    whole = {name: module.out_channels for name, module in before.named_modules() if hasattr(module, "out_channels")}
    inside = {name for name in whole if name.startswith("layer") and name.endswith("conv1")}
    assert len(inside) == 9
    assert {name for name in whole if widths[name] < whole[name]} == inside
    said = str(result.facts["left_whole"])
    assert result.facts["groups_left_whole"], result.facts
    assert all(part.partition(": ")[2] for part in said.split("; ")), "each is named with its reason"
    assert "conv1" in said
    with torch.no_grad():
        scores = after(torch.randn(5, 3, 32, 32))
    assert scores.shape == (5, 10)
    assert scores.isfinite().all()


@needs_images
def test_int8_loses_at_most_a_point_on_the_first_images(resnet20: Model, tmp_path: Path) -> None:
    from edgeopt.backends.onnxruntime_cpu import OnnxruntimeCpu
    from edgeopt.data.splits import make_splits
    from edgeopt.passes.export_onnx import ExportOnnx
    from edgeopt.passes.quantize_int8 import QuantizeInt8
    from edgeopt.passes.simplify_onnx import SimplifyOnnx

    whole = {
        name: Samples(
            format="image_folder", path=FOLDER / folder, inputs=("image",), preprocess=PREPROCESS, classes=CLASSES
        )
        for name, folder in (("calibration", "train"), ("validation", "test"))
    }
    splits = make_splits(whole, {"calibration": 256, "validation": IMAGES})
    model = resnet20
    for step in (ExportOnnx(), SimplifyOnnx()):
        model = step(model, Context(folder=make(tmp_path / type(step).__name__))).model
    profile = OnnxruntimeCpu().profile()
    context = Context(folder=make(tmp_path / "int8"), calibration=splits.calibration, profile=profile)
    quantized = QuantizeInt8()(model, context).model
    drop = top1(model, splits.validation) - top1(quantized, splits.validation)
    assert abs(drop) <= 1.0, f"{drop} percentage points"


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def top1(model: Model, samples: Samples) -> float:
    """Per cent of the samples that the graph gets right."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.path, providers=["CPUExecutionProvider"])
    right = 0
    for batch in samples.batches(100):
        assert batch.labels is not None
        right += int((session.run(None, batch.inputs)[0].argmax(axis=1) == batch.labels).sum())
    return 100 * right / len(samples)
