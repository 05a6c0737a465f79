"""What users get wrong: one `error:` line and a hint, the right exit code, no traceback, and nothing left behind."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.end_to_end.conftest import Job, Ran, write_network

NETWORK = """\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, 2, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))
"""

TORCH = "  factory: network.py:Net\n  weights: weights.pt\n  inputs: {image: {shape: [1, 32, 32]}}"


def refused(ran: Ran, code: int, *words: str) -> None:
    """The one way in which everything is refused."""
    assert ran.code == code, ran.out + ran.err
    assert "Traceback" not in ran.err
    assert "error: " in ran.err
    assert "\nhint: " in ran.err, ran.err
    said = " ".join(ran.err.split())
    for word in words:
        assert word in said, ran.err


def nothing_left(job: Job) -> None:
    assert not job.out.exists()
    assert not list(job.folder.rglob(".edgeopt-tmp-*"))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("targets:", "tragets:", ["unknown key `tragets`", "did you mean `targets`?", "recipe.yaml:"]),
        ("quantize_int8: {}", "quantise_int8: {}", ["unknown pass `quantise_int8`", "did you mean `quantize_int8`?"]),
        ("[onnxruntime_cpu]", "[onnxruntime_gpu]", ["unknown backend `onnxruntime_gpu`", "`onnxruntime_cpu`"]),
        ("max_drop_pp: 5.0", "max_drop_pp: .nan", ["not a finite number"]),
        ("name: small", "name: small\nname: other", ["duplicate key `name`", "recipe.yaml:3:1"]),
        ("validation.npz", "validatoin.npz", ["there is no", "validatoin.npz"]),
        ("passes: []", "passes: [prune_channels: {ratio: 0.5}]", ["can be neither pruned nor fine-tuned"]),
        ("calibration: {path: calibration.npz}", "", ["`quantize_int8` needs `data.calibration`"]),
    ],
)
def test_a_wrong_recipe_is_refused_before_anything_is_done(job: Job, old: str, new: str, words: list[str]) -> None:
    if old.startswith("  calibration") or new == "":
        job.edit("  calibration: {path: calibration.npz}\n", "")
    else:
        job.edit(old, new)
    refused(job.compile(), 2, *words)
    nothing_left(job)
    assert not (job.folder / "store").exists()


def test_calibration_images_that_are_also_in_validation_are_refused(job: Job) -> None:
    with np.load(job.folder / "validation.npz") as validation, np.load(job.folder / "calibration.npz") as calibration:
        images = np.concatenate([calibration["image"], validation["image"][7:8]])
        np.savez(job.folder / "both.npz", image=images, labels=np.zeros(len(images), np.int64))
    job.edit("path: calibration.npz", "path: both.npz")
    refused(job.compile(), 2, "1 calibration samples are also in validation")
    nothing_left(job)


def test_labels_out_of_range_are_refused_with_their_row(job: Job) -> None:
    with np.load(job.folder / "validation.npz") as validation:
        labels = validation["labels"].copy()
        labels[5] = 9
        np.savez(job.folder / "validation.npz", image=validation["image"], labels=labels)
    refused(job.compile(), 2, "9", "5")
    nothing_left(job)


def test_an_onnx_file_that_does_not_parse_is_refused(job: Job) -> None:
    (job.folder / "model.onnx").write_bytes(b"\x08\x07not a graph at all" * 30)
    refused(job.compile(), 2, "model.onnx")
    nothing_left(job)


def test_an_original_that_yields_nan_exits_with_5(job: Job) -> None:
    write_network(job.folder / "model.onnx", scale=float("nan"))
    refused(job.compile(), 5, "the original itself yields NaN")
    nothing_left(job)


def test_an_unexpected_accuracy_of_the_original_is_refused(job: Job) -> None:
    job.edit("onnx: model.onnx", "onnx: model.onnx\n  expect: {top1: 62.5}")
    refused(job.compile(), 2, "100.00 %", "62.5 %", "correct `expect`")


def write_brightness(job: Job) -> None:
    """A network that tells four brightnesses apart, images of them, and a recipe that expects it to."""
    known = np.linspace(-1.5, 1.5, 4, dtype=np.float32)  # the nearest one: that of the largest 2 k x - k²
    tensors = {"w": 2 * known[:, None], "b": -known * known}
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["scores"], transB=1),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 4])
    constants = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "brightness", [image], [scores], constants)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), job.folder / "model.onnx")
    random = np.random.default_rng(0)
    labels = np.arange(300) % 4
    images = (32 + 64 * labels)[:, None, None, None] + random.integers(-30, 31, (300, 1, 8, 8))
    np.savez(job.folder / "validation.npz", image=images.astype(np.uint8), labels=labels)
    job.edit("onnx: model.onnx", "onnx: model.onnx\n  expect: {top1: 100}")
    job.edit("  calibration: {path: calibration.npz}\n", "")
    job.edit("      int8: [quantize_int8: {}]\n", "")


def test_the_hint_names_what_is_missing_in_the_preprocessing(job: Job) -> None:
    write_brightness(job)
    job.edit("scale: 0.00392157, ", "")
    ran = job.compile()
    refused(ran, 2, "the original reaches 25.00 % on 300 images, the recipe expects 100 %")
    assert "hint: with `scale: 0.00392157` it reaches 100.0 % on 256 images: set it in `preprocess`" in ran.err
    nothing_left(job)


def test_the_hint_names_labels_that_are_shifted(job: Job) -> None:
    write_brightness(job)
    with np.load(job.folder / "validation.npz") as split:
        shifted = {"image": split["image"], "labels": (split["labels"] + 1) % 4}
    np.savez(job.folder / "validation.npz", **shifted)
    ran = job.compile()
    refused(ran, 2, "the original reaches 0.00 %", "the recipe expects 100 %", "the labels are shifted by one")
    nothing_left(job)


@pytest.mark.slow
def test_the_digits_recipe_without_its_scale_is_told_so(job: Job) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "digits.yaml"
    ran = job.run("compile", str(recipe), "--set", "data.preprocess={mean: [0.5], std: [0.25]}", "--out", "out")
    hint = "hint: with `scale: 0.00392157` it reaches 99.6 % on 256 images: set it in `preprocess`"
    refused(ran, 2, "the original reaches 14.58 % on 720 images, the recipe expects 99.72 %", hint)
    nothing_left(job)


def write_weights(job: Job) -> Path:
    torch = pytest.importorskip("torch")
    (job.folder / "network.py").write_text(NETWORK)
    network = torch.nn.Module()
    network.conv, network.head = torch.nn.Conv2d(1, 8, 3, 2, 1), torch.nn.Linear(8, 4)
    torch.save(network.state_dict(), job.folder / "weights.pt")
    job.edit("  onnx: model.onnx", TORCH)
    job.edit("passes: []", "passes: [export_onnx: {}]")
    return job.folder / "weights.pt"


def test_a_checkpoint_whose_tensors_do_not_fit_is_refused_by_name(job: Job) -> None:
    write_weights(job)
    network = job.folder / "network.py"
    network.write_text(NETWORK.replace("nn.Linear(8, 4)", "nn.Linear(8, 5)").replace("self.conv =", "self.stem ="))
    refused(job.compile(), 2, "stem.weight", "conv.weight", "head.weight")
    nothing_left(job)


def test_a_pickle_with_code_is_refused_and_never_run(job: Job) -> None:
    path = write_weights(job)
    canary = job.folder / "canary"

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            import os

            return os.system, (f"touch {canary}",)

    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, pickle.dumps({"conv.weight": Bomb()}, 2) if name.endswith("data.pkl") else data)
    refused(job.compile(), 4)
    assert not canary.exists()
    nothing_left(job)


def test_a_factory_that_raises_is_named_with_its_line(job: Job) -> None:
    write_weights(job)
    (job.folder / "network.py").write_text(NETWORK.replace("super().__init__()", "super().__init__(); 1 / 0"))
    refused(job.compile(), 2, "ZeroDivisionError", "line 6")


def test_a_candidate_that_crashes_is_a_reported_loser(job: Job) -> None:
    write_plugin(job, "    os.kill(os.getpid(), signal.SIGSEGV)")
    job.edit("[onnxruntime_cpu]", "[onnxruntime_cpu, broken]")
    job.edit("      int8: [quantize_int8: {}]\n", "")
    ran = job.compile()
    assert ran.code == 0, ran.out + ran.err
    assert "crashed with SIGSEGV" in " ".join((ran.out + ran.err).split())
    assert "Traceback" not in ran.err


def test_a_candidate_that_hangs_is_ended_at_its_limit(job: Job) -> None:
    write_plugin(job, "    import time; time.sleep(600)")
    job.edit("[onnxruntime_cpu]", "[broken]")
    job.edit("      int8: [quantize_int8: {}]\n", "")
    refused(job.compile("--time-limit", "8"), 5, "did not answer within 8 s")
    nothing_left(job)


def test_a_candidate_that_yields_nan_fails_whatever_its_accuracy(job: Job) -> None:
    write_plugin(
        job,
        "    artifact = super().build(model, context, folder)\n"
        "    return artifact.model_copy(update={'backend': 'broken'})\n"
        "  def open(self, artifact):\n"
        "    session = super().open(artifact)\n"
        "    run = session.run\n"
        "    session.run = lambda inputs: {name: array * float('nan') for name, array in run(inputs).items()}\n"
        "    return session",
    )
    job.edit("[onnxruntime_cpu]", "[broken]")
    job.edit("      int8: [quantize_int8: {}]\n", "")
    ran = job.compile()
    assert ran.code == 1, ran.out + ran.err
    assert "not finite" in " ".join(ran.out.split())


def test_where_no_candidate_can_be_built_the_exit_code_is_5(job: Job) -> None:
    write_plugin(job, '    raise MissingError("`libbroken` is not installed", "pip install libbroken")')
    job.edit("[onnxruntime_cpu]", "[broken]")
    job.edit("      int8: [quantize_int8: {}]\n", "")
    refused(job.compile(), 5, "`libbroken` is not installed", "pip install libbroken")
    nothing_left(job)


def write_plugin(job: Job, body: str) -> None:
    """A third party's backend, found by its entry point, whose build ends as `body` says."""
    plugin = job.folder / "plugin"
    metadata = plugin / "broken_backend-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-backend\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[edgeopt.backends]\nbroken = broken_backend:Broken\n")
    (plugin / "broken_backend.py").write_text(
        "import os, signal\n"
        "from edgeopt.errors import MissingError\n"
        "from edgeopt.backends.onnxruntime_cpu import OnnxruntimeCpu\n"
        "class Broken(OnnxruntimeCpu):\n"
        "  def build(self, model, context, folder):\n"
        f"{body}\n"
    )


