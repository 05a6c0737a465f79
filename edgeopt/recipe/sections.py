"""The sections of a recipe as frozen values; which names and options exist is checked in `check.py`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainValidator, ValidationInfo, model_validator

from edgeopt import environment
from edgeopt.data.preprocess import Preprocess
from edgeopt.environment import INTERESTING_ISA
from edgeopt.model import Value
from edgeopt.recipe.budgets import Budgets

PLAIN_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def resolve_path(text: str, folder: Path) -> Path:
    """The path with `${NAME}` replaced from the environment, relative to the recipe's folder.

    Raises:
        ValueError: it is empty, or a variable is not set.
    """
    missing = [name for name in VARIABLE.findall(text) if not os.environ.get(name)]
    if missing:
        raise ValueError(f"the environment variable `{missing[0]}` is not set")
    if not text:
        raise ValueError("should be a path")
    return Path(os.path.normpath(folder / VARIABLE.sub(lambda match: os.environ[match[1]], text)))


def _as_path(text: Any, info: ValidationInfo) -> Path:
    if not isinstance(text, str):
        raise ValueError("should be a path")
    return resolve_path(text, (info.context or {}).get("folder", Path()))


def _distinct(names: list[str]) -> list[str]:
    twice = next((name for position, name in enumerate(names) if name in names[:position]), None)
    if twice is not None:
        raise ValueError(f"should name each once, and `{twice}` is there twice")
    return names


RecipePath = Annotated[Path, PlainValidator(_as_path, json_schema_input_type=str)]
Names = Annotated[list[str], AfterValidator(_distinct), Field(json_schema_extra={"uniqueItems": True})]


def _plain_name(name: str) -> str:
    if not PLAIN_NAME.fullmatch(name):
        raise ValueError("should be letters, digits, `.`, `_` and `-`, beginning with a letter or digit")
    return name


Name = Annotated[str, AfterValidator(_plain_name), Field(json_schema_extra={"pattern": PLAIN_NAME.pattern})]


class InputSection(Value):
    """One input of the network."""

    shape: list[Annotated[int, Field(ge=1)]] = Field(description="without the batch axis")
    dtype: Literal["float32"] = "float32"


class ModelSection(Value):
    """The trained network: a torch factory with its weights, or an ONNX file."""

    factory: str | None = Field(default=None, description="path/to/file.py:callable that returns an nn.Module")
    options: dict[str, Any] = Field(default={}, description="keyword arguments of the factory")
    weights: RecipePath | None = Field(default=None, description=".safetensors, or a .pt/.pth/.th state dict")
    key: str | None = Field(default=None, description="where in the checkpoint the state dict lies")
    strip_prefix: str = Field(default="", description="taken off the front of every tensor name, such as `module.`")
    onnx: RecipePath | None = Field(default=None, description="an ONNX file; no pruning or fine-tuning then")
    inputs: dict[str, InputSection] = {}
    expect: dict[str, Annotated[float, Field(ge=0, le=100)]] = Field(
        default={}, description="metric → what the original is known to reach on the validation split, in percent"
    )

    @model_validator(mode="after")
    def _one_source(self) -> ModelSection:
        if (self.factory is None) == (self.onnx is None):
            raise ValueError("`model` needs `factory` or `onnx`, and not both")
        if self.factory is not None:
            if self.weights is None or not self.inputs:
                raise ValueError("`factory` needs `weights` and `inputs` beside it")
            if not re.fullmatch(r"[^:]+\.py:[A-Za-z_]\w*", self.factory):
                raise ValueError("`factory` should be `path/to/file.py:callable`")
        elif self.weights is not None or self.options or self.key or self.strip_prefix:
            raise ValueError("`onnx` brings its own weights: take `weights`, `options`, `key` and `strip_prefix` away")
        return self


class SplitSection(Value):
    """Where the samples of one split lie."""

    path: RecipePath = Field(
        description="a file or folder; for format python file.py:callable, and the file names in `READS` what it reads"
    )
    samples: int | None = Field(default=None, ge=1, description="use only so many, chosen by content, not by order")


class DataSection(Value):
    """The samples: one format for all splits."""

    format: str = Field(default="npz", description="npz, image_folder, python, or a third party's")
    classes: Names | None = Field(default=None, min_length=2, description="names in the order of the labels")
    preprocess: Preprocess = Field(default=Preprocess(), description="travels in the bundle; also runs on the device")
    calibration: SplitSection | None = None
    validation: SplitSection
    training: SplitSection | None = None
    tuning: SplitSection | None = Field(default=None, description="what choices are made on")


def _named_options(entry: Any, what: str) -> dict[str, Any]:
    """`{name: {option: value}}` as the fields of an entry; `what` it should be, where it is something else."""
    if not isinstance(entry, dict) or len(entry) != 1:
        raise ValueError(f"should be {what}")
    ((name, options),) = entry.items()
    if options is not None and not isinstance(options, dict):
        raise ValueError(f"the options of `{name}` should be a mapping, such as `{{}}`")
    return {"name": name, "options": {} if options is None else options}


class PassStep(Value):
    """One entry of a list of passes: `{name: {option: value}}`."""

    name: str
    options: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_entry(cls, entry: Any) -> Any:
        return _named_options(entry, "one pass with its options, such as `quantize_int8: {}`")


class BackendEntry(Value):
    """One entry of a list of backends: a name, or `{name: {option: value}}`."""

    name: str
    options: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_entry(cls, entry: Any) -> Any:
        named = {entry: {}} if isinstance(entry, str) else entry
        return _named_options(named, "the name of a backend, or one with its options, such as `openvino_cpu: {}`")


def _distinct_backends(entries: list[BackendEntry]) -> list[BackendEntry]:
    _distinct([entry.name for entry in entries])
    return entries


class Variant(Value):
    """Passes added to the shared ones, or in place of them."""

    passes: list[PassStep] = []
    replaces: bool = False

    @model_validator(mode="before")
    @classmethod
    def _from_entry(cls, entry: Any) -> Any:
        if entry is None or isinstance(entry, list):
            return {"passes": entry or [], "replaces": False}
        if isinstance(entry, dict) and set(entry) == {"passes"}:
            return {"passes": entry["passes"], "replaces": True}
        raise ValueError("should be a list of passes, or `{passes: [...]}` in place of the shared ones")


class MeasureSection(Value):
    """How long speed is measured, and under what load."""

    seconds: float = Field(
        default=600, gt=0, le=86_400, description="what timing may take; what is undecided then stays inconclusive"
    )
    minutes: float | None = Field(
        default=None, gt=0, le=1440, description="run each candidate that misses nothing for so long, to see it drift"
    )
    concurrency: int = Field(
        default=1, ge=1, le=1024, description="streams that call one session at once while throughput is taken"
    )


def _known_isa(name: str) -> str:
    if name not in INTERESTING_ISA:
        raise ValueError(f"should be one of {', '.join(INTERESTING_ISA)}")
    return name


Isa = Annotated[str, AfterValidator(_known_isa)]


Runtime = Literal["onnxruntime", "openvino", "tensorrt", "torch"]
Version = Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+(\.[0-9]+)*$")]


class Target(Value):
    """One thing to ship for."""

    name: Name
    backends: Annotated[list[BackendEntry], AfterValidator(_distinct_backends)] = Field(
        min_length=1, description="what to race; if absent, onnxruntime_cpu, and on x86 openvino_cpu, too"
    )
    variants: dict[Name, Variant] = Field(default={"default": Variant.model_validate([])}, min_length=1)
    passes: list[PassStep] | None = Field(default=None, description="in place of the shared ones")
    threads: int = Field(default=1, ge=1, le=1024)
    batch: int = Field(default=1, ge=1, le=65536)
    builds: int = Field(
        default=1, ge=1, le=10, description="build each candidate so often, to see how far speed and accuracy differ"
    )
    tune: bool = Field(default=False, description="choose each candidate's session settings by measurement")
    isa: list[Isa] | None = Field(
        default=None, description="what the CPU that it is for has, where it is not this machine's"
    )
    board: Name | None = Field(
        default=None, description="what the board is called that it is for; devices of another name refuse the bundle"
    )
    runtimes: dict[Runtime, Version] = Field(
        default={}, description="runtime → the oldest release that its devices have, where that is not the one here"
    )
    device: str | None = Field(default=None, description="where to build and measure, such as ssh://orin-7")
    budgets: Budgets = Field(default=Budgets(), description="added to the shared ones, or tighter")
    measure: MeasureSection = Field(default=MeasureSection(), description="in place of the shared values")

    @model_validator(mode="before")
    @classmethod
    def _race_on_the_cpu(cls, entry: Any) -> Any:
        """Where no backend is named, those of the CPU race: measured, either wins on some networks."""
        if not isinstance(entry, dict) or "backends" in entry:
            return entry
        isa = entry.get("isa")
        known = isinstance(isa, list) and set(isa) <= set(INTERESTING_ISA)
        arm = environment.is_arm(isa if known else None)
        return entry | {"backends": ["onnxruntime_cpu"] if arm else ["onnxruntime_cpu", "openvino_cpu"]}


#: fields of a recipe that are no keys of its file
HIDDEN = ("path", "text", "overrides")


class Recipe(Value):
    """What to do, for which targets, within which budgets."""

    edgeopt: Literal[1] = Field(description="version of this format")
    name: Name
    seed: int = Field(default=0, ge=0, lt=2**32)
    model: ModelSection
    data: DataSection
    passes: list[PassStep] = []
    targets: list[Target] = Field(min_length=1)
    budgets: Budgets = Budgets()
    measure: MeasureSection = MeasureSection()
    inventory: RecipePath | None = Field(
        default=None, description="the fleet's file, which pins the keys of the devices that targets name"
    )

    path: Path = Field(default=Path("recipe.yaml"), exclude=True)
    overrides: tuple[str, ...] = Field(default=(), exclude=True)
    text: str = Field(default="", exclude=True, description="the file as it was read, overrides not included")

    @property
    def folder(self) -> Path:
        return self.path.parent

    def passes_of(self, target: Target, variant: str) -> list[PassStep]:
        """The whole list of passes of one candidate."""
        chosen = target.variants[variant]
        shared = self.passes if target.passes is None else target.passes
        return chosen.passes if chosen.replaces else shared + chosen.passes

    def measure_of(self, target: Target) -> MeasureSection:
        """How one target is measured: the values that it sets itself, over the shared ones."""
        own = {name: getattr(target.measure, name) for name in target.measure.model_fields_set}
        return self.measure.model_copy(update=own)
