from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.faults import FAULTS, Fault, Job, make_jobs, search, sound_runs, worse_runs
from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.data.splits import make_splits
from edgeopt.errors import BackendError, DataError
from edgeopt.model import Artifact
from edgeopt.validation import mistakes
from edgeopt.validation.mistakes import HIGHER, NOTHING, Mistake, Original, explain, find_mistake, unexpected
from edgeopt.validation.predictions import Predictions

SOUND = Preprocess(scale=0.00392157, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CLASSES = 5


@dataclass(frozen=True)
class Templates:
    """A network that knows one image of each class, prepared as it should be, and names the nearest.

    Its images are noise: those near to two classes change theirs with every change of the preprocessing.
    """

    images: NDArray[Any]
    labels: NDArray[np.int64]
    known: NDArray[np.float32]

    def rerun(self, preprocess: Preprocess) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        prepared = np.stack([preprocess.apply({"image": image}, "an image")["image"] for image in self.images])
        if prepared.shape[1:] != self.known.shape[1:]:
            raise BackendError("the shape does not fit")
        distances = ((prepared[:, None] - self.known[None]) ** 2).sum(axis=(2, 3, 4))
        return self.labels, distances.argmin(axis=1)

    def find(self, preprocess: Preprocess, expected: float = 99.0, names: tuple[str, ...] = ()) -> Mistake | None:
        labels, classes = self.rerun(preprocess)
        return find_mistake(labels, classes, expected, preprocess, self.rerun, names)


@pytest.fixture
def templates() -> Templates:
    random = np.random.default_rng(0)
    known, images = (random.integers(0, 256, (count, 3, 4, 4)).astype(np.uint8) for count in (CLASSES, 150))
    network = Templates(images, np.empty(0), np.stack([SOUND.apply({"": image}, "a template")[""] for image in known]))
    return replace(network, labels=network.rerun(SOUND)[1])


def prepared(**fields: Any) -> Preprocess:
    return SOUND.model_copy(update=fields)


def test_the_network_of_these_tests_is_sound(templates: Templates) -> None:
    labels, classes = templates.rerun(SOUND)
    assert (labels == classes).all()


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        (prepared(channels="bgr"), "with `channels: rgb` it reaches 100.0 % on 150 images: set it in `preprocess`"),
        (prepared(scale=None), "with `scale: 0.00392157` it reaches 100.0 % on 150 images: set it in `preprocess`"),
        (
            Preprocess(),
            "with `scale: 0.00392157`, `mean: [0.485, 0.456, 0.406]` and `std: [0.229, 0.224, 0.225]` "
            "it reaches 100.0 % on 150 images: set them in `preprocess`",
        ),
    ],
)
def test_an_edit_that_repairs_it_is_the_hint(templates: Templates, given: Preprocess, hint: str) -> None:
    found = templates.find(given)
    assert found is not None
    assert found.hint == hint


@pytest.mark.parametrize(
    ("store", "hint"),
    [
        (lambda images: 255 - images, "dark and bright are swapped, so set them in `preprocess`"),
        (lambda images: images[:, ::-1], "with `channels: bgr` it"),
        (lambda images: images.transpose(0, 1, 3, 2), "store them as (C, H, W)"),
        (lambda images: images.transpose(0, 2, 3, 1).reshape(images.shape), "with the values read as (H, W, C)"),
        (lambda images: images / np.float32(255), "without `scale` it reaches 100.0 % on 150 images: take it out of"),
    ],
)
def test_images_that_were_stored_otherwise_are_found_out(
    templates: Templates, store: Callable[[NDArray[Any]], NDArray[Any]], hint: str
) -> None:
    found = replace(templates, images=store(templates.images)).find(SOUND)
    assert found is not None
    assert hint in found.hint


