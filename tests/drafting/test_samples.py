"""Splits of a draft: found by their names, said, or missed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeopt.drafting import Options, Question
from edgeopt.drafting.preparing import force_preprocess, parse_preprocess, say_preprocess
from edgeopt.drafting.samples import find_splits, locate
from edgeopt.errors import UsageError
from edgeopt.model import TensorSpec


def refuse(question: Question) -> Any:
    raise UsageError(question.option, question.hint)


def options(**said: Any) -> Options:
    return Options(model=Path("m.onnx"), out=Path("recipe.yaml"), **said)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["train", "val", "test"], {"training": "train", "validation": "val"}),
        (["Train", "TEST"], {"training": "Train", "validation": "TEST"}),
        (["calib", "valid"], {"calibration": "calib", "validation": "valid"}),
        (["training", "tuning", "validation", "calibration", "notes"],
         {"training": "training", "tuning": "tuning", "validation": "validation", "calibration": "calibration"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["image_folder", "npz"])
def test_splits_are_known_by_their_names(names: list[str], found: dict[str, str], kind: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).mkdir() if kind == "image_folder" else (tmp_path / f"{name}.npz").touch()
    located = find_splits(tmp_path)
    assert located.format == kind
    assert {split: path.stem for split, path in located.paths.items()} == found
    assert [Path(name).stem for name in located.unused] == (["test"] if "val" in names else [])


def test_splits_of_both_kinds_are_not_chosen_among(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "train.npz").touch()
    with pytest.raises(UsageError, match=r"holds splits as folders and as \.npz files"):
        find_splits(tmp_path)


def test_what_is_said_stands_over_what_is_found(tmp_path: Path) -> None:
    for name in ("train", "val", "other"):
        (tmp_path / name).mkdir()
    located = locate(options(data=tmp_path, validation=str(tmp_path / "other")), refuse)
    assert located is not None
    assert located.paths["validation"].name == "other"
    assert located.calibration.name == "train"


def test_splits_can_be_the_users_own_python() -> None:
    located = locate(options(validation="data.py:validation", calibration="data.py:calibration"), refuse)
    assert located is not None
    assert located.format == "python"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({}, "--data"),
        ({"validation": "val"}, "--calibration"),
        ({"training": "val"}, "--validation"),
        ({"validation": "val", "calibration": "data.py:f"}, "of several formats: image_folder, python"),
        ({"validation": "val", "calibration": "val/.."}, "`val/..` is"),
    ],
)  # fmt: skip
def test_what_is_missing_or_does_not_agree_is_refused(
    said: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "val").mkdir()
    if message == "`val/..` is":
        said, message = {"validation": "val", "calibration": "nowhere"}, "`nowhere` is no folder and no .npz file"
    with pytest.raises(UsageError) as caught:
        locate(options(**said), refuse)
    assert message in caught.value.message


def test_preprocessing_is_a_preset_or_a_mapping_and_later_ones_win() -> None:
    assert say_preprocess(()) is None
    assert say_preprocess(["none"]) == {}
    said = say_preprocess(["imagenet", "{resize: 256, crop: 224, std: [0.5]}"])
    assert said is not None
    assert (said["resize"], said["std"], said["mean"]) == (256, [0.5], [0.485, 0.456, 0.406])


@pytest.mark.parametrize("text", ["vgg", "", "[1]", "{resise: 3}", "{scale: 0}", "{mean: x}", "{a: {"])
def test_preprocessing_that_is_none_is_refused_with_what_is_wrong(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_preprocess(text)
    assert caught.value.message.startswith(f"`--preprocess {text}`")


@pytest.mark.parametrize(
    ("shapes", "forced"),
    [
        ([(3, 8, 8)], {}),
        ([("c", "h", "w")], {}),
        ([(1, 8, 8)], {"channels": "gray"}),
        ([(8, 8, 3)], {"layout": "hwc"}),
        ([("h", "w", 1)], {"channels": "gray", "layout": "hwc"}),
        ([(3, 8, 3)], {}),
        ([(64,)], {}),
        ([(1, 8, 8), (1, 8, 8)], {}),
        ([], {}),
    ],
)
def test_only_what_the_input_leaves_no_choice_about_is_forced(
    shapes: list[tuple[int | str, ...]], forced: dict[str, str]
) -> None:
    specs = [TensorSpec(name=f"i{number}", shape=shape) for number, shape in enumerate(shapes)]
    assert force_preprocess(specs) == forced
