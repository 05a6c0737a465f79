"""What artifacts said of each image, as one value for each and as one file for several."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt import metrics
from edgeopt.model import canonical_json

PREDICTIONS_FILE = "predictions.npz"

#: the class of an image whose scores are not finite: none, so it is never right
NO_CLASS = -1


@dataclass(frozen=True)
class Predictions:
    """What one artifact said.

    Attributes:
        indices: (images,) rows in the dataset.
        labels: (images,) true classes; (0,) where the split has none or they are no classes.
        classes: (images,) predicted classes; `NO_CLASS` where scores are not finite; (0,) where none are predicted.
        confidences: (images,) softmax of the best score; 0 where scores are not finite; (0,) as `classes`.
        finite: (images,) whether all outputs of an image are finite.
        records: metric → name → (images, …): what each metric kept.
        constant: whether different images all got the very same outputs.
        subject: digest of the artifact.
        environment: digest of the machine's fingerprint.
        simulated: whether the backend measures nothing real.
    """

    indices: NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: NDArray[np.int64]
    confidences: NDArray[np.float32]
    finite: NDArray[np.bool_]
    constant: bool
    subject: str
    environment: str
    simulated: bool = False
    records: dict[str, metrics.Arrays] = field(default_factory=dict)

    @property
    def images(self) -> int:
        return len(self.indices)

    @property
    def nonfinite(self) -> int:
        """Images whose outputs are not finite."""
        return int(np.count_nonzero(~self.finite))

    def to_npz(self) -> bytes:
        """The bytes of an .npz file; equal predictions give equal bytes."""
        return pack_predictions({"": self})


#: what predictions hold beside arrays
PLAIN = ("constant", "subject", "environment", "simulated")
#: what all sides of a comparison have in common
SHARED = ("indices", "labels")


def pack_predictions(sides: Mapping[str, Predictions]) -> bytes:
    """Predictions on the same images as the bytes of one .npz file: arrays `<side>|<name>`, the rest in `header`."""
    arrays: dict[str, NDArray[Any]] = {}
    header: list[tuple[str, Any]] = []
    for side, said in sides.items():
        values = {each.name: getattr(said, each.name) for each in fields(said)}
        header.append((side, {name: values.pop(name) for name in PLAIN}))
        for metric, kept in values.pop("records").items():
            values |= {f"{metric}|{name}": array for name, array in kept.items()}
        arrays |= {name: values.pop(name) for name in SHARED}
        arrays |= {f"{side}|{name}": array for name, array in values.items()}
    return pack_arrays({"header": np.frombuffer(canonical_json(header), np.uint8), **arrays})


def unpack_predictions(data: bytes) -> dict[str, Predictions]:
    """What `pack_predictions` packed.

    Raises:
        ValueError: it is nothing of that kind.
    """
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    try:
        header: list[tuple[str, dict[str, Any]]] = json.loads(arrays.pop("header").tobytes())
        shared = {name: arrays.pop(name) for name in SHARED}
        return {side: _predictions(side, arrays, shared | plain) for side, plain in header}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no predictions: {error}") from error


def _predictions(side: str, arrays: Mapping[str, NDArray[Any]], values: dict[str, Any]) -> Predictions:
    records: dict[str, metrics.Arrays] = {}
    for key, array in arrays.items():
        owner, *path = key.split("|")
        if owner == side and len(path) == 1:
            values = values | {path[0]: array}
        elif owner == side:
            records.setdefault(path[0], {})[path[1]] = array
    return Predictions(**values, records=records)


def load_predictions(folder: Path) -> Predictions:
    """What `run_predictions` left in `folder`."""
    return unpack_predictions((folder / PREDICTIONS_FILE).read_bytes())[""]


def pack_arrays(arrays: dict[str, Any]) -> bytes:
    """Arrays as the bytes of an .npz file, without a clock in it."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()
