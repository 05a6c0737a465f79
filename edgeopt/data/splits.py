"""The splits of a recipe: which rows each one has, and that none of them overlap where they must not.

Rows are chosen by content hash, so the choice depends on the images alone, not on their order or names, and a folder
that is sorted by class gives every class its share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeopt.data import Samples
from edgeopt.errors import DataError
from edgeopt.model import TensorSpec
from edgeopt.workers import report_progress

TUNING_SHARE = 10

#: pairs of splits that must share no image: nothing may be learned or chosen on what judges
DISJOINT = (
    ("calibration", "validation"),
    ("training", "validation"),
    ("tuning", "validation"),
    ("tuning", "training"),
)

#: splits whose labels are held against the scores of the network: there is no class without one
LEARNED = ("training", "tuning")


@dataclass(frozen=True)
class Splits:
    """The samples of each split that the recipe has."""

    validation: Samples
    calibration: Samples | None = None
    training: Samples | None = None
    tuning: Samples | None = None

    def named(self) -> dict[str, Samples]:
        names = ("calibration", "validation", "training", "tuning")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def make_splits(
    whole: dict[str, Samples],
    counts: dict[str, int | None],
    inputs: tuple[TensorSpec, ...] = (),
    outputs: tuple[TensorSpec, ...] = (),
) -> Splits:
    """Choose the rows of each split, find a tuning split if there is none, and check them.

    Args:
        whole: split name → all its samples.
        counts: split name → how many to use (None: all).
        inputs: what the network takes, batch axis first.
        outputs: what it gives, likewise: a network that learns a label must have a score for it.

    Raises:
        DataError: a split is empty, too small, unreadable or of another shape, a label that is to be learned is none of
            the network's, or two splits share an image.
    """
    for name, samples in whole.items():
        _check_shapes(name, samples, inputs)
        if name in LEARNED:
            _check_labels(name, samples, outputs)
    digests = {name: _digests(name, samples) for name, samples in whole.items()}
    for first, second in DISJOINT:
        if first in digests and second in digests:
            _check_disjoint(whole, digests, first, second)
    chosen = {name: _choose(samples, digests[name], counts.get(name), name) for name, samples in whole.items()}
    if "tuning" not in chosen:
        chosen |= _make_tuning(whole, digests, chosen)
    return Splits(**chosen)


def _check_shapes(name: str, samples: Samples, inputs: tuple[TensorSpec, ...]) -> None:
    """Hold the first sample, as it is prepared, against what the network takes."""
    for first in samples.spread(1).batches(1):
        for spec in inputs:
            found, wanted = first.inputs[spec.name].shape[1:], spec.shape[1:]
            if not _fits(found, wanted):
                raise DataError(
                    f"the {name} split `{samples.path}` gives `{spec.name}` the shape {list(found)}, "
                    f"the network takes {list(wanted)}",
                    "set `resize`, `crop` or `channels` in `preprocess`, or correct `inputs`",
                )


def _check_labels(name: str, samples: Samples, outputs: tuple[TensorSpec, ...]) -> None:
    """Hold each label against the number of scores of a network that classifies, before anything learns from it."""
    labels = samples.labels()
    classes = outputs[0].shape[1] if outputs and len(outputs[0].shape) == 2 else None
    if labels is None or labels.ndim != 1 or not isinstance(classes, int) or classes < 2:
        return
    wrong = np.flatnonzero(labels >= classes)
    if len(wrong):
        raise DataError(
            f"the label of {samples.open().name(int(wrong[0]))} in the {name} split is {labels[wrong[0]]}, "
            f"and the network has classes 0 to {classes - 1}",
            "check the labels, or the network's number of classes",
        )


def _fits(found: tuple[int, ...], wanted: tuple[int | str, ...]) -> bool:
    return len(found) == len(wanted) and all(
        isinstance(axis, str) or axis == size for axis, size in zip(wanted, found, strict=True)
    )


def _digests(name: str, samples: Samples) -> list[str]:
    report_progress(f"reading the {name} split", None)
    digests = list(samples.open().digests())
    if not digests:
        raise DataError(f"the {name} split `{samples.path}` is empty", "give it at least one sample")
    return digests


def _check_disjoint(whole: dict[str, Samples], digests: dict[str, list[str]], first: str, second: str) -> None:
    rows = {digest: row for row, digest in enumerate(digests[second])}
    shared = [(row, rows[digest]) for row, digest in enumerate(digests[first]) if digest in rows]
    if shared:
        one = whole[first].open().name(shared[0][0])
        other = whole[second].open().name(shared[0][1])
        raise DataError(
            f"{len(shared)} {first} samples are also in {second}, the first is {one} = {other}",
            "take them out of one of the two: a result judged on images seen before proves nothing",
        )


def _choose(samples: Samples, digests: Sequence[str], count: int | None, name: str) -> Samples:
    if count is None or count == len(digests):
        return samples
    if count > len(digests):
        hint = f"lower `samples` to at most {len(digests)}, or add samples"
        found = f"the {name} split `{samples.path}` has {len(digests)} samples"
        raise DataError(f"{found}, `samples` asks for {count}", hint)
    return replace(samples, rows=tuple(sorted(_by_hash(digests)[:count])))


def _make_tuning(
    whole: dict[str, Samples], digests: dict[str, list[str]], chosen: dict[str, Samples]
) -> dict[str, Samples]:
    """A tenth of training, of images that calibration does not use, else the calibration samples that are left over."""
    if "training" in chosen:
        training = chosen["training"]
        rows = range(len(digests["training"])) if training.rows is None else training.rows
        chosen_rows = set(rows)
        hashes, seen = digests["training"], _chosen_digests("calibration", digests, chosen)
        ranked = [row for row in _by_hash(hashes) if row in chosen_rows and hashes[row] not in seen]
        cut = min(len(rows) // TUNING_SHARE, len(ranked))
        while 0 < cut < len(ranked) and hashes[ranked[cut - 1]] == hashes[ranked[cut]]:
            cut -= 1  # copies of one image stay together
        if not cut:
            return {}
        held = tuple(sorted(ranked[:cut]))
        kept = tuple(sorted(chosen_rows.difference(held)))
        return {"training": replace(training, rows=kept), "tuning": replace(training, rows=held)}
    if "calibration" in chosen and chosen["calibration"].rows is not None:
        used = set(chosen["calibration"].rows)
        rest = tuple(row for row in range(len(digests["calibration"])) if row not in used)
        return {"tuning": replace(whole["calibration"], rows=rest)} if rest else {}
    return {}


def _chosen_digests(name: str, digests: dict[str, list[str]], chosen: dict[str, Samples]) -> set[str]:
    """The images of one split that are used; none where there is no such split."""
    if name not in chosen:
        return set()
    rows = chosen[name].rows
    return set(digests[name] if rows is None else [digests[name][row] for row in rows])


def _by_hash(digests: Sequence[str]) -> list[int]:
    return sorted(range(len(digests)), key=lambda row: (digests[row], row))