def test_labels_shifted_by_one_are_found_out_before_anything_is_run(templates: Templates) -> None:
    labels, classes = templates.rerun(SOUND)

    def never(preprocess: Preprocess) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        raise AssertionError("nothing is to be run")

    found = find_mistake((labels + 1) % CLASSES, classes, 99.0, SOUND, never)
    assert found is not None
    assert found.name == "labels shifted by one"
    assert found.hint.startswith("with 1 taken from every label (0 becomes 4) it reaches 100.0 % on 150 images: the")


def test_permuted_labels_are_named_with_the_order_of_the_classes(templates: Templates) -> None:
    permuted = np.array([1, 0, 4, 3, 2])[templates.labels]
    found = replace(templates, labels=permuted).find(SOUND, names=("b", "a", "e", "d", "c"))
    assert found is not None
    assert found.name == "classes sorted as text"
    found = replace(templates, labels=permuted).find(SOUND, names=("v", "w", "x", "y", "z"))
    assert found is not None
    assert "(0 → 1, 1 → 0, 2 → 4, 4 → 2)" in found.repair
    assert found.advice == "the network's classes are in the order [w, v, z, y, x]"


def test_swapped_channels_that_look_like_a_permutation_are_called_by_their_name() -> None:
    colours = 200 * np.eye(3, dtype=np.uint8).repeat(50, axis=0)[:, :, None, None].repeat(4, axis=2).repeat(4, axis=3)
    images = colours + np.random.default_rng(0).integers(0, 50, colours.shape).astype(np.uint8)
    known = SOUND.apply({"image": colours[0]}, "a template")["image"]
    known = np.stack([known, *(SOUND.apply({"image": colours[at]}, "a template")["image"] for at in (50, 100))])
    found = Templates(images[:, ::-1], np.arange(3).repeat(50), known).find(SOUND)
    assert found is not None
    assert found.repair == "with `channels: bgr`"


def test_what_nothing_repairs_is_not_blamed_on_anything(templates: Templates) -> None:
    random = np.random.default_rng(1)
    for wrong in (0.1, 0.4, 0.9):
        labels = np.where(random.random(150) < wrong, random.integers(0, CLASSES, 150), templates.labels)
        assert replace(templates, labels=labels).find(SOUND) is None


def test_a_repair_that_gains_much_but_not_all_is_told_as_such(templates: Templates) -> None:
    labels = np.where(np.arange(150) % 5 == 0, (templates.labels + 2) % CLASSES, templates.labels)
    found = replace(templates, labels=labels).find(prepared(scale=None))
    assert found is not None
    assert not found.whole
    assert re.fullmatch(
        r"with `scale: 0.00392157` it reaches 80.0 % on 150 images, nearer but not all of it: .*", found.hint
    )


def test_of_two_repairs_that_are_as_good_the_simpler_one_is_named(templates: Templates) -> None:
    found = templates.find(prepared(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)))
    assert found is not None
    assert found.repair == "without `scale`"  # and not mean and std by 255, which is the same


def test_a_repair_must_be_more_than_chance(templates: Templates) -> None:
    labels, classes = templates.rerun(SOUND)
    worse = np.where(np.arange(150) < 12, (labels + 1) % CLASSES, labels)

    def rerun(preprocess: Preprocess) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        mended = labels if preprocess.channels == "bgr" else worse
        return mended[10:], classes[10:]  # two images of 140 are mended

    assert find_mistake(worse, classes, 99.0, SOUND, rerun) is None


@pytest.mark.parametrize(("wrong", "named"), [(5, "channels"), (0, "scale")])
def test_a_better_repair_counts_only_where_it_is_clearly_better(wrong: int, named: str) -> None:
    def rerun(preprocess: Preprocess) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        count = 8 if preprocess.channels == "bgr" else wrong if preprocess.scale is None else 200
        return np.zeros(300, np.int64), np.where(np.arange(300) < count, 1 + np.arange(300) % 4, 0)

    found = find_mistake(*rerun(SOUND), 98.0, SOUND, rerun)
    assert found is not None
    assert found.name == named


