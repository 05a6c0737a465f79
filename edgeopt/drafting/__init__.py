"""A trained network and its data → the draft of a first recipe: what `edgeopt init` does before it writes.

    source.py    the network: its file, its code, its inputs
    samples.py   the data: splits, classes, preprocessing
    targets.py   what to build for
    make.py      the three together, each held against the others

What can be found is found, by loading the network and opening the data in worker processes; what cannot is asked for.
Nothing is made up: a guess goes into the recipe with a mark, and what has no answer stops the command.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Options:
    """What the user said. What is None or empty is found, asked for or left out; paths are relative to the process."""

    model: Path
    out: Path
    factory: str | None = None
    options: Sequence[str] = ()
    key: str | None = None
    strip_prefix: str | None = None
    inputs: Sequence[str] = ()
    data: Path | None = None
    calibration: str | None = None
    validation: str | None = None
    training: str | None = None
    no_data: bool = False
    classes: str | None = None
    preprocess: Sequence[str] = ()
    targets: Sequence[str] = ()
    name: str | None = None

    def relative(self, path: str | Path) -> str:
        """A path as the recipe has to name it."""
        return Path(os.path.relpath(path, self.out.parent)).as_posix()


@dataclass(frozen=True)
class Question:
    """Something that could not be found.

    Attributes:
        option: what would have answered it.
        text: what is asked.
        hint: what an answer looks like, and why it is needed.
        parse: makes a value of the answer, and raises a UsageError where it is none.
        default: an answer that is offered; None: there is no sensible one.
        needed: whether nothing can be drafted without; otherwise the default is taken where nobody can be asked.
    """

    option: str
    text: str
    hint: str
    parse: Callable[[str], Any] = str
    default: str | None = None
    needed: bool = True


#: puts a question to whoever is there, and returns the parsed answer
Ask = Callable[[Question], Any]
