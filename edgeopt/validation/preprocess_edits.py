"""The usual mistakes in how images are prepared, each as one edit of a recipe's `preprocess`.

What no recipe can say, that images were stored with their axes mixed up, is a `Rearranged` preprocessing: it serves to
find the mistake out, and the advice is to store the images anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from edgeopt.data.preprocess import CHANNELS_FIRST, Preprocess
from edgeopt.errors import DataError

#: 0…255 → 0…1
SCALE = 0.00392157

#: mean and std, of values from 0 to 1, that networks are most often trained with
COMMON: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = (
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # ImageNet, in torchvision
    ((0.5,), (0.5,)),
    ((0.449,), (0.226,)),  # ImageNet in grey
    ((0.1307,), (0.3081,)),  # MNIST
)
#: the mean of ImageNet in the order and unit of Caffe's networks
CAFFE = {"channels": "bgr", "scale": None, "mean": (103.939, 116.779, 123.68), "std": None}

#: the share of the shorter side that torchvision's evaluation keeps: 224 of 256
CENTRE = 0.875


@dataclass(frozen=True)
class Edit:
    """One change, and what it would explain.

    Attributes:
        name: what kind of mistake it would explain.
        repair: what was done: ``with `channels: bgr` ``.
        advice: what the user does about it.
        preprocess: how the images are prepared then.
    """

    name: str
    repair: str
    advice: str
    preprocess: Preprocess


class Rearranged(Preprocess):
    """A preprocessing of images that were stored with their axes mixed up."""

    stored: Literal["transposed", "reshaped to", "reshaped from"]

    def apply(self, raw: dict[str, NDArray[Any]], name: str) -> dict[str, NDArray[Any]]:
        return super().apply({key: self._rearrange(array, name) for key, array in raw.items()}, name)

    def _rearrange(self, array: NDArray[Any], name: str) -> NDArray[Any]:
        if array.ndim != 3 or (array.shape[0] == 1 and self.stored != "transposed"):
            raise DataError(f"{name} has shape {array.shape}, whose channels cannot be mixed up", CHANNELS_FIRST)
        channels, height, width = array.shape
        if self.stored == "transposed":
            return array.transpose(0, 2, 1)
        if self.stored == "reshaped to":
            return array.reshape(height, width, channels).transpose(2, 0, 1)
        return array.transpose(1, 2, 0).reshape(channels, height, width)


#: how images were stored, what kind of mistake that is, what was done, and what to do
STORED: tuple[tuple[Literal["transposed", "reshaped to", "reshaped from"], str, str, str], ...] = (
    (
        "transposed", "images transposed", "with height and width swapped",
        "the images are stored on their side: store them as (C, H, W)",
    ), (
        "reshaped to", "images reshaped", "with the values read as (H, W, C)",
        "the images were reshaped to (C, H, W): transpose them instead",
    ), (
        "reshaped from", "images reshaped", "with the values read as (C, H, W) before they were transposed",
        "the images were reshaped to (H, W, C): store them as they were",
    ),
)  # fmt: skip


def make_edits(given: Preprocess) -> list[Edit]:
    """The edits of a preprocessing that are worth a try, those of the fewest fields first."""
    fields = set(Preprocess.model_fields)
    found: list[Edit] = []
    for name, changes, *reason in _changes(given):
        edited = given.model_copy(update=changes)
        if edited != given and not any(edited == edit.preprocess for edit in found):
            repair, advice = _describe({key: getattr(edited, key) for key in fields if _differs(given, edited, key)})
            found.append(Edit(name, repair, ", so ".join([*reason, advice]), edited))
    found.sort(key=lambda edit: sum(_differs(given, edit.preprocess, field) for field in fields))
    for stored, name, repair, advice in STORED:
        found.append(Edit(name, repair, advice, Rearranged(**given.model_dump(), stored=stored)))
    return found


def _differs(first: Preprocess, second: Preprocess, field: str) -> bool:
    return bool(getattr(first, field) != getattr(second, field))


Changes = tuple[str, dict[str, Any]] | tuple[str, dict[str, Any], str]


def _changes(given: Preprocess) -> Iterator[Changes]:
    """Name, fields and, where they do not speak for themselves, the reason of each edit."""
    yield "channels", {"channels": "rgb" if given.channels == "bgr" else "bgr"}
    yield "scale", {"scale": SCALE if given.scale is None else None}
    if not _is_usual(given.scale):
        yield "scale", {"scale": SCALE}
    yield from _moments(given)
    yield from _inversions(given)
    yield from _sizes(given)


def _is_usual(scale: float | None) -> bool:
    return scale is not None and abs(scale / SCALE - 1) < 0.01


def _moments(given: Preprocess) -> Iterator[Changes]:
    yield "mean and std", {"mean": None, "std": None}
    large = {field: values for field in ("mean", "std") if max(values := getattr(given, field) or (0.0,)) > 2}
    if given.scale is not None and large:
        units = {field: _rounded(value / 255 for value in values) for field, values in large.items()}
        yield "mean and std", units, "`scale` comes before them"
    for scale in (given.scale,) if _is_usual(given.scale) else (given.scale, SCALE):
        for mean, std in COMMON:
            yield "mean and std", {"scale": scale, "mean": mean, "std": std}
    yield "scale", {"scale": None if given.scale else SCALE, "mean": None, "std": None}
    yield "mean and std", CAFFE


def _inversions(given: Preprocess) -> Iterator[Changes]:
    """white - x in place of x, for values up to 255 or, where no scale tells, 1."""
    for white in (255.0, 1.0) if given.scale is None else (255.0,):
        scale = given.scale or 1.0
        mean = _rounded(value - white * scale for value in given.mean or (0.0,))
        yield "inverted", {"scale": -scale, "mean": mean}, "dark and bright are swapped"


def _sizes(given: Preprocess) -> Iterator[Changes]:
    """Squashed, cropped to the shorter side, cropped with a margin, and cropped without resizing."""
    size = given.crop or given.resize
    if size is None:
        return
    whole = size if isinstance(size, tuple) else (size, size)
    yield "resize", {"resize": whole, "crop": None}
    for resize in (min(whole), round(min(whole) / CENTRE), None):
        yield "resize", {"resize": resize, "crop": size}


def _rounded(values: Iterator[float]) -> tuple[float, ...]:
    """The values as a message shows them, so that what it names is what was tried."""
    return tuple(float(f"{value:.6g}") for value in values)


def _describe(changed: dict[str, Any]) -> tuple[str, str]:
    """What was done and what to do, of the fields that changed."""
    fields = [name for name in Preprocess.model_fields if name in changed]
    added = [f"`{name}: {_yaml(changed[name])}`" for name in fields if changed[name] is not None]
    gone = [f"`{name}`" for name in fields if changed[name] is None]
    told = [f"{word} {_and(names)}" for word, names in (("with", added), ("without", gone)) if names]
    it = "it" if len(fields) == 1 else "them"
    if added and gone:
        return " and ".join(told), "change `preprocess` so"
    return told[0], f"set {it} in `preprocess`" if added else f"take {it} out of `preprocess`"


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _yaml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