def test_another_metric_can_be_expected_and_is_held_to_what_is_reached(job: Job) -> None:
    job.edit("  onnx: model.onnx", "  onnx: model.onnx\n  expect: {macro_f1: 50}")
    for expected, code in ((100, 0), (60, 2)):
        ran = job.compile("--set", f"model.expect.macro_f1={expected}")
        assert ran.code == code, ran.out + ran.err
    assert "the original reaches 100.00 % in `macro_f1` on 600 images, the recipe expects 60 %" in ran.err


def test_an_expected_metric_that_does_not_exist_is_named(job: Job) -> None:
    job.edit("  onnx: model.onnx", "  onnx: model.onnx\n  expect: {macro_f2: 90}")
    ran = job.compile()
    assert ran.code == 2
    assert "unknown metric `macro_f2`" in ran.err


def test_an_original_that_guesses_is_told_and_so_is_a_recipe_without_budgets(job: Job) -> None:
    samples = dict(np.load(job.folder / "validation.npz"))
    samples["labels"] = np.random.default_rng(0).integers(0, 4, len(samples["labels"]))
    np.savez(job.folder / "validation.npz", **samples)
    text = job.recipe.read_text()
    job.recipe.write_text(text[: text.index("budgets:")])
    ran = job.compile()
    told = " ".join((ran.out + ran.err).split())
    assert "no better than chance: look at `preprocess`" in told
    assert "target `cpu` has no budgets" in told
    notes = json.loads((job.out / "report.json").read_text())["notes"]
    assert len(notes) == len(set(notes)) == 2


