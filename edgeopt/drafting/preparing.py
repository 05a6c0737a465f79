"""The preprocessing of a draft: what was said, what follows from the network's input, and what has to be asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from edgeopt.data.preprocess import Preprocess
from edgeopt.data.survey import Survey
from edgeopt.drafting import Ask, Question
from edgeopt.errors import UsageError
from edgeopt.model import TensorSpec, canonical_json
from edgeopt.recipe.document import parse
from edgeopt.recipe.draft import ADVICE

#: preprocessing by name
PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    "unit": {"scale": 0.00392157},
    "imagenet": dict(parse(ADVICE[3]).data),
}


def say_preprocess(texts: Sequence[str]) -> dict[str, Any] | None:
    """What the user said, later ones over earlier ones; None where nothing was.

    Raises:
        UsageError: a text is no preprocessing.
    """
    said: dict[str, Any] = {}
    for text in texts:
        said |= parse_preprocess(text)
    return said if texts else None


def force_preprocess(declared: Sequence[TensorSpec]) -> dict[str, Any]:
    """What follows for RGB images from the shape of the network's input alone: no other kind of image would fit."""
    if len(declared) != 1 or len(declared[0].shape) != 3:
        return {}
    first, _, last = declared[0].shape
    channels_last = first not in (1, 3) and last in (1, 3)
    gray = (last if channels_last else first) == 1
    return ({"channels": "gray"} if gray else {}) | ({"layout": "hwc"} if channels_last else {})


def parse_preprocess(text: str) -> dict[str, Any]:
    """A preset by name, or a mapping as in a recipe.

    Raises:
        UsageError: it is neither.
    """
    if text in PRESETS:
        return dict(PRESETS[text])
    read = parse(text)
    if read.faults or not isinstance(read.data, dict):
        what = f"`--preprocess {text}` is no mapping, nor one of {', '.join(PRESETS)}"
        raise UsageError(what, "as in `--preprocess '{resize: 256, crop: 224}'`")
    try:
        Preprocess.model_validate_json(canonical_json(read.data), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        what = f"`--preprocess {text}`: `{first['loc'][0] if first['loc'] else text}`: {first['msg'].lower()}"
        raise UsageError(what, "`edgeopt schema` has its keys") from error
    return dict(read.data)


def ask_preprocess(ask: Ask, found: Survey) -> dict[str, Any] | None:
    """The same of whoever can be asked; None where nobody knows."""
    shapes = ", ".join(str(list(shape)) for shapes in found.raw.values() for shape in shapes[:2])
    text = f"samples are {found.dtype} {shapes}, {found.low:g} to {found.high:g}: how were they prepared in training?"
    hint = f"{', '.join(PRESETS)}, a mapping as in a recipe, or nothing if you do not know"
    said: dict[str, Any] | None = ask(
        Question("--preprocess", text, hint, lambda answer: parse_preprocess(answer) if answer else None, "", False)
    )
    return said
