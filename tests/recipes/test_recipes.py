"""The recipes that come with edgeopt: each loads and plans, and its network is the one that it says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeopt.checkpoint import read_tensors
from edgeopt.network import call_factory, count_macs, load_tensors
from edgeopt.plan import make_plan
from edgeopt.recipe import load_recipe
from edgeopt.store import Store

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"


def find_cifar10() -> Path:
    """The folder that the environment names, or the one beside the repository."""
    return Path(os.environ.get("EDGEOPT_CIFAR10") or ROOT.parent / "shared" / "data" / "cifar10")


WEIGHTS = find_cifar10() / "resnet20-12fca82f.th"
#: factory, parameters, multiply-accumulates
CIFAR10_NETWORKS = (
    ("mobilenetv2.py:MobileNetV2", 285_778, 9_986_432),
    ("mobilenetv3.py:MobileNetV3", 508_552, 9_442_848),
    ("efficientnet.py:EfficientNet", 335_010, 9_750_560),
    ("densenet.py:DenseNet", 260_458, 14_772_096),
    ("vgg.py:Vgg", 2_310_186, 38_636_032),
)
#: factory, parameters of torchvision's network of that name
ORIGINALS = (
    ("mobilenetv2", 3_504_872),
    ("mobilenetv3", 5_483_032),
    ("efficientnet", 5_288_548),
    ("densenet", 7_978_856),
    ("resnet50", 25_557_032),
)


@pytest.mark.parametrize("name", [path.name for path in sorted(RECIPES.glob("*.yaml"))])
def test_every_recipe_loads_and_plans(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With empty files in place of those that are not in the repository: a plan opens none of them."""
    shutil.copytree(RECIPES, tmp_path / "recipes")
    (tmp_path / "calibration_data").symlink_to(ROOT / "calibration_data")
    for split in ("train", "test"):
        (tmp_path / "cifar10" / split / "cat").mkdir(parents=True)
        (tmp_path / "cifar10" / split / "cat" / "0001.jpg").touch()
    (tmp_path / "cifar10" / "resnet20-12fca82f.th").touch()
    (tmp_path / "recipes" / "digits" / "digits.onnx").touch()
    monkeypatch.setenv("EDGEOPT_CIFAR10", str(tmp_path / "cifar10"))
    plan = make_plan(load_recipe(tmp_path / "recipes" / name), Store(tmp_path / "store"))
    assert plan.recipe.name == name.removesuffix(".yaml"), "so that its result is found where one looks for it"
    assert all({"fp32", "int8"} <= {side.variant for side in target.candidates} for target in plan.targets)


def test_the_recipe_that_starts_from_onnx_agrees_with_the_one_that_starts_from_torch() -> None:
    torch_recipe = load_recipe(RECIPES / "digits.yaml")
    onnx_file = RECIPES / "digits" / "network.py"  # any file that is there: only `data:` is compared
    onnx_recipe = load_recipe(RECIPES / "digits_onnx.yaml", [f"model.onnx={onnx_file}"])
    assert onnx_recipe.data == torch_recipe.data.model_copy(update={"training": None})
    assert onnx_recipe.model.expect == torch_recipe.model.expect


@pytest.mark.slow
def test_the_digits_network_is_exported_the_same_each_time_and_computes_the_same(tmp_path: Path) -> None:
    import onnxruntime
    import torch

    for name in ("one.onnx", "two.onnx"):
        script = [sys.executable, str(RECIPES / "digits" / "export.py"), "--out", str(tmp_path / name)]
        subprocess.run(script, check=True, capture_output=True)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
    network = call_factory(RECIPES, "digits/network.py:DigitsNet", {}).eval()
    load_tensors(network, read_tensors(RECIPES / "digits" / "digits.safetensors"), "digits.safetensors")
    image = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(image).numpy()
    session = onnxruntime.InferenceSession(tmp_path / "one.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"image": image.numpy()})
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_resnet20_has_the_size_that_is_known_of_it() -> None:
    import torch

    network = call_factory(RECIPES, "cifar10/network.py:ResNet20", {}).eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == 269_722
    assert count_macs(network, [torch.zeros(1, 3, 32, 32)]) == pytest.approx(40.6e6, rel=0.01)


@pytest.mark.parametrize(("factory", "parameters", "macs"), CIFAR10_NETWORKS)
def test_the_networks_for_cifar10_have_the_size_that_the_readme_states(
    factory: str, parameters: int, macs: int
) -> None:
    import torch

    network = call_factory(RECIPES, f"cifar10/{factory}", {}).eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert count_macs(network, [torch.zeros(1, 3, 32, 32)]) == macs


@pytest.mark.parametrize(("name", "parameters"), ORIGINALS)
def test_the_originals_of_the_benchmarks_have_the_size_that_is_published(name: str, parameters: int) -> None:
    network = call_factory(ROOT / "benchmarks", f"imagenet.py:{name}", {})
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(parameters, rel=0.001)


@pytest.mark.parametrize("factory", [factory for factory, *_ in CIFAR10_NETWORKS])
def test_the_weights_for_cifar10_fit_their_network(factory: str) -> None:
    network = call_factory(RECIPES, f"cifar10/{factory}", {})
    file = f"{factory.partition('.')[0]}.safetensors"
    load_tensors(network, read_tensors(RECIPES / "cifar10" / file), file)


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="no CIFAR-10: see recipes/README.md")
def test_the_checkpoint_fits_the_resnet20() -> None:
    network = call_factory(RECIPES, "cifar10/network.py:ResNet20", {})
    tensors = read_tensors(WEIGHTS, "state_dict", "module.")
    load_tensors(network, tensors, "the checkpoint")


@pytest.mark.slow
@pytest.mark.skipif(not (find_cifar10() / "train").is_dir(), reason="no unpacked CIFAR-10: see recipes/README.md")
def test_the_resnet20_loses_next_to_nothing_to_int8(tmp_path: Path) -> None:
    environ = os.environ | {"EDGEOPT_CIFAR10": str(find_cifar10()), "EDGEOPT_CACHE": str(tmp_path / "store")}
    command = [sys.executable, "-m", "edgeopt", "compile", str(RECIPES / "cifar10_resnet20.yaml"), "--out"]
    ran = subprocess.run([*command, str(tmp_path / "out")], cwd=ROOT, env=environ, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (target,) = json.loads((tmp_path / "out" / "report.json").read_text())["targets"]
    for candidate in target["candidates"]:
        drops = [found["value"] for found in candidate["measurements"] if found["metric"] == "accuracy.drop_pp"]
        assert drops
        assert all(abs(drop) <= 0.2 for drop in drops)
