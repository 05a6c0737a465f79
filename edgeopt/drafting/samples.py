"""The data of a draft: where the splits lie, what is in them, and whether that suits the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeopt import workers
from edgeopt.data import Samples, image_folder, npz
from edgeopt.data.preprocess import Preprocess
from edgeopt.data.survey import Survey
from edgeopt.drafting import Ask, Options, Question
from edgeopt.errors import DataError, UsageError
from edgeopt.model import TensorSpec

IMAGES, ARRAYS, PYTHON = "image_folder", "npz", "python"

#: split of a recipe → what its folder or file is called, the first that is there
NAMES = {
    "calibration": ("calibration", "calib", "cal"),
    "validation": ("validation", "valid", "val", "test"),
    "training": ("training", "train"),
    "tuning": ("tuning",),
}

#: splits that have an option each
SAID = ("calibration", "validation", "training")

#: images for calibration, where there are more
CALIBRATION = 512

LAYOUT = (
    "sub-folders of class folders of images, or .npz files, called calibration, train, val or test; or name them: "
    "`--validation PATH --calibration PATH`"
)
NO_DATA = "`--no-data` leaves a marked place in the recipe"


@dataclass(frozen=True)
class Located:
    """The splits by name, all in one format, and what else looks like one and is not used."""

    format: str
    paths: Mapping[str, Path]
    unused: tuple[str, ...] = ()

    @property
    def calibration(self) -> Path:
        """Where calibration images are taken from: training, where there are no others."""
        return self.paths.get("calibration") or self.paths["training"]


def locate(options: Options, ask: Ask) -> Located | None:
    """Find the splits; None if the user has none to name.

    Raises:
        UsageError: there is no validation split, or nothing to calibrate with.
    """
    said = {name: text for name in SAID if (text := getattr(options, name)) is not None}
    if options.no_data:
        if options.data or said:
            raise UsageError("`--no-data` goes with no other option for data", "leave one of them out")
        return None
    found, unused = Located("", {}), tuple[str, ...]()
    folder = options.data
    if folder is None and not said:
        folder = ask(Question("--data", "which folder holds the data?", f"{LAYOUT}; {NO_DATA}", Path))
    if folder is not None:
        found = find_splits(folder)
        unused = found.unused
    paths = dict(found.paths) | {name: Path(text) for name, text in said.items()}
    if "validation" not in paths:
        paths["validation"] = ask(_missing("validation", "what is accuracy judged on?", options))
    if not {"calibration", "training"} & paths.keys():
        paths["calibration"] = ask(_missing("calibration", "what is int8 calibrated with?", options))
    formats = {_format(path) for path in paths.values()}
    if len(formats) > 1:
        raise UsageError(f"the splits are of several formats: {', '.join(sorted(formats))}", "a recipe has one")
    located = Located(formats.pop(), paths, unused)
    if located.calibration.absolute() == paths["validation"].absolute():
        raise UsageError("calibration and validation are the same images", "judge on images that nothing was chosen by")
    return located


def find_splits(folder: Path) -> Located:
    """The splits in a folder by their names: sub-folders, or .npz files.

    Raises:
        UsageError: there are none, or of both formats.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder `{folder}`", LAYOUT)
    entries = sorted(folder.iterdir())
    by_format = {
        IMAGES: {each.name.lower(): each for each in entries if each.is_dir()},
        ARRAYS: {each.stem.lower(): each for each in entries if each.suffix == ".npz"},
    }
    known = {format: _match(named) for format, named in by_format.items()}
    known = {format: paths for format, paths in known.items() if paths}
    if len(known) > 1:
        raise UsageError(f"`{folder}` holds splits as folders and as .npz files", f"name them; {LAYOUT}")
    if not known:
        raise UsageError(f"`{folder}` holds no splits", LAYOUT)
    ((format, paths),) = known.items()
    rest = [each.name for name, each in by_format[format].items() if each not in paths.values()]
    alike = {name for names in NAMES.values() for name in names}
    return Located(format, paths, tuple(name for name in rest if Path(name).stem.lower() in alike))


def input_names(located: Located, declared: Sequence[TensorSpec], otherwise: str) -> tuple[str, ...]:
    """What the inputs are called: as the network says, or as the arrays are."""
    if declared:
        return tuple(spec.name for spec in declared)
    names = npz.input_names(located.paths["validation"]) if located.format == ARRAYS else []
    return tuple(names) if len(names) == 1 else (otherwise,)


def survey(
    located: Located, split: str, names: tuple[str, ...], preprocess: Mapping[str, Any], classes: Sequence[str]
) -> Survey:
    """Look into one split, in a process of its own.

    Raises:
        DataError: it cannot be read, or is empty.
    """
    path = located.paths[split].absolute()
    samples = Samples(located.format, path, names, Preprocess(**preprocess), tuple(classes) or None)
    found: Survey = workers.run("edgeopt.data.survey:survey_split", samples, name=f"reading {split}")
    if not found.count:
        raise DataError(f"the {split} split `{located.paths[split]}` is empty", "give it at least one sample")
    return found


def check_fit(found: Survey, inputs: Sequence[TensorSpec], path: Path) -> None:
    """Hold the samples, as they are prepared, against what the network takes (batch axis first).

    Raises:
        DataError: they have other shapes.
    """
    for spec in inputs:
        shapes, wanted = found.prepared[spec.name], spec.shape[1:]
        if any(shape != wanted for shape in shapes):
            seen = " or ".join(str(list(shape)) for shape in shapes[:2]) + (" …" if len(shapes) > 2 else "")
            raise DataError(
                f"the samples of `{path}` have shape {seen} for `{spec.name}`, the network takes {list(wanted)}",
                "say how they were prepared in training, as in `--preprocess '{resize: 256, crop: 224}'`",
            )


def find_classes(options: Options, located: Located | None, count: int | None) -> tuple[list[str], bool]:
    """The names of the classes in the order of the labels, and whether the user said so.

    Args:
        count: scores of a network that classifies.

    Raises:
        DataError: there are more or fewer names than scores.
    """
    if options.classes is not None:
        file = Path(options.classes)
        texts = file.read_text(encoding="utf8").splitlines() if file.is_file() else options.classes.split(",")
        names, known = [text.strip() for text in texts if text.strip()], True
    elif located is not None and located.format == IMAGES:
        # the union by name: it is the order that `image_folder` gives the labels of a split that has all classes
        names, known = (
            sorted({name for path in located.paths.values() for name in image_folder.class_names(path)}),
            False,
        )
    else:
        return [], False
    if count is not None and len(names) != count:
        what = "names of classes" if known else "class folders"
        hint = "name all classes in the order of the labels: `--classes FILE`, one in a line"
        raise DataError(f"the network gives {count} scores, and there are {len(names)} {what}", hint)
    return names, known


def _match(named: Mapping[str, Path]) -> dict[str, Path]:
    chosen = {split: next((named[name] for name in names if name in named), None) for split, names in NAMES.items()}
    return {split: path for split, path in chosen.items() if path is not None}


def _format(path: Path) -> str:
    if ".py:" in path.name:
        return PYTHON
    if path.suffix == ".npz":
        return ARRAYS
    if path.is_dir():
        return IMAGES
    raise UsageError(f"`{path}` is no folder and no .npz file", "or, from Python, `file.py:callable`")


def _missing(split: str, text: str, options: Options) -> Question:
    where = f"`{options.data}` has none; " if options.data else ""
    return Question(f"--{split}", text, f"{where}{LAYOUT}", lambda answer: Path(answer))
