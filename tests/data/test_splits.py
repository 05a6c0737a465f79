"""Which rows each split gets: chosen by content, never shared where they must not be, and never made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.data.splits import Splits, make_splits
from edgeopt.errors import DataError
from edgeopt.model import TensorSpec

Images = NDArray[np.uint8]


def make_images(count: int, seed: int = 0) -> Images:
    return np.random.default_rng(seed).integers(0, 256, (count, 1, 4, 4), np.uint8)


def save(path: Path, images: Images, *, compressed: bool = False) -> Samples:
    labels = np.zeros(len(images), np.int64)
    (np.savez_compressed if compressed else np.savez)(path, image=images, labels=labels)
    return samples_at(path)


def samples_at(path: Path, data_format: str = "npz") -> Samples:
    return Samples(format=data_format, path=path, inputs=("image",), preprocess=Preprocess())


def images_of(samples: Samples | None) -> list[bytes]:
    """The content of each row that a split has, in order."""
    assert samples is not None
    return [raw["image"].tobytes() for raw in samples.open().read(samples.rows)]


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, Samples]:
    return {
        name: save(tmp_path / f"{name}.npz", make_images(count, seed))
        for seed, (name, count) in enumerate({"calibration": 30, "validation": 40, "training": 50}.items())
    }


def test_all_samples_of_a_split_are_used_where_no_number_is_asked_for(whole: dict[str, Samples]) -> None:
    splits = make_splits(whole, {})
    assert splits.validation == whole["validation"]
    assert splits.calibration == whole["calibration"]
    assert list(splits.named()) == ["calibration", "validation", "training", "tuning"]


def test_as_many_samples_are_used_as_asked_for(whole: dict[str, Samples]) -> None:
    splits = make_splits(whole, {"calibration": 8, "validation": 40})
    assert splits.calibration is not None
    assert splits.calibration.rows is not None
    assert len(splits.calibration.rows) == 8
    assert list(splits.calibration.rows) == sorted(splits.calibration.rows), "increasing, so that they can be streamed"
    assert len(splits.validation) == 40


def test_the_choice_depends_on_the_images_and_not_on_their_order(tmp_path: Path) -> None:
    images = make_images(60)
    validation = save(tmp_path / "validation.npz", make_images(10, 1))
    chosen: list[set[bytes]] = []
    for number in range(3):
        shuffled = np.random.default_rng(number).permutation(images)
        calibration = save(tmp_path / f"{number}.npz", shuffled, compressed=bool(number % 2))
        splits = make_splits({"calibration": calibration, "validation": validation}, {"calibration": 20})
        chosen.append(set(images_of(splits.calibration)))
    assert chosen[0] == chosen[1] == chosen[2]
    assert chosen[0] != {image.tobytes() for image in images[:20]}, "the first ones of a sorted split are all alike"


def test_the_same_arrays_are_chosen_from_the_users_python_as_from_an_npz(tmp_path: Path) -> None:
    stored = save(tmp_path / "calibration.npz", make_images(40))
    code = "import numpy as np\nfrom pathlib import Path\ndef samples():\n"
    code += "    images = np.load(Path(__file__).with_name('calibration.npz'))['image']\n"
    (tmp_path / "mine.py").write_text(code + "    return [({'image': image}, 0) for image in images]\n")
    mine = samples_at(tmp_path / "mine.py:samples", "python")
    rows = []
    for calibration in (stored, mine):
        validation = save(tmp_path / "validation.npz", make_images(10, 1))
        rows.append(make_splits({"calibration": calibration, "validation": validation}, {"calibration": 9}).calibration)
    assert rows[0] is not None
    assert rows[1] is not None
    assert rows[0].rows == rows[1].rows


def test_a_folder_that_is_sorted_by_class_gives_each_class_its_share(tmp_path: Path) -> None:
    for label, images in (("cat", make_images(40, 1)), ("dog", make_images(40, 2))):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image[0]).save(tmp_path / "images" / label / f"{number:03d}.png")
    folder = samples_at(tmp_path / "images", "image_folder")
    validation = save(tmp_path / "validation.npz", make_images(10, 3))
    chosen = make_splits({"calibration": folder, "validation": validation}, {"calibration": 20}).calibration
    assert chosen is not None
    labels = chosen.labels()
    assert labels is not None
    assert 4 <= int(labels.sum()) <= 16


@pytest.mark.parametrize(
    ("first", "second"),
    [("calibration", "validation"), ("training", "validation"), ("tuning", "validation"), ("tuning", "training")],
)
def test_an_image_in_two_splits_is_refused_and_named_in_both(
    first: str, second: str, whole: dict[str, Samples], tmp_path: Path
) -> None:
    whole["tuning"] = save(tmp_path / "tuning.npz", make_images(20, 9))
    count = {"validation": 40, "training": 50}[second]
    shared = make_images(count, list(whole).index(second))[[3, 5]]
    whole[first] = save(tmp_path / "shared.npz", np.concatenate([make_images(7, 99), shared]))
    with pytest.raises(DataError) as caught:
        make_splits(whole, {})
    message = caught.value.message
    assert message.startswith(f"2 {first} samples are also in {second}, the first is row 7 of `")
    assert "shared.npz` = row 3 of `" in message
    assert f"{second}.npz`" in message
    assert "proves nothing" in caught.value.hint


def test_an_image_with_another_label_is_still_the_same_image(whole: dict[str, Samples], tmp_path: Path) -> None:
    path = tmp_path / "relabelled.npz"
    np.savez(path, image=make_images(40, 1)[:1], labels=np.ones(1, np.int64))
    with pytest.raises(DataError, match="1 calibration samples are also in validation"):
        make_splits(whole | {"calibration": samples_at(path)}, {})


def test_calibration_may_be_cut_from_training(whole: dict[str, Samples]) -> None:
    splits = make_splits(whole | {"calibration": whole["training"]}, {"calibration": 10})
    assert splits.calibration is not None


def test_leaving_the_shared_rows_out_by_samples_does_not_hide_them(whole: dict[str, Samples], tmp_path: Path) -> None:
    leaked = save(tmp_path / "leaked.npz", np.concatenate([make_images(100, 50), make_images(40, 1)[:1]]))
    with pytest.raises(DataError, match="also in validation"):
        make_splits(whole | {"calibration": leaked}, {"calibration": 5})


def test_more_samples_than_there_are_is_refused(whole: dict[str, Samples]) -> None:
    with pytest.raises(DataError, match="has 30 samples, `samples` asks for 31") as caught:
        make_splits(whole, {"calibration": 31})
    assert "at most 30" in caught.value.hint


def test_an_empty_split_is_refused_by_name(whole: dict[str, Samples], tmp_path: Path) -> None:
    for name in whole:
        with pytest.raises(DataError, match=f"the {name} split `.*empty.npz` is empty"):
            make_splits(whole | {name: save(tmp_path / "empty.npz", make_images(0))}, {})


# tuning


def test_tuning_is_a_tenth_of_training_and_training_the_rest(whole: dict[str, Samples]) -> None:
    splits = make_splits(whole, {})
    tuning, training = images_of(splits.tuning), images_of(splits.training)
    assert (len(tuning), len(training)) == (5, 45)
    assert not set(tuning) & set(training)
    assert set(tuning) | set(training) == {image.tobytes() for image in make_images(50, 2)}


def test_tuning_is_cut_from_the_training_samples_that_are_used(whole: dict[str, Samples]) -> None:
    splits = make_splits(whole, {"training": 20})
    assert (len(images_of(splits.tuning)), len(images_of(splits.training))) == (2, 18)


def test_tuning_of_its_own_leaves_training_whole(whole: dict[str, Samples], tmp_path: Path) -> None:
    splits = make_splits(whole | {"tuning": save(tmp_path / "tuning.npz", make_images(20, 9))}, {})
    assert len(images_of(splits.tuning)) == 20
    assert splits.training == whole["training"]


def test_tuning_shares_no_image_with_a_calibration_cut_from_training(whole: dict[str, Samples]) -> None:
    """Both take what comes first by content: ranges would be tried out on the images that they were found on."""
    splits = make_splits(whole | {"calibration": whole["training"]}, {"calibration": 20})
    calibration, tuning, training = map(images_of, (splits.calibration, splits.tuning, splits.training))
    assert (len(calibration), len(tuning), len(training)) == (20, 5, 45)
    assert not set(tuning) & set(calibration)
    assert not set(tuning) & set(training)
    assert make_splits(whole | {"calibration": whole["training"]}, {}).tuning is None, "calibration uses them all"


def test_without_training_tuning_is_what_calibration_leaves(whole: dict[str, Samples]) -> None:
    del whole["training"]
    splits = make_splits(whole, {"calibration": 12})
    calibration, tuning = images_of(splits.calibration), images_of(splits.tuning)
    assert (len(calibration), len(tuning)) == (12, 18)
    assert not set(calibration) & set(tuning)
    assert make_splits(whole, {}).tuning is None
    assert make_splits(whole, {"calibration": 30}).tuning is None


def test_too_few_training_samples_give_no_tuning_split(whole: dict[str, Samples], tmp_path: Path) -> None:
    few = save(tmp_path / "few.npz", make_images(9, 8))
    splits = make_splits({"validation": whole["validation"], "training": few}, {})
    assert splits.tuning is None
    assert splits.training == few


@given(copies=st.lists(st.integers(0, 5), min_size=10, max_size=40))
@settings(max_examples=25)
def test_copies_of_an_image_never_stand_in_both_tuning_and_training(
    copies: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("copies")
    training = save(folder / "training.npz", make_images(6)[copies])
    validation = save(folder / "validation.npz", make_images(4, 1))
    splits: Splits = make_splits({"training": training, "validation": validation}, {})
    kept = images_of(splits.training)
    held = images_of(splits.tuning) if splits.tuning is not None else []
    assert kept
    assert not set(kept) & set(held)
    assert len(kept) + len(held) == len(copies)


@pytest.mark.parametrize("split", ["training", "tuning"])
def test_a_label_to_be_learned_that_the_network_has_no_score_for_is_refused_with_its_row(
    split: str, whole: dict[str, Samples], tmp_path: Path
) -> None:
    labels = np.arange(20) % 4
    labels[7] = 4
    np.savez(tmp_path / "learned.npz", image=make_images(20, 9), labels=labels)
    learned = whole | {split: samples_at(tmp_path / "learned.npz")}
    scores = TensorSpec(name="scores", shape=("batch", 4))
    with pytest.raises(DataError, match=rf"row 7 of `.*learned\.npz` in the {split} split is 4, .* classes 0 to 3"):
        make_splits(learned, {}, outputs=(scores,))
    make_splits(learned, {}, outputs=(scores.model_copy(update={"shape": ("batch", 5)}),))
    make_splits(learned, {}, outputs=(scores.model_copy(update={"shape": ("batch", 4, 8, 8)}),))
