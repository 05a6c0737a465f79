"""What a module of classes, enums and functions offers, as plain data: run as a program, it prints one JSON document.

The real `tensorrt` is described in a process of its own by `real_api`, its fake by the contract test, and both here, so
that like is compared with like:

    {"version": "11.4.0.106",
     "classes": {"Builder": {"logger": {"kind": "property", "writable": false},
                             "create_network": {"kind": "method", "overloads": [[{"name": "flags", ...}]]}}},
     "enums": {"BuilderFlag": {"REFIT": 4}},
     "functions": {"volume": [[{"name": "iterable", "required": true, "keyword": true}]]},
     "values": ["float32"]}

Compiled classes have no signature that `inspect` could read: pybind11 writes one line for each overload into the
docstring, and Cython one line for each function.
"""

from __future__ import annotations
import __future__

import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

#: what is called by writing something else than its name
TOLD = {"__init__", "__bool__", "__contains__", "__enter__", "__exit__", "__getitem__", "__iter__", "__len__"}

#: `2. name(first: Type = default, …`: where an overload begins in a docstring
HEAD = r"^(?:\d+\. )?{name}\("

OPENING, CLOSING = "([{<", ")]}>"

Description = dict[str, Any]


def describe(module: ModuleType) -> Description:
    """Everything public that a module has of its own or took from its compiled part."""
    found: Description = {
        "version": getattr(module, "__version__", ""),
        "classes": {},
        "enums": {},
        "functions": {},
        "values": [],
    }
    for name, value in sorted(vars(module).items()):
        if name.startswith("_") or isinstance(value, (ModuleType, __future__._Feature)):
            continue
        if isinstance(value, type) and hasattr(value, "__members__"):
            found["enums"][name] = {member: int(one) for member, one in value.__members__.items()}
        elif isinstance(value, type):
            found["classes"][name] = dict(members(value))
        elif inspect.isroutine(value):
            found["functions"][name] = overloads(value)
        else:
            found["values"].append(name)
    return found


def members(kind: type) -> Iterator[tuple[str, Description]]:
    """What a class and its bases have: properties, methods with the parameters of each overload, enums, values."""
    for name in sorted(dir(kind)):
        value = inspect.getattr_static(kind, name)
        if name.startswith("_") and name not in TOLD:
            continue
        if isinstance(value, property):
            yield name, {"kind": "property", "writable": value.fset is not None}
        elif isinstance(value, type) and hasattr(value, "__members__"):
            yield name, {"kind": "enum", "members": {one: int(value.__members__[one]) for one in value.__members__}}
        elif callable(value) or isinstance(value, staticmethod):
            skipped = 0 if isinstance(value, staticmethod) else 1  # `self`
            found = [parameters[skipped:] for parameters in overloads(getattr(kind, name))]
            yield name, {"kind": "method", "overloads": found}
        else:
            yield name, {"kind": "value"}


def overloads(function: Any) -> list[list[Description]]:
    """The parameters of each way to call a function, `self` among them; none if nothing tells them."""
    try:
        return [[_parameter(one) for one in inspect.signature(function).parameters.values()]]
    except (TypeError, ValueError):
        return [list(_written(text)) for text in _heads(function.__doc__ or "", function.__name__)]


def _parameter(one: inspect.Parameter) -> Description:
    keyword = one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    optional = one.default is not one.empty or one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    return {"name": str(one).partition(":")[0].partition("=")[0].strip(), "required": not optional, "keyword": keyword}


def _heads(text: str, name: str) -> Iterator[str]:
    """What stands between the parentheses of each overload."""
    for match in re.finditer(HEAD.format(name=re.escape(name)), text, re.MULTILINE):
        inside = "".join(_until_closed(text[match.end() :]))
        if inside != "*args, **kwargs":  # stands above the overloads
            yield inside


def _until_closed(text: str) -> Iterator[str]:
    depth = 1
    for character in text:
        depth += (character in OPENING) - (character in CLOSING)
        if depth == 0:
            return
        yield character


def _written(text: str) -> Iterator[Description]:
    """The parameters of `self: Type, first: Type = default, size_t second`; pybind11 calls unnamed ones `arg0` …"""
    depth, pieces = 0, [""]
    for character in text:
        depth += (character in OPENING) - (character in CLOSING)
        if character == "," and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += character
    for piece in filter(None, map(str.strip, pieces)):
        declared, _, default = piece.partition("=")
        typed, colon, _ = declared.partition(":")
        name = typed.strip() if colon else declared.split()[-1]
        yield {"name": name, "required": not default, "keyword": not re.fullmatch(r"arg\d+", name)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(describe(importlib.import_module(sys.argv[1]))))
