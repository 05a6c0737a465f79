"""YAML 1.2 text → plain data that remembers where everything stood.

Stricter than YAML where YAML surprises: no duplicate keys, aliases, merge keys, tags, directives, NaN or infinity, one
document, at most 256 kB and 20 levels. Faults are gathered, not raised one by one.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

MAX_BYTES = 256_000
MAX_DEPTH = 20
MAX_INTEGER = 2**63
MAX_SHOWN = 80

#: `%YAML 1.1` would turn `no` into false and `010` into 8
DIRECTIVE = re.compile(r"^%", re.MULTILINE)
#: what an escape such as `"\e"` could smuggle into a terminal, a path or an XML file
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
QUOTE = 'put a path that has `${NAME}` in it between quotes, as in {path: "${NAME}/file"}'
POSITION = re.compile(r"[0-9]{1,6}")

Location = tuple[str | int, ...]


@dataclass(frozen=True)
class Fault:
    """One thing wrong: where (`12:5`, or `--set`), what, and perhaps what to write instead."""

    where: str
    what: str
    advice: str = ""
    order: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f"; {self.advice}" if self.advice else "")


@dataclass
class Document:
    """Plain data with the place of every key and value; `faults` are those of the YAML itself."""

    data: Any = None
    faults: list[Fault] = field(default_factory=list)
    _keys: dict[Location, tuple[int, int] | str] = field(default_factory=dict)
    _values: dict[Location, tuple[int, int] | str] = field(default_factory=dict)

    def fault(self, location: Location, what: str, advice: str = "", *, at_key: bool = False) -> None:
        """Record a fault at a location, or at the nearest one around it that stands in the text."""
        place = self._place(location, at_key)
        if isinstance(place, str):
            self.faults.append(Fault(place, what, advice))
        else:
            self.faults.append(Fault(f"{place[0]}:{place[1]}", what, advice, place))

    def has(self, location: Location) -> bool:
        """Whether something was written at a location."""
        missing = object()
        return self._walk(location, missing) is not missing

    def has_fault(self, location: Location) -> bool:
        """Whether a fault of the very value at a location is recorded."""
        place = self._place(location, at_key=False)
        where = place if isinstance(place, str) else f"{place[0]}:{place[1]}"
        return any(fault.where == where for fault in self.faults)

    def find(self, location: Location) -> Any:
        """The data at a location, or None."""
        return self._walk(location, None)

    def override(self, assignment: str) -> None:
        """Apply one `KEY=VALUE` of the command line; KEY is dotted, with numbers for list positions."""
        key, separator, text = assignment.partition("=")
        origin = f"--set {' '.join(assignment.split())[:MAX_SHOWN]}"
        if not separator or not key or key.count(".") >= MAX_DEPTH:
            self.faults.append(Fault(origin, "not of the form KEY=VALUE", "for example `--set seed=3`"))
            return
        value = parse(text)
        self.faults += [Fault(origin, fault.what, fault.advice) for fault in value.faults]
        if self.data is None:
            return  # there is no recipe to lay it over, which is a fault of its own
        location, parent = self._descend(key.split("."), origin)
        if not _holds(parent, location[-1]):
            self.faults.append(Fault(origin, "the recipe has no such place"))
            return
        parent[location[-1]] = value.data
        self._forget(location)
        self._keys[location] = self._values[location] = origin

    def _descend(self, steps: list[str], origin: str) -> tuple[Location, Any]:
        """The location that dotted steps name, and what holds its last step; mappings that are missing are made."""
        parent, location = self.data, tuple[str | int, ...]()
        for number, word in enumerate(steps):
            step = int(word) if isinstance(parent, list) and POSITION.fullmatch(word) else word
            location = (*location, step)
            if number + 1 == len(steps):
                break
            if isinstance(parent, dict) and parent.get(str(step)) is None:
                parent[str(step)] = {}
                self._keys[location] = self._values[location] = origin
            parent = parent[step] if _holds(parent, step) else None
        return location, parent

    def _walk(self, location: Location, otherwise: Any) -> Any:
        found = self.data
        for step in location:
            if not _holds(found, step) or (isinstance(found, dict) and step not in found):
                return otherwise
            found = found[step]
        return found

    def _forget(self, location: Location) -> None:
        for places in (self._keys, self._values):
            for known in [known for known in places if known[: len(location)] == location]:
                del places[known]

    def _place(self, location: Location, at_key: bool) -> tuple[int, int] | str:
        if at_key and location in self._keys:
            return self._keys[location]
        while location and location not in self._values:
            location = location[:-1]
        return self._values.get(location, (1, 1))


def parse(text: str) -> Document:
    """Read one YAML document; whatever is wrong is in its `faults`."""
    document = Document()
    if len(text.encode(errors="surrogatepass")) > MAX_BYTES:
        document.faults.append(Fault("1:1", f"larger than {MAX_BYTES // 1000} kB"))
        return document
    try:
        document.faults += _check_directives(text)
        if not document.faults:
            document.faults += _check_events(text)
        if not document.faults:
            node = YAML(typ="safe", pure=True).compose(text)
            document.data = _Reader(document).read(node, ()) if node is not None else None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        what = f"not valid YAML: {' '.join(part for part in (error.context, error.problem) if part)}"
        advice = QUOTE if "${" in "".join(text.split("\n")[line - 1 : line]) else ""
        document.faults.append(Fault(f"{line}:{column}", what, advice, (line, column)))
    except ReaderError as error:
        line, column = _line_and_column(text, error.position)
        what = f"the character U+{ord(text[error.position]):04X} is not allowed"
        document.faults.append(Fault(f"{line}:{column}", what, order=(line, column)))
    except YAMLError as error:
        document.faults.append(Fault("1:1", f"not valid YAML: {' '.join(str(error).split())}"))
    return document


def _check_directives(text: str) -> Iterator[Fault]:
    for found in DIRECTIVE.finditer(text):
        line, column = _line_and_column(text, found.start())
        yield Fault(f"{line}:{column}", "directives are not allowed", "a recipe is YAML 1.2", (line, column))


def _check_events(text: str) -> Iterator[Fault]:
    """What must be refused before nodes are built: a small text can describe something huge."""
    depth = documents = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        kind = type(event).__name__
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        depth += kind.endswith("StartEvent") - kind.endswith("EndEvent")
        documents += kind == "DocumentStartEvent"
        if kind == "AliasEvent" or getattr(event, "anchor", None):
            what, advice = "anchors and aliases are not allowed", "write the value out"
            yield Fault(f"{line}:{column}", what, advice, (line, column))
        if getattr(event, "tag", None):
            yield Fault(f"{line}:{column}", f"the tag `{event.tag}` is not allowed", "take it out", (line, column))
        if documents > 1:
            yield Fault(f"{line}:{column}", "more than one YAML document", order=(line, column))
            return
        if depth > MAX_DEPTH + 2:  # the stream and the document count as levels too
            yield Fault(f"{line}:{column}", f"nested deeper than {MAX_DEPTH} levels", order=(line, column))
            return


class _Reader:
    """Turns nodes into data, keeping places and faults in the document."""

    def __init__(self, document: Document) -> None:
        self._document = document

    def read(self, node: Node, location: Location) -> Any:
        self._document._values[location] = _mark(node)
        if isinstance(node, MappingNode):
            return self._mapping(node, location)
        if isinstance(node, SequenceNode):
            return [self.read(item, (*location, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, ScalarNode)
        return self._scalar(node, location)

    def _mapping(self, node: MappingNode, location: Location) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line, column = _mark(key_node)
            key = self._printable(key_node.value, (line, column)) if isinstance(key_node, ScalarNode) else None
            if key is None or _short(key_node.tag) == "merge":
                what = "merge keys are not allowed" if key is not None else "a key must be a plain word"
                self._document.faults.append(Fault(f"{line}:{column}", what, order=(line, column)))
            elif key in result:
                self._document.faults.append(Fault(f"{line}:{column}", f"duplicate key `{key}`", order=(line, column)))
            else:
                self._document._keys[(*location, key)] = (line, column)
                result[key] = self.read(value_node, (*location, key))
        return result

    def _scalar(self, node: ScalarNode, location: Location) -> Any:
        kind, text = _short(node.tag), str(node.value)
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind in ("int", "float"):
            return self._number(kind, text, location)
        return self._printable(text, _mark(node))

    def _printable(self, text: str, place: tuple[int, int]) -> str:
        if found := UNPRINTABLE.search(text):
            what = f"the character U+{ord(found[0]):04X} is not allowed"
            self._document.faults.append(Fault(f"{place[0]}:{place[1]}", what, order=place))
        return UNPRINTABLE.sub("?", text)

    def _number(self, kind: str, text: str, location: Location) -> int | float | None:
        number: int | float | None = None
        with contextlib.suppress(ValueError):
            number = _integer(text) if kind == "int" else float(text.lower().replace("_", "").replace(".inf", "inf"))
        if number is None or not (abs(number) < MAX_INTEGER if kind == "int" else math.isfinite(number)):
            self._document.fault(location, f"`{text[:MAX_SHOWN]}` is not a finite number that fits into 64 bits")
            return None
        return number


def _integer(text: str) -> int:
    digits = text.replace("_", "")
    for prefix, base in (("0x", 16), ("0o", 8), ("0b", 2)):
        if digits.lower().lstrip("+-").startswith(prefix):
            return int(digits, base)
    return int(digits)


def _short(tag: object) -> str:
    return str(tag).removeprefix("tag:yaml.org,2002:")


def _mark(node: Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _line_and_column(text: str, position: int) -> tuple[int, int]:
    before = text[:position]
    return before.count("\n") + 1, position - before.rfind("\n")


def _holds(parent: Any, step: str | int) -> bool:
    """Whether `parent[step]` can be set: any key of a mapping, a position that a list has."""
    return isinstance(parent, dict) or (isinstance(parent, list) and isinstance(step, int) and step < len(parent))
