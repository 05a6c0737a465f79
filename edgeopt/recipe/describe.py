"""What pydantic found wrong, in our words and at the place in the text where it stands."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from edgeopt.errors import did_you_mean
from edgeopt.recipe.document import Document, Location

SHOWN = 60
WORDS = {"a valid array": "a list", "an object": "a mapping", "a valid dictionary": "a mapping", "'": "`"}
AFTER = re.compile(r" after validation, not \d+$")
SUBJECT = re.compile(r"^(Input|List|Tuple|Dictionary|String|Value) (?=should)|^(?=should)")


def describe_errors(document: Document, error: ValidationError, root: Location, fields: type[BaseModel]) -> None:
    """Record each problem once: what follows from a fault at the same place is not told too."""
    problems = error.errors(include_url=False)
    for problem in problems:
        inner, kind = problem["loc"], problem["type"]
        steps = _known_steps(document, root, inner)
        location, last = (*root, *steps), str(inner[-1]) if inner else ""
        if kind == "missing" and len(steps) == len(inner) - 1:
            document.fault(location, f"missing key `{last}`")
        elif kind == "extra_forbidden":
            document.fault(location, f"unknown key `{last}`", did_you_mean(last, _names_at(fields, steps)), at_key=True)
        elif not document.has_fault(location) and not (kind == "too_short" and _has_inner(problems, inner)):
            # A step that is not in the text names one branch of a union: the field's description tells them all.
            field = _field_at(fields, steps) if len(steps) < len(inner) and last != "[key]" else None
            said, found = _sentence(problem["msg"], location, problem["input"]), problem["input"]
            quotes = "put it in quotes" if kind == "string_type" and isinstance(found, int | float) else ""
            document.fault(location, said, (field and field.description) or quotes, at_key=last == "[key]")


def _known_steps(document: Document, root: Location, inner: Location) -> Location:
    """The steps of a location as far as the text has them."""
    count = next((count for count in range(len(inner)) if not document.has((*root, *inner[: count + 1]))), len(inner))
    return inner[:count]


def _has_inner(problems: list[Any], location: Location) -> bool:
    """Whether something inside is wrong: what is wrong is left out when the rest is counted."""
    return any(len(other["loc"]) > len(location) and other["loc"][: len(location)] == location for other in problems)


def _sentence(text: str, location: Location, found: object) -> str:
    """`Input should be …` → "`mean[0]` should be …, found …" """
    name = next((str(step) for step in reversed(location) if isinstance(step, str)), "")
    name += "".join(f"[{step}]" for step in location[-1:] if isinstance(step, int))
    text = AFTER.sub("", text.removeprefix("Value error, "))
    for theirs, ours in WORDS.items():
        text = text.replace(theirs, ours)
    text = SUBJECT.sub(f"`{name}` " if name else "", text)
    text = text[:1].lower() + text[1:]
    return f"{text}, found `{_yaml(found)}`" if isinstance(found, str | int | float | None) else text


def _yaml(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    text = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
    return f'"{text}"' if isinstance(value, str) else text


def _names_at(fields: Any, steps: Location) -> list[str]:
    """The keys that are known in the mapping that the last step is a key of."""
    model = _model_at(fields, steps[:-1])
    return [name for name, field in _fields(model).items() if not field.exclude]


def _field_at(fields: Any, steps: Location) -> FieldInfo | None:
    return _fields(_model_at(fields, steps[:-1])).get(str(steps[-1])) if steps else None


def _model_at(fields: Any, steps: Location) -> Any:
    """The model that describes the mapping at a location, found by walking the types; None where keys are free."""
    for step in steps:
        if isinstance(step, str) and (inner := _fields(fields).get(step)) is not None:
            fields = _model_in(inner.annotation)
    return fields


def _fields(model: Any) -> dict[str, FieldInfo]:
    return getattr(model, "model_fields", {})


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [_model_in(argument) for argument in getattr(annotation, "__args__", ())]
    return next((model for model in found if model is not None), None)
