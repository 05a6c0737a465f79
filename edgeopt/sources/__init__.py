"""How a trained network is loaded: one file per kind of source.

A source turns the `model:` section of a recipe into a `Model` in the context's folder. It is strict: a tensor that is
missing, left over or misshapen is named, and nothing is run that the recipe does not name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from pydantic import Field

from edgeopt import registry
from edgeopt.model import Facts, Model, TensorSpec, Value


class SourceRequest(Value):
    """The `model:` section of a recipe, resolved: paths are absolute but for `factory`, which is relative to `root`.

    `inputs` are as in the recipe: without the batch axis. An ONNX file may bring its own.
    """

    root: Path
    factory: str | None = None
    options: dict[str, Any] = {}
    weights: Path | None = None
    key: str | None = None
    strip_prefix: str = ""
    onnx: Path | None = None
    inputs: tuple[TensorSpec, ...] = Field(default=(), description="shapes without the batch axis, as in the recipe")


class Source(ABC):
    """One way in which a trained network is given."""

    @abstractmethod
    def load(self, request: SourceRequest, folder: Path) -> tuple[Model, Facts]:
        """Load the network into `folder` and return it with facts for the report (`parameters`, `macs` …).

        The network has been run once on zeros, so that its outputs are known.

        Raises:
            SourceError: the files do not hold the network that the recipe describes.
            TrustError: a file holds code.
        """


def load_source(name: str, request: SourceRequest, folder: Path) -> tuple[Model, Facts]:
    """What a worker runs: load by the source of that name."""
    source: Source = registry.resolve("sources", name)()
    return source.load(request, folder)
