"""What the comparisons with peers share: INT8 files that other tools make, and ours timed beside them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tables import ROOT

from edgeopt.bench import compare_files
from edgeopt.errors import EdgeoptError
from edgeopt.model import Model

BACKENDS = ("onnxruntime_cpu", "openvino_cpu")
#: what `edgeopt` alone stands for, in names and ratios: INT8 with the defaults
OURS = "edgeopt"
SPEED_COLUMNS = ("runtime", "ratio", "value", "95 % interval")
LONGEST_FAULT = 100


@dataclass(frozen=True)
class Made:
    """An INT8 network: what made it, its file, the runtime that it is for, the seconds that it took, if told."""

    name: str
    path: Path
    backend: str
    seconds: float = 0.0
    note: str = ""


def make_peers(model: Model, images: Path, folder: Path, tools: Sequence[str]) -> Iterator[Made]:
    """What the tools make of a float network with these images, see peers.py; one that fails is told and left out."""
    python = os.environ.get("EDGEOPT_PEERS")
    if python is None:
        print("\nno peers: `EDGEOPT_PEERS` names no Python that has them")
        return
    for tool in tools:
        command = [python, str(ROOT / "benchmarks/peers.py"), tool, str(model.path), str(images), str(folder / tool)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            print(f"\n{tool} failed: {ran.stderr.strip().splitlines()[-1] if ran.stderr.strip() else ran.returncode}")
            continue
        found = json.loads(ran.stdout.strip().splitlines()[-1])
        path = Path(found["path"])
        for backend in BACKENDS if path.suffix == ".onnx" else BACKENDS[1:]:
            yield Made(tool, path, backend, found["seconds"])


def speed_rows(model: Model, made: Sequence[Made], sets: int) -> Iterator[list[object]]:
    """Ours against float and each peer's ONNX file, on each runtime: the cells of `SPEED_COLUMNS`."""
    for backend in BACKENDS:
        here = [one for one in made if one.backend == backend and one.path.suffix == ".onnx"]
        ours = next(one.path for one in here if one.name == OURS)
        others = {"float": model.path} | {one.name: one.path for one in here if not one.name.startswith(OURS)}
        for name, path in others.items():
            yield [backend, f"{OURS} ÷ {name}", *_ratio(path, ours, backend, sets)]


def _ratio(other: Path, ours: Path, backend: str, sets: int) -> tuple[str, str]:
    """The ratio and its interval, or why there is none: a runtime may refuse a peer's file, or crash on it."""
    try:
        found = compare_files(other, ours, backend=backend, threads=1, batch=1, sets=sets)
    except EdgeoptError as error:
        return "none", " ".join(error.message.split())[:LONGEST_FAULT]
    ratio = found["ratio"]
    value = "none" if ratio["value"] is None else f"{ratio['value']:.3f}"
    # Without an interval, the sentence says what is missing: sets, or quiet.
    return value, found["sentence"] if ratio["low"] is None else f"[{ratio['low']:.3f}, {ratio['high']:.3f}]"
