"""Faults of labels and preprocessing, injected into sound jobs: does edgeopt find them out, and name the right one?

    with tempfile.TemporaryDirectory() as folder:
        jobs = make_jobs(Path(folder))
        found = [search(fault.inject(jobs[fault.job]), jobs[fault.job].top1, Path(folder)) for fault in FAULTS]

`benchmarks/gates.py` prints what comes of it, and `tests/validation/test_mistakes.py` holds it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeopt import onnx_graph
from edgeopt.backends import build_artifact
from edgeopt.context import Context
from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.model import Artifact, Model, OnnxValue, TensorSpec, write_model
from edgeopt.passes import run_pass
from edgeopt.sources import SourceRequest, load_source
from edgeopt.validation.mistakes import Mistake, Original, find_mistake, unexpected
from edgeopt.validation.predicting import run_predictions
from edgeopt.validation.predictions import Predictions, load_predictions

ROOT = Path(__file__).resolve().parent.parent
BATCH = 16

SCALE, GREY = 0.00392157, {"mean": (0.5,), "std": (0.25,)}
COLOUR = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Job:
    """A network, labelled images, how the recipe prepares them, and what it calls the classes.

    `images`: (N, C, H, W); `labels`: (N,); `top1`: what the network is known to reach, in percent.
    """

    artifact: Artifact
    images: NDArray[Any]
    labels: NDArray[np.int64]
    preprocess: Preprocess
    names: tuple[str, ...] = ()
    top1: float = 0.0

    def of(self, rows: NDArray[Any]) -> Job:
        """The same with some of the images."""
        return replace(self, images=self.images[rows], labels=self.labels[rows])

    def prepared(self, **fields: Any) -> Job:
        """The same with other fields in the recipe's `preprocess`."""
        return replace(self, preprocess=self.preprocess.model_copy(update=fields))


@dataclass(frozen=True)
class Fault:
    """One fault, the sound job that it is injected into, and a pattern of the hint that names it."""

    name: str
    job: str
    told: str
    inject: Callable[[Job], Job]

    def is_named(self, found: Mistake | None) -> bool:
        return found is not None and found.whole and re.search(self.told, found.hint) is not None


def make_jobs(folder: Path, images: int | None = None) -> dict[str, Job]:
    """Sound jobs by name, each with the top-1 that it reaches on the last `images` (default: all 720).

    `grey`: the digits network. `colour`: the same network looking at the red channel, where the other two show other
    digits. `large`: digits of 64×64 pixels. `wide`: other digits on both sides of each.
    """
    with np.load(ROOT / "calibration_data/digits/validation.npz") as split:
        rows = slice(None if images is None else -images, None)
        digits, labels = split["image"][rows], split["labels"][rows]
    model = _export_digits(folder)
    grey = _build(model, folder / "grey")
    colour = _build(_with_colour(model, folder / "colour"), folder / "colour")
    order = np.random.default_rng(0).permutation(len(digits))
    coloured = np.concatenate([digits, digits[order], digits[order[::-1]]], axis=1)
    as_grey, as_colour = Preprocess(scale=SCALE, **GREY), Preprocess(scale=SCALE, **COLOUR)
    wide = np.concatenate([digits[order], digits, digits[order[::-1]]], axis=3)
    jobs = {
        "grey": Job(grey, digits, labels, as_grey),
        "colour": Job(colour, coloured, labels, as_colour),
        "large": Job(grey, _enlarged(digits, 64), labels, as_grey.model_copy(update={"resize": 32})),
        "wide": Job(grey, wide, labels, as_grey.model_copy(update={"resize": 32, "crop": 32})),
    }
    return {name: replace(job, top1=_top1(predict(job, folder))) for name, job in jobs.items()}


def predict(job: Job, folder: Path) -> Predictions:
    """What the network says of all images of a job."""
    run_predictions(job.artifact, _samples(job, folder), BATCH, folder)
    return load_predictions(folder)


