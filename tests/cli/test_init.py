"""`init`: a first recipe from real networks and real data, that loads, plans and compiles; what is asked or refused."""

from __future__ import annotations

import io
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgeopt.recipe import Recipe, load_recipe
from tests.cli.test_cli import Ran, Run, refused, run
from tests.end_to_end.conftest import write_network, write_split

__all__ = ["run"]

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "recipes/digits"
PREPROCESS = "{scale: 0.00392157, mean: [0.5], std: [0.25]}"
CLASSES = ("ant", "bee", "cat")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    return tmp_path


@pytest.fixture
def digits(folder: Path) -> list[str]:
    """The digits network, its code and its data beside the recipe, and what has to be said of them."""
    for name in ("network.py", "digits.safetensors"):
        shutil.copy(DIGITS / name, folder / name)
    shutil.copytree(ROOT / "calibration_data/digits", folder / "data")
    return ["digits.safetensors", "--factory", "network.py:DigitsNet", "--option", "width=64", "--data", "data"]


def write_images(
    folder: Path, count: int = 2, size: tuple[int, int] = (20, 16), names: tuple[str, ...] = CLASSES
) -> Path:
    """PNGs of one width and height in class folders."""
    random = np.random.default_rng(len(folder.name) + count)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name / f"{number}.png")
    return folder


