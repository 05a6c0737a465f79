"""Graphs in ONNX Runtime's own format, and the operators that a reduced build of it must have to run them.

An `.ort` file holds the graph as optimized, so that a build without optimizers and without the ONNX format can run it.
`required_operators.config` is what such a build is made from: a line `domain;version;operator,operator…` for each
version of an operator set, which is the one that an operator was last changed in.

Among the optimizations is a layout of float convolutions in blocks of channels, as wide as the vectors of the CPU: 8,
or 16 with AVX-512. Where the blocks are others, such a graph gives wrong sums, and nothing says so. So it is written
only for a CPU whose blocks are as wide as those of this one, and opened only there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt import environment, files
from edgeopt.onnx_sessions import Opening, open_session

if TYPE_CHECKING:
    import onnx

GRAPH = "model.ort"
OPERATORS = "required_operators.config"

#: lays float convolutions out in blocks
BLOCKING = "NchwcTransformer"
BLOCKED_DOMAIN = "com.microsoft.nchwc"

_ONNX_DOMAIN = "ai.onnx"


def channel_block(isa: Collection[str] | None = None) -> int | None:
    """How many channels a block of ONNX Runtime has on a CPU with that `isa`; None where it makes none, as on arm."""
    if environment.is_arm(isa):
        return None
    return 16 if "avx512f" in (environment.cpu()[1] if isa is None else isa) else 8


def write_ort(source: Path, folder: Path, opening: Opening, isa: Collection[str] | None) -> int | None:
    """Optimize the graph at `source` and leave it and its list of operators in `folder`.

    Returns:
        The channels of a block, where the graph as optimized has blocks.

    Raises:
        BackendError: ONNX Runtime refuses the graph.
    """
    import onnx

    if channel_block(isa) != channel_block():
        opening = replace(opening, turned_off=(*opening.turned_off, BLOCKING))
    files.make_folder(folder)
    shown = folder / "optimized.onnx"
    for path, form in ((folder / GRAPH, "ORT"), (shown, "ONNX")):
        entries = {**opening.entries, "session.save_model_format": form}
        saved = {**opening.attributes, "optimized_model_filepath": str(path)}
        open_session(str(source), replace(opening, entries=entries, attributes=saved))
    operators = required_operators(onnx.load(shown, load_external_data=False))
    files.remove(shown)
    files.write_text(folder / OPERATORS, describe_operators(operators))
    return channel_block(isa) if any(domain == BLOCKED_DOMAIN for domain, _ in operators) else None


def required_operators(graph: onnx.ModelProto) -> dict[tuple[str, int], set[str]]:
    """Domain and version → the operators of a graph that are of that version."""
    import onnx

    imported = {entry.domain: entry.version for entry in graph.opset_import}
    found: dict[tuple[str, int], set[str]] = defaultdict(set)
    for node in _nodes(graph.graph):
        version = 1  # ONNX Runtime's own operators have never been changed
        if node.domain in ("", _ONNX_DOMAIN):
            latest = imported.get("") or imported[_ONNX_DOMAIN]
            version = onnx.defs.get_schema(node.op_type, latest).since_version
        found[node.domain or _ONNX_DOMAIN, version].add(node.op_type)
    return dict(found)


def describe_operators(operators: dict[tuple[str, int], set[str]]) -> str:
    """The text of `required_operators.config`."""
    lines = [f"{domain};{version};{','.join(sorted(names))}" for (domain, version), names in sorted(operators.items())]
    return "\n".join(["# the operators that a reduced build of ONNX Runtime needs for this graph", *lines]) + "\n"


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph, and of the graphs inside them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)