def search(job: Job, expected: float, folder: Path) -> tuple[str, Mistake | None]:
    """What edgeopt says of a job that should reach `expected` percent: the error (empty: none) and the mistake."""
    said = predict(job, folder)
    error = unexpected(said, "top1", expected)
    if not error or _top1(said) > expected:
        return error, None
    original = Original(job.artifact, _samples(job, folder), BATCH, folder)
    return error, find_mistake(said.labels, said.classes, expected, job.preprocess, original.predict, job.names)


def sound_runs(job: Job, count: int) -> Iterator[Job]:
    """The job with half of its images, another half each time."""
    for seed in range(count):
        yield job.of(np.random.default_rng(seed).permutation(len(job.images))[::2])


def worse_runs(job: Job, count: int) -> Iterator[Job]:
    """What no repair explains: noise in the images and wrong labels, in turn, of growing strength."""
    for seed in range(count):
        random, strength = np.random.default_rng(seed), (seed + 2) / (count + 2)
        if seed % 2:
            wrong = random.random(len(job.labels)) < strength / 2
            yield replace(job, labels=np.where(wrong, random.integers(0, 10, len(wrong)), job.labels))
        else:
            noisy = job.images + random.normal(0, 160 * strength, job.images.shape)
            yield replace(job, images=np.clip(noisy, 0, 255).astype(np.uint8))


def _top1(said: Predictions) -> float:
    return 100 * float((said.labels == said.classes).mean())


def _samples(job: Job, folder: Path) -> Samples:
    np.savez(folder / "split.npz", image=job.images, labels=job.labels)
    return Samples("npz", folder / "split.npz", ("image",), job.preprocess, job.names or None)


def _export_digits(folder: Path) -> Model:
    request = SourceRequest(
        root=ROOT / "recipes", factory="digits/network.py:DigitsNet",
        weights=ROOT / "recipes/digits/digits.safetensors", inputs=(TensorSpec(name="image", shape=(1, 32, 32)),),
    )  # fmt: skip
    model, _ = load_source("torch_factory", request, _fresh(folder / "load"))
    return run_pass("export_onnx", {}, model, Context(folder=_fresh(folder / "export"))).model


def _with_colour(model: Model, folder: Path) -> Model:
    """The network behind a convolution that takes the red of normalized colours to a normalized grey."""
    from onnx import helper, numpy_helper

    graph = onnx_graph.load_graph(model.folder / model.value.file)
    mean, std, (grey_mean,), (grey_std,) = COLOUR["mean"][0], COLOUR["std"][0], GREY["mean"], GREY["std"]
    red = np.zeros((1, 3, 1, 1), np.float32)
    red[0, 0] = std / grey_std
    bias = np.full(1, (mean - grey_mean) / grey_std, np.float32)
    for node in graph.graph.node:
        node.input[:] = ["grey" if name == "image" else name for name in node.input]
    graph.graph.initializer.extend([numpy_helper.from_array(red, "red"), numpy_helper.from_array(bias, "red.bias")])
    graph.graph.node.insert(0, helper.make_node("Conv", ["image", "red", "red.bias"], ["grey"]))
    graph.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 3
    onnx_graph.save_graph(graph, _fresh(folder / "model") / "model.onnx")
    inputs = (TensorSpec(name="image", shape=("batch", 3, 32, 32)),)
    found = model.model_copy(update={"inputs": inputs, "value": OnnxValue(file="model.onnx")})
    return write_model(found.model_copy(update={"folder": folder / "model"}), folder / "model")


def _build(model: Model, folder: Path) -> Artifact:
    built = _fresh(folder / "built")
    return build_artifact("onnxruntime_cpu", model, Context(folder=built)).at(built)