def write_onnx(
    path: Path = Path("model.onnx"), *, shape: tuple[int | str, ...] = ("batch", 3, 20, 16), scores: int = 3,
    inputs: tuple[str, ...] = ("image",), dtype: int = TensorProto.FLOAT, pooled: bool = True,
) -> str:  # fmt: skip
    """One convolution for each input, summed; then scores, or a map where it is not pooled."""
    channels = shape[1] if isinstance(shape[1], int) else 3
    weights = np.random.default_rng(0).normal(0, 0.3, (scores, channels, 3, 3)).astype(np.float32)
    nodes = [helper.make_node("Conv", [f"{name}_f", "w"], [f"{name}_c"], pads=[1] * 4) for name in inputs]
    nodes = [helper.make_node("Cast", [name], [f"{name}_f"], to=TensorProto.FLOAT) for name in inputs] + nodes
    nodes.append(helper.make_node("Sum", [f"{name}_c" for name in inputs], ["s"]))
    if pooled:
        nodes += [helper.make_node("GlobalAveragePool", ["s"], ["p"]), helper.make_node("Flatten", ["p"], ["y"])]
    else:
        nodes.append(helper.make_node("Relu", ["s"], ["y"]))
    given = [helper.make_tensor_value_info(name, dtype, shape) for name in inputs]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], scores] + ([] if pooled else ["h", "w"]))
    graph = helper.make_graph(nodes, "made", given, [out], [numpy_helper.from_array(weights, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return str(path)


def drafted(ran: Ran, path: str = "recipe.yaml") -> tuple[Recipe, str]:
    """The recipe that was written, once it is sound and its plan was shown."""
    assert (ran.code, ran.err) == (0, ""), ran
    recipe = load_recipe(path)
    assert f"\n{recipe.name} · {len(recipe.targets)} target(s) · " in ran.out
    assert ran.out.splitlines()[-1] == f"next: edgeopt compile {path}"
    return recipe, Path(path).read_text(encoding="utf8")


def uncommented(text: str, *starts: str) -> str:
    """The recipe with comment lines that begin so made part of it."""
    for start in starts:
        assert f"# {start}" in text, start
        text = text.replace(f"# {start}", start, 1)
    return text


def answering(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """A person at a terminal who types these lines."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("".join(f"{line}\n" for line in lines)))


# from a checkpoint


def test_a_checkpoint_with_its_factory_and_data_becomes_a_recipe_that_plans(run: Run, digits: list[str]) -> None:
    ran = run("init", *digits, "--preprocess", PREPROCESS)
    recipe, text = drafted(ran)
    assert recipe.name == "digits"
    assert recipe.model.factory == "network.py:DigitsNet"
    assert recipe.model.options == {"width": 64}
    assert recipe.model.inputs["image"].shape == [1, 32, 32]  # as the arrays are
    assert recipe.data.format == "npz"
    assert recipe.data.calibration is not None
    assert recipe.data.calibration.samples is None  # there are 260, and 512 would be too many
    assert (recipe.data.preprocess.mean, recipe.data.preprocess.std) == ((0.5,), (0.25,))
    assert [step.name for step in recipe.passes] == ["export_onnx", "simplify_onnx"]
    assert list(recipe.targets[0].variants) == ["fp32", "int8"]
    assert recipe.budgets.accuracy is not None
    assert recipe.budgets.accuracy.max_drop_pp == 1.0
    assert "62.1 MMACs, 0.73 M parameters; 10 classes." in text.splitlines()[0]
    assert "# 720 samples" in text
    assert run("plan", "recipe.yaml").code == 0


def test_what_is_commented_out_becomes_a_sound_recipe_too(run: Run, digits: list[str], folder: Path) -> None:
    _, text = drafted(run("init", *digits, "--preprocess", PREPROCESS))
    more = uncommented(text, "- prune_channels", "- fine_tune", "expect:", "size:", "memory:", "int8_auto:")
    more = more.replace("  latency: {max_ratio: 1.0}", "").replace(
        "# latency: {max_ratio: 0.5", "latency: {max_ratio: 0.5"
    )
    (folder / "recipe.yaml").write_text(more)
    recipe = load_recipe("recipe.yaml")
    assert [step.name for step in recipe.passes][:2] == ["prune_channels", "fine_tune"]
    assert recipe.budgets.size is not None
    assert recipe.budgets.latency is not None
    assert recipe.budgets.latency.p90_ms == 5.0
    assert run("plan", "recipe.yaml").code == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_recipe_of_the_digits_compiles_to_a_bundle(run: Run, digits: list[str], folder: Path) -> None:
    drafted(run("init", *digits, "--preprocess", PREPROCESS, "--target", "desk=onnxruntime_cpu"))
    ran = run("compile", "recipe.yaml", "--set", "measure.seconds=60")
    assert ran.code in (0, 3), ran  # a busy machine may leave the ratio undecided; nothing may fail
    assert (folder / "build/digits/report.md").is_file()
    assert "onnxruntime_cpu/int8" in ran.out


def test_paths_are_those_that_hold_from_where_the_recipe_lies(run: Run, digits: list[str], folder: Path) -> None:
    out = "elsewhere/deep/my recipe.yaml"
    ran = run("init", *digits, "--preprocess", "none", "--out", out, "--name", "mine")
    assert ran.code == 0, ran
    recipe = load_recipe(out)
    assert recipe.model.factory == "../../network.py:DigitsNet"
    assert recipe.data.validation.path.resolve() == (folder / "data/validation.npz").resolve()
    assert ran.out.splitlines()[-1] == f"next: edgeopt compile '{out}'"


def test_the_state_dict_and_the_prefix_in_a_checkpoint_are_found(run: Run, digits: list[str], folder: Path) -> None:
    tensors = safetensors.torch.load_file("digits.safetensors")
    trained = {
        "epoch": 3,
        "optimizer": {"state": {}},
        "net": {f"module.{name}": each for name, each in tensors.items()},
    }
    torch.save(trained, "trained.pth")
    recipe, _ = drafted(run("init", "trained.pth", *digits[1:], "--preprocess", PREPROCESS))
    assert (recipe.model.key, recipe.model.strip_prefix) == ("net", "module.")


def test_two_state_dicts_are_asked_about(run: Run, digits: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = safetensors.torch.load_file("digits.safetensors")
    torch.save({"model": tensors, "ema": tensors}, "both.pt")
    given = ["both.pt", *digits[1:], "--preprocess", PREPROCESS]
    refused(run("init", *given), 2, "`--key` is missing: which state dict of `both.pt`: model, ema?", "one of them")
    answering(monkeypatch, "emma", "ema")
    ran = run("init", *given)
    assert ran.code == 0, ran
    assert "Error: `both.pt` has no state dict `emma`; did you mean `ema`?" in ran.err
    assert load_recipe("recipe.yaml").model.key == "ema"


# from an ONNX file


def test_an_onnx_file_tells_its_inputs_and_classes_itself(run: Run, folder: Path) -> None:
    write_network(folder / "model.onnx")
    for split, count in (("val", 30), ("train", 40), ("test", 20)):
        write_split(folder, split, count, count)
    recipe, text = drafted(run("init", "model.onnx", "--data", ".", "--preprocess", "unit"))
    assert (recipe.model.inputs, [step.name for step in recipe.passes]) == ({}, ["simplify_onnx"])
    assert recipe.data.validation.path.name == "val.npz"
    assert recipe.data.calibration is not None
    assert recipe.data.calibration.path.name == "train.npz"
    assert recipe.data.training is None  # it would share its images with calibration: a comment offers it
    assert load_text(folder, uncommented(text, "training:")).data.training is not None
    assert "# not used: test.npz" in text
    assert "4 classes." in text
    assert "# CHECK: 30 validation samples may be too few" in text
    assert recipe.budgets.latency is not None
    assert recipe.budgets.latency.max_ratio == 1.05  # fp32 on ONNX Runtime is the original: 1.0 is never decided


def load_text(folder: Path, text: str) -> Recipe:
    (folder / "recipe.yaml").write_text(text, encoding="utf8")
    return load_recipe(folder / "recipe.yaml")


def test_open_sizes_are_taken_from_the_samples_or_asked_for(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_onnx(shape=("n", 3, "height", "width"))
    write_images(folder / "images/train")
    write_images(folder / "images/val", 3)
    recipe, text = drafted(run("init", model, "--data", "images"))
    assert recipe.model.inputs["image"].shape == [3, 20, 16]
    assert "# CHECK: the shape of the samples as they are prepared" in text
    shutil.copytree(folder / "images", folder / "other")
    Image.new("RGB", (40, 40)).save(folder / "other/val/ant/9.png")
    ran = run("init", model, "--data", "other", "--force")
    what = "the input `image` leaves sizes open, [3, height, width]: which shape has it, without the batch axis?"
    refused(ran, 2, f"`--input` is missing: {what}", "as in `--input 3x224x224`")
    answering(monkeypatch, "{crop: 16}")
    assert run("init", model, "--data", "other", "--force").code == 0  # once they are cropped, they are of one size
    assert load_recipe("recipe.yaml").model.inputs["image"].shape == [3, 16, 16]
    answering(monkeypatch, "", "1x24x24", "3x24x24")
    ran = run("init", model, "--data", "other", "--force")
    assert "Error: `1x24x24` does not fit [3, height, width]" in ran.err
    assert "error: the samples of `other/val` have shape [3, 20, 16] or [3, 40, 40] for `image`" in ran.err
    said = ("--input", "3x24x24", "--preprocess", "{resize: [24, 24]}")
    assert run("init", model, "--data", "other", "--force", *said).code == 0
    recipe = load_recipe("recipe.yaml")
    assert (recipe.model.inputs["image"].shape, recipe.data.preprocess.resize) == ([3, 24, 24], (24, 24))


def test_no_data_leaves_a_marked_place_and_nothing_else_open(run: Run, folder: Path) -> None:
    ran = run("init", write_onnx(), "--no-data", "--preprocess", "imagenet")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[-1] == "next: edgeopt plan recipe.yaml"
    text = Path("recipe.yaml").read_text(encoding="utf8")
    assert re.search(r"# CHECK: no data was named", text)
    faults = run("plan", "recipe.yaml").err.splitlines()
    assert len([line for line in faults if line.startswith("error: ")]) == 2
    assert all("WHERE-ARE-THE-IMAGES" in line for line in faults if line.startswith("error: "))
    write_images(folder / "images/train")
    write_images(folder / "images/val", 3)
    mended = text.replace("WHERE-ARE-THE-IMAGES/calibration", "images/train")
    assert load_text(folder, mended.replace("WHERE-ARE-THE-IMAGES/validation", "images/val")).data.preprocess.mean


def test_a_network_that_does_not_classify_gets_no_accuracy_budget_of_classes(run: Run, folder: Path) -> None:
    np.savez("val.npz", image=np.zeros((4, 3, 20, 16), np.float32))
    np.savez("calib.npz", image=np.ones((4, 3, 20, 16), np.float32))
    recipe, text = drafted(run("init", write_onnx(pooled=False), "--data", ".", "--preprocess", "none"))
    assert recipe.budgets.accuracy is None
    assert "# CHECK: the network gives no scores of classes" in text
    assert "# CHECK: validation has no labels" in text
    assert "gives y [batch, 3, 20, 16]" in text


def test_a_network_of_several_inputs_takes_arrays_named_after_them(run: Run, folder: Path) -> None:
    model = write_onnx(inputs=("left", "right"))
    for name, count in (("val", 5), ("calib", 6)):
        images = np.full((count, 3, 20, 16), count, np.float32)
        np.savez(f"{name}.npz", left=images, right=images, labels=np.zeros(count, np.int64))
    recipe, _ = drafted(run("init", model, "--data", ".", "--preprocess", "none"))
    assert recipe.data.format == "npz"
    write_images(folder / "images/train")
    write_images(folder / "images/val", 3)
    message = "an image folder feeds one input, the network has 2: left, right"
    refused(run("init", model, "--data", "images", "--force"), 2, message, "use `format: npz` or `format: python`")
    np.savez("val.npz", left=images, labels=np.zeros(len(images), np.int64))
    assert "`val.npz` has no array `right`" in run("init", model, "--data", ".", "--force").err.replace(
        f"{folder}/", ""
    )


# from folders of images


def test_classes_are_the_folders_in_the_order_of_the_labels(run: Run, folder: Path) -> None:
    names = ("10", "9", "Zebra", "ant")
    write_images(folder / "images/train", names=names)
    write_images(folder / "images/val", 3, names=names[1:])
    recipe, text = drafted(run("init", write_onnx(scores=4), "--data", "images"))
    assert recipe.data.format == "image_folder"
    assert recipe.data.classes == list(names)
    assert "CHECK: the 4 folders by name: was the network trained with labels in this order?" in text
    assert "CHECK: preprocessing is not known: raw values go in as they are (uint8, " in text


def test_numbered_folders_are_told_to_be_in_the_order_of_text(run: Run, folder: Path) -> None:
    for split in ("train", "val"):
        write_images(folder / "images" / split, names=("10", "2", "1"))
    recipe, text = drafted(run("init", write_onnx(), "--data", "images"))
    assert recipe.data.classes == ["1", "10", "2"]
    assert "CHECK: they are in the order of text, not of numbers" in text


def test_another_number_of_folders_than_of_scores_needs_the_names(run: Run, folder: Path) -> None:
    for split in ("train", "val"):
        write_images(folder / "images" / split)
    model, hint = write_onnx(scores=5), "name all classes in the order of the labels: `--classes FILE`, one in a line"
    ran = run("init", model, "--data", "images")
    refused(ran, 2, "the network gives 5 scores, and there are 3 class folders", hint)
    (folder / "names.txt").write_text("zoo\ncat\nbee\n\nant\nyak\n")
    recipe, text = drafted(run("init", model, "--data", "images", "--classes", "names.txt"))
    assert recipe.data.classes == ["zoo", "cat", "bee", "ant", "yak"]
    assert "folders by name" not in text
    assert run("init", model, "--data", "images", "--force", "--classes", "ant,bee,cat").code == 2


def test_images_of_another_size_need_their_preprocessing(run: Run, folder: Path) -> None:
    for split in ("train", "val"):
        write_images(folder / "images" / split, size=(40, 30))
    model = write_onnx(shape=("batch", 3, 16, 16))
    ran = run("init", model, "--data", "images")
    message = "the samples of `images/val` have shape [3, 40, 30] for `image`, the network takes [3, 16, 16]"
    hint = "say how they were prepared in training, as in `--preprocess '{resize: 256, crop: 224}'`"
    refused(ran, 2, message, hint)
    assert not Path("recipe.yaml").exists()
    recipe, _ = drafted(
        run("init", model, "--data", "images", "--preprocess", "imagenet", "--preprocess", "{resize: 20, crop: 16}")
    )
    prepared = recipe.data.preprocess
    assert (prepared.resize, prepared.crop, prepared.mean) == (20, 16, (0.485, 0.456, 0.406))


def test_what_the_shape_of_the_input_says_of_images_is_no_question(run: Run, folder: Path) -> None:
    for split in ("train", "val"):
        write_images(folder / "images" / split)
    gray, _ = drafted(run("init", write_onnx(shape=("batch", 1, 20, 16)), "--data", "images"))
    assert gray.data.preprocess.channels == "gray"


# what is said, asked and refused


def test_a_person_is_asked_for_what_cannot_be_found_and_for_nothing_else(
    run: Run, digits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, "network:DigitsNet", "network.py:DigitsNet", "data", "half", PREPROCESS)
    ran = run("init", digits[0])
    assert ran.code == 0, ran
    assert "--factory: a checkpoint holds tensors and no network" in ran.err
    assert "Error: `--factory network:DigitsNet` is not of the form path/to/file.py:callable" in ran.err
    assert "--preprocess: none, unit, imagenet, a mapping as in a recipe, or nothing if you do not know" in ran.err
    assert "samples are uint8 [1, 32, 32], 0 to 252: how were they prepared in training?" in ran.err
    assert "Error: `--preprocess half` is no mapping" in ran.err
    assert "--input" not in ran.err
    assert load_recipe("recipe.yaml").data.preprocess.std == (0.25,)


def test_yes_asks_nothing_even_at_a_terminal(run: Run, digits: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch)
    _, text = drafted(run("init", *digits, "--yes"))
    assert "# CHECK: preprocessing is not known" in text
    assert "  preprocess: {}\n" in text


def test_a_file_that_is_there_is_never_overwritten_unasked(run: Run, digits: list[str], folder: Path) -> None:
    (folder / "recipe.yaml").write_text("mine")
    hint = "write elsewhere with `--out`, or over it with `--force`"
    refused(run("init", *digits), 2, "`recipe.yaml` is there already", hint)
    assert (folder / "recipe.yaml").read_text() == "mine"
    drafted(run("init", *digits, "--force"))


def test_without_a_factory_a_checkpoint_is_told_what_one_is(run: Run, digits: list[str]) -> None:
    ran = run("init", digits[0], "--data", "data")
    assert ran.code == 2
    assert ran.err.startswith("error: `--factory` is missing: what makes the network of `digits.safetensors`")
    assert "`--factory network.py:make --option width=64` for a file network.py with `def make(width)" in ran.err


def test_a_pickle_that_wants_to_run_code_exits_with_4_before_anything_is_asked(run: Run, folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (folder / "ran",)

    (folder / "evil.pt").write_bytes(pickle.dumps({"state_dict": Evil()}))
    ran = run("init", "evil.pt")
    assert ran.code == 4, ran
    assert "wants to run" in ran.err
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["modle.onnx"], "`modle.onnx` is not there"),
        (["."], "`.` is a folder, not a file"),
        (["notes.txt"], "`notes.txt` is no network that edgeopt reads: it ends in `.txt`"),
        (["broken.onnx"], "does not parse as ONNX"),
        (["model.onnx"], "`--data` is missing: which folder holds the data?"),
        (["model.onnx", "--data", "nowhere"], "there is no folder `nowhere`"),
        (["model.onnx", "--data", "empty"], "`empty` holds no splits"),
        (["model.onnx", "--data", "one"], "`--calibration` is missing: what is int8 calibrated with?"),
        (["model.onnx", "--validation", "one/val", "--calibration", "one/val"], "are the same images"),
        (["model.onnx", "--data", "one", "--no-data"], "`--no-data` goes with no other option for data"),
        (["model.onnx", "--no-data", "--factory", "a.py:b"], "`--factory` is for a checkpoint"),
        (["model.onnx", "--no-data", "--input", "img=3x20x16"], "`model.onnx` has no input `img`"),
        (["model.onnx", "--no-data", "--input", "3x0"], "`--input 3x0` is no shape"),
        (["model.onnx", "--no-data", "--input", "3x9x9"], "the recipe says float32 [3, 9, 9]"),
        (["model.onnx", "--no-data", "--target", "litert"], "`litert` is no kind of target"),
        (["model.onnx", "--no-data", "--target", "x=onnxruntime_cp"], "unknown backend `onnxruntime_cp`"),
        (["model.onnx", "--no-data", "--target", "x=torch_eager"], "`torch_eager` cannot be a target's backend"),
        (["model.onnx", "--no-data", "--preprocess", "{scale: 0}"], "`--preprocess {scale: 0}`: `scale`"),
        (["model.onnx", "--no-data", "--preprocess", "vgg"], "`--preprocess vgg` is no mapping"),
        (["model.onnx", "--no-data", "--name", "../x"], "`--name ../x` is no name"),
        (["bytes.onnx", "--no-data"], "is uint8, and edgeopt feeds float32"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_line_and_a_hint(arguments: list[str], message: str, run: Run, folder: Path) -> None:
    write_onnx()
    write_onnx(Path("bytes.onnx"), dtype=TensorProto.UINT8)
    Path("broken.onnx").write_bytes(b"no graph")
    Path("notes.txt").touch()
    Path("empty").mkdir()
    write_images(folder / "one/val")
    ran = run("init", *arguments)
    assert ran.code == 2, ran
    assert ran.out == ""
    assert message in ran.err.splitlines()[0]
    assert "\nhint: " in ran.err
    assert not Path("recipe.yaml").exists()
