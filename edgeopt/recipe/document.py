"""YAML 1.2 text → plain data that remembers where everything stood.

Stricter than YAML where YAML surprises: no duplicate keys, aliases, merge keys, tags, NaN or infinity, one document,
at most 256 kB and 20 levels. Faults are gathered, not raised one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

MAX_BYTES = 256_000
MAX_DEPTH = 20

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
        return location in self._values

    def find(self, location: Location) -> Any:
        """The data at a location, or None."""
        found = self.data
        for step in location:
            try:
                found = found[step]
            except (KeyError, IndexError, TypeError):
                return None
        return found

    def override(self, assignment: str) -> None:
        """Apply one `KEY=VALUE` of the command line; KEY is dotted, with numbers for list positions."""
        key, separator, text = assignment.partition("=")
        origin = f"--set {assignment}"
        if not separator or not key:
            self.faults.append(Fault(origin, "not of the form KEY=VALUE", "for example `--set seed=3`"))
            return
        value = parse(text)
        self.faults += [Fault(origin, fault.what, fault.advice) for fault in value.faults]
        *parents, last = (int(step) if step.isdigit() else step for step in key.split("."))
        parent = self.data
        for step in parents:
            parent = _child(parent, step)
        if not _assign(parent, last, value.data):
            self.faults.append(Fault(origin, f"there is no place `{key}` in the recipe"))
            return
        self._forget((*parents, last))
        self._keys[(*parents, last)] = self._values[(*parents, last)] = origin

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
    if len(text.encode()) > MAX_BYTES:
        document.faults.append(Fault("1:1", f"larger than {MAX_BYTES // 1000} kB"))
        return document
    try:
        document.faults += _check_events(text)
        if not document.faults:
            node = YAML(typ="safe", pure=True).compose(text)
            document.data = _Reader(document).read(node, ()) if node is not None else None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        what = " ".join(part for part in (error.context, error.problem) if part)
        document.faults.append(Fault(f"{line}:{column}", f"not valid YAML: {what}", order=(line, column)))
    except (YAMLError, ValueError) as error:
        document.faults.append(Fault("1:1", f"not valid YAML: {error}"))
    return document


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
            self._check_tag(node, location, "seq")
            return [self.read(item, (*location, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, ScalarNode)
        return self._scalar(node, location)

    def _mapping(self, node: MappingNode, location: Location) -> dict[str, Any]:
        self._check_tag(node, location, "map")
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line, column = _mark(key_node)
            key = key_node.value if isinstance(key_node, ScalarNode) else None
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
        if kind == "int":
            return _integer(text)
        if kind == "float":
            return self._float(text, location)
        if kind not in ("str", "timestamp"):
            self._document.fault(location, f"the tag `{node.tag}` is not allowed")
        return text

    def _float(self, text: str, location: Location) -> float | None:
        if text.lower().lstrip("+-") in (".nan", ".inf"):
            self._document.fault(location, f"`{text}` is not a finite number")
            return None
        return float(text.replace("_", ""))

    def _check_tag(self, node: Node, location: Location, expected: str) -> None:
        if _short(node.tag) != expected:
            self._document.fault(location, f"the tag `{node.tag}` is not allowed")


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


def _child(parent: Any, step: str | int) -> Any:
    if isinstance(parent, dict):
        return parent.setdefault(str(step), {})
    if isinstance(parent, list) and isinstance(step, int) and step < len(parent):
        return parent[step]
    return None


def _assign(parent: Any, step: str | int, value: Any) -> bool:
    if isinstance(parent, dict):
        parent[str(step)] = value
    elif isinstance(parent, list) and isinstance(step, int) and step < len(parent):
        parent[step] = value
    else:
        return False
    return True