def said(labels: NDArray[np.int64], classes: NDArray[np.int64]) -> Predictions:
    count = len(labels)
    return Predictions(
        indices=np.arange(count), labels=labels, classes=classes, confidences=np.ones(count, np.float32),
        finite=np.ones(count, bool), constant=False, subject="", environment="",
        records={"top1": {"hit": labels == classes}},
    )  # fmt: skip


@pytest.mark.parametrize("images", [1, 7, 17, 120, 360, 720])
def test_an_original_that_is_always_right_or_never_is_what_was_expected(images: int) -> None:
    labels = np.zeros(images, np.int64)
    assert unexpected(said(labels, labels), "top1", 100.0) == ""
    assert unexpected(said(labels, labels + 1), "top1", 0.0) == ""


def test_an_accuracy_that_is_out_of_the_interval_is_named() -> None:
    labels, classes = np.zeros(720, np.int64), (np.arange(720) < 100).astype(np.int64)
    assert unexpected(said(labels, classes), "top1", 86.2) == ""
    error = "the original reaches 86.11 % on 720 images, the recipe expects 99.7 %"
    assert unexpected(said(labels, classes), "top1", 99.7) == error


@contextmanager
def no_room() -> Iterator[Path]:
    raise BackendError("no room for it")
    yield


def test_more_than_was_expected_is_no_mistake_of_these() -> None:
    labels = np.zeros(50, np.int64)
    samples = Samples("npz", Path("none.npz"), ("image",), SOUND)
    assert explain(said(labels, labels), 60.0, Artifact.model_construct(), samples, 1, no_room) == HIGHER


def test_a_search_that_fails_leaves_what_was_found_out_before() -> None:
    labels = np.zeros(50, np.int64)
    samples = Samples("npz", Path("none.npz"), ("image",), SOUND)
    hint = explain(said(labels, labels + 1), 60.0, Artifact.model_construct(), samples, 1, no_room)
    assert hint == "looking for the mistake failed: no room for it"


def test_an_edit_that_does_not_fit_is_passed_over(templates: Templates) -> None:
    def rerun(preprocess: Preprocess) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if preprocess.channels == "bgr":
            raise DataError("the images are grey")
        return templates.rerun(preprocess)

    labels, classes = rerun(prepared(scale=None))
    found = find_mistake(labels, classes, 99.0, prepared(scale=None), rerun)
    assert found is not None
    assert found.name == "scale"


def test_only_images_of_the_split_are_predicted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "split.npz", image=np.arange(60).reshape(60, 1), labels=np.zeros(60, np.int64))
    whole = Samples("npz", tmp_path / "split.npz", ("image",), Preprocess())
    chosen = make_splits({"validation": whole}, {"validation": 40}).validation
    monkeypatch.setattr(mistakes, "IMAGES", 25)
    seen = Original(Artifact.model_construct(), chosen, 1, tmp_path).samples.rows
    assert chosen.rows is not None
    assert seen is not None
    assert len(seen) == 25
    assert set(seen) < set(chosen.rows)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    pytest.importorskip("torch").set_num_threads(1)
    return make_jobs(tmp_path_factory.mktemp("jobs"), 200)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_an_injected_fault_is_named(jobs: dict[str, Job], fault: Fault, tmp_path: Path) -> None:
    sound = jobs[fault.job]
    error, found = search(fault.inject(sound), sound.top1, tmp_path)
    assert error
    assert fault.is_named(found), found.hint if found else NOTHING


@pytest.mark.slow
def test_no_sound_run_is_suspected(jobs: dict[str, Job], tmp_path: Path) -> None:
    runs = [(job, jobs[name].top1) for name in ("grey", "colour") for job in sound_runs(jobs[name], 10)]
    assert [search(job, top1, tmp_path) for job, top1 in runs] == [("", None)] * 20


@pytest.mark.slow
def test_no_worse_run_is_blamed_on_a_usual_mistake(
    jobs: dict[str, Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mistakes, "IMAGES", 100)
    found = [search(job, jobs["grey"].top1, tmp_path) for job in worse_runs(jobs["grey"], 4)]
    assert all(error for error, _ in found)
    assert [mistake for _, mistake in found] == [None] * 4