def _fresh(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _enlarged(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    large = [Image.fromarray(image[0]).resize((size, size), Image.Resampling.BICUBIC) for image in images]
    return np.stack([np.asarray(image)[None] for image in large])


def _along_text(job: Job) -> Job:
    """Labels that count along the names sorted as text, of a network that counts along the digits."""
    ranks = np.array([sorted(WORDS).index(word) for word in WORDS])
    return replace(job, labels=ranks[job.labels], names=WORDS)


def _in_own_order(job: Job) -> Job:
    """Classes listed in an order of their own, of a network that was trained on folders in the order of their names."""
    order = np.random.default_rng(1).permutation(10)
    return replace(job, labels=np.argsort(order)[job.labels], names=tuple("abcdefghij"[number] for number in order))


def _permuted(job: Job) -> Job:
    return replace(job, labels=np.random.default_rng(2).permutation(10)[job.labels])


def _without_first_class(job: Job) -> Job:
    """Labels that do not count the network's first class."""
    found = job.of(job.labels > 0)
    return replace(found, labels=found.labels - 1)


def _read_as(job: Job, *axes: int) -> Job:
    """Images whose axes were changed by a reshape where it takes a transpose."""
    moved = job.images.transpose(0, *axes)
    return replace(job, images=moved.reshape(job.images.shape))


def _reshaped(job: Job) -> Job:
    count, channels, height, width = job.images.shape
    return replace(job, images=job.images.reshape(count, height, width, channels).transpose(0, 3, 1, 2).copy())


FAULTS = (
    Fault("labels counted from 1, ten as 0", "grey", "with 1 taken from every label",
          lambda job: replace(job, labels=(job.labels + 1) % 10)),
    Fault("labels without the first class", "grey", "with 1 added to every label", _without_first_class),
    Fault("labels permuted", "grey", "with the labels renumbered", _permuted),
    Fault("labels counted along sorted names", "grey", r"labels that count along \[eight, five, four,", _along_text),
    Fault("classes listed in another order", "grey", r"classes in the order \[a, b, c,", _in_own_order),
    Fault("no scale", "grey", "with `scale: 0.00392157` it", lambda job: job.prepared(scale=None)),
    Fault("scale on 0…1", "grey", "without `scale` it",
          lambda job: replace(job, images=job.images.astype(np.float32) / 255)),
    Fault("no mean and std, grey", "grey", "with `mean: .* and `std: ", lambda job: job.prepared(mean=None, std=None)),
    Fault("mean and std of 0…255", "grey", "without `scale` it|with `mean: .*`scale` comes before",
          lambda job: job.prepared(mean=(127.5,), std=(63.75,))),
    Fault("inverted", "grey", "dark and bright are swapped", lambda job: replace(job, images=255 - job.images)),
    Fault("height and width swapped", "grey", "with height and width swapped",
          lambda job: replace(job, images=job.images.transpose(0, 1, 3, 2).copy())),
    Fault("cropped, not resized", "large", "with `resize: ", lambda job: job.prepared(resize=None, crop=32)),
    Fault("resized to more than the crop", "large", "with `resize: ", lambda job: job.prepared(resize=48, crop=32)),
    Fault("squashed, not cropped", "wide", "with `resize: 32` and `crop: |with `crop: .* and without `resize`",
          lambda job: job.prepared(resize=(32, 32), crop=None)),
    Fault("BGR", "colour", "with `channels: bgr` it", lambda job: replace(job, images=job.images[:, ::-1].copy())),
    Fault("RGB read as BGR", "colour", "with `channels: rgb` it", lambda job: job.prepared(channels="bgr")),
    Fault("no mean and std", "colour", r"with `mean: \[0.485, .*`std: \[0.229, ",
          lambda job: job.prepared(mean=None, std=None)),
    Fault("no preprocessing", "colour", r"with `scale: 0.00392157`, `mean: \[0.485, .*`std: \[0.229, ",
          lambda job: replace(job, preprocess=Preprocess())),
    Fault("(H, W, C) reshaped", "colour", r"read as \(H, W, C\)", lambda job: _read_as(job, 2, 3, 1)),
    Fault("(C, H, W) reshaped", "colour", r"read as \(C, H, W\) before", _reshaped),
)  # fmt: skip