def test_a_validation_split_without_labels_is_told_at_once(job: Job) -> None:
    with np.load(job.folder / "validation.npz") as split:
        np.savez(job.folder / "validation.npz", image=split["image"])
    ran = job.compile()
    assert ran.code == 3, ran.out + ran.err
    assert "the validation split has no labels: the accuracy budget will stay unmeasured" in ran.err


#: what it computes depends on the values that it sees, so no graph says it
UNEXPORTABLE = NETWORK.replace("self.conv(x)", "self.conv(x * (2.0 if x.sum().item() > 0 else 3.0))")


def test_nothing_is_trained_where_the_network_as_given_cannot_be_exported(job: Job) -> None:
    write_weights(job)
    (job.folder / "network.py").write_text(UNEXPORTABLE)
    random = np.random.default_rng(3)
    images = random.integers(0, 256, (64, 1, 32, 32)).astype(np.uint8)
    np.savez(job.folder / "training.npz", image=images, labels=np.arange(64) % 4)
    job.edit("  validation:", "  training: {path: training.npz}\n  validation:")
    job.edit("passes: [", "passes: [fine_tune: {epochs: 1}, ")
    ran = job.compile()
    refused(ran, 5, "export", "`--keep-going` tries the candidates all the same")
    assert "fine_tune" not in ran.out
    ran = job.compile("--keep-going")
    assert ran.code == 5
    assert "fine_tune" in ran.out


def test_a_validation_split_of_one_class_is_refused(job: Job) -> None:
    with np.load(job.folder / "validation.npz") as split:
        np.savez(job.folder / "validation.npz", image=split["image"], labels=np.full(len(split["labels"]), 2))
    refused(job.compile(), 2, "every sample of the validation split", "has label 2")
    nothing_left(job)
