"""Answer a folder of images: each by itself, so that one that cannot be read costs no other one its answer."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from edgeopt.device.answers import Prediction
from edgeopt.device.predictor import Predictor
from edgeopt.errors import DataError, UsageError


class Answer(NamedTuple):
    """What came of one image: a prediction, or what is wrong with it."""

    path: Path
    prediction: Prediction | None
    fault: str = ""


def find_images(folder: Path) -> list[Path]:
    """All files in `folder` and the folders below it, by name, but for hidden ones.

    Raises:
        UsageError: there is no such folder, or no file in it.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder `{folder}`", "name a folder of images")
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(place, name) for name in sorted(names) if not name.startswith(".")]
    if not found:
        raise UsageError(f"there is no file in `{folder}`", "name a folder of images")
    return found


def answer_images(predictor: Predictor, paths: Sequence[Path], top: int = 1) -> Iterator[Answer]:
    """What the network says of each image, in order, as many at once as it takes."""
    size = predictor.batch
    for start in range(0, len(paths), size):
        batch = paths[start : start + size]
        try:
            predictions = predictor.predict_batch(batch, top)
        except DataError:  # some image of them: each tells for itself
            yield from (_answer(predictor, path, top) for path in batch)
        else:
            yield from map(Answer, batch, predictions)


def _answer(predictor: Predictor, path: Path, top: int) -> Answer:
    try:
        return Answer(path, predictor.predict(path, top))
    except DataError as error:
        return Answer(path, None, error.message)
