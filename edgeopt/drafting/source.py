"""The network of a draft: an ONNX file, or a checkpoint with the code that makes the module for it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeopt import workers
from edgeopt.drafting import Ask, Options, Question
from edgeopt.errors import SourceError, UsageError, did_you_mean
from edgeopt.model import Facts, Model, TensorSpec
from edgeopt.recipe.document import parse
from edgeopt.sources import SourceRequest

ONNX = ".onnx"
CHECKPOINTS = (".safetensors", ".pt", ".pth", ".th")

FACTORY = re.compile(r"[^:]+\.py:[A-Za-z_]\w*")
SIZES = re.compile(r"\d+(x\d+)*")

#: what the only input of a torch network is called where nothing else names it
IMAGE = "image"

WHAT_A_FACTORY_IS = (
    "a checkpoint holds tensors and no network: name the callable that makes it, such as `--factory network.py:make "
    "--option width=64` for a file network.py with `def make(width): return Net(width)`"
)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Given:
    """The network as far as it is known before all sizes of its inputs are.

    Attributes:
        section: the `model:` section of the recipe, without `inputs`.
        request: the same for a worker.
        declared: inputs without the batch axis; a size may be a symbol, and for a torch network all may be missing.
    """

    section: Mapping[str, Any]
    request: SourceRequest
    declared: tuple[TensorSpec, ...]


def find_source(options: Options, ask: Ask) -> Given:
    """Look at the file, and at what was said of it.

    Raises:
        UsageError: it is no network, or what is missing was not said.
        TrustError: it is a pickle that wants to run code.
    """
    path = options.model
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "is not there"
        near = [each.name for each in path.parent.glob("*") if each.suffix.lower() in (ONNX, *CHECKPOINTS)]
        raise UsageError(f"`{path}` {what}", did_you_mean(path.name, near))
    if path.suffix.lower() == ONNX:
        return _find_onnx(options)
    if path.suffix.lower() in CHECKPOINTS:
        return _find_torch(options, ask)
    raise UsageError(
        f"`{path}` is no network that edgeopt reads: it ends in `{path.suffix}`",
        f"known: {ONNX}, and with `--factory` {', '.join(CHECKPOINTS)}; export other kinds to ONNX",
    )


def settle_inputs(given: Given, suggested: Mapping[str, Shape], ask: Ask) -> tuple[dict[str, Shape], str]:
    """The shapes that go into the recipe, and what is to be said of them; none where the file has them all.

    Args:
        suggested: the shapes of the samples, as they are prepared.
    """
    if given.declared and all(map(_is_closed, given.declared)):
        return {spec.name: _sizes(spec) for spec in given.request.inputs}, ""
    wanted = given.declared or tuple(TensorSpec(name=name, shape=shape) for name, shape in suggested.items())
    found: dict[str, Shape] = {}
    for spec in wanted:
        known = _sizes(spec) if _is_closed(spec) else _fill(spec, suggested.get(spec.name, ()))
        found[spec.name] = known or ask(_question(spec, given))
    if not found:
        found = ask(_question(TensorSpec(name=IMAGE, shape=()), given, named=True))
    guessed = any(found[name] == shape for name, shape in suggested.items() if name in found)
    note = "the shape of the samples as they are prepared: was the network trained with it?" if guessed else ""
    return found, note


def load(given: Given, inputs: Mapping[str, Shape]) -> tuple[Model, Facts]:
    """Load and run the network once, in a process of its own.

    Raises:
        EdgeoptError: it cannot be loaded, or not be run on such inputs.
    """
    specs = tuple(TensorSpec(name=name, shape=shape) for name, shape in inputs.items())
    source = "onnx_file" if given.request.onnx else "torch_factory"
    request = given.request.model_copy(update={"inputs": specs})
    with tempfile.TemporaryDirectory(prefix="edgeopt-init-") as scratch:
        model, facts = workers.run("edgeopt.sources:load_source", source, request, Path(scratch), name=str(source))
    return model, facts


def parse_inputs(texts: Sequence[str], names: Sequence[str] = ()) -> dict[str, Shape]:
    """`image=3x224x224`, or `3x224x224` where there is one input.

    Raises:
        UsageError: it is something else.
    """
    found: dict[str, Shape] = {}
    for text in texts:
        name, equals, sizes = text.rpartition("=")
        if not equals and len(names) > 1:
            raise UsageError(f"`--input {text}` names no input", f"write `{names[0]}={text}`; there are {len(names)}")
        if not SIZES.fullmatch(sizes) or "0" in sizes.split("x") or (equals and not name):
            raise UsageError(f"`--input {text}` is no shape", "without the batch axis, as in `--input image=3x224x224`")
        found[name or (names[0] if names else IMAGE)] = tuple(int(size) for size in sizes.split("x"))
    return found


def _find_onnx(options: Options) -> Given:
    path = options.model
    torch_only = {"--factory": options.factory, "--option": options.options, "--key": options.key,
                  "--strip-prefix": options.strip_prefix}  # fmt: skip
    for option, value in torch_only.items():
        if value:
            raise UsageError(f"`{option}` is for a checkpoint, and `{path}` is an ONNX file", "leave it out")
    specs: tuple[TensorSpec, ...] = workers.run("edgeopt.sources.onnx_file:read_inputs", path.absolute())
    for spec in specs:
        if spec.dtype != "float32":
            what = f"the input `{spec.name}` of `{path}` is {spec.dtype}, and edgeopt feeds float32"
            raise SourceError(what, "export the network with float32 inputs")
    names = [spec.name for spec in specs]
    said = parse_inputs(options.inputs, names)
    for name in said.keys() - set(names):
        raise UsageError(f"`{path}` has no input `{name}`", did_you_mean(name, names))
    declared = tuple(spec.model_copy(update={"shape": said.get(spec.name, spec.shape[1:])}) for spec in specs)
    request = SourceRequest(
        root=Path.cwd(), onnx=path.absolute(), inputs=declared if said and all(map(_is_closed, declared)) else ()
    )
    return Given({"onnx": options.relative(path)}, request, declared)


def _find_torch(options: Options, ask: Ask) -> Given:
    path = options.model
    # The checkpoint is read before any code of the user's runs, and before anything is asked: it may be refused.
    found: dict[str | None, str] = workers.run("edgeopt.checkpoint:find_state_dicts", path.absolute())
    key = options.key if options.key is not None else _choose_key(found, path, ask)
    factory = options.factory or ask(
        Question("--factory", f"what makes the network of `{path}`, as file.py:callable?", WHAT_A_FACTORY_IS, _factory)
    )
    values = _parse_options(options.options)
    request = SourceRequest(
        root=Path.cwd(), factory=_factory(factory), options=values, weights=path.absolute(), key=key,
        strip_prefix=options.strip_prefix or "",
    )  # fmt: skip
    if options.strip_prefix is None and found.get(key):  # all names begin alike: with a prefix, or with a module's name
        prefix = workers.run("edgeopt.sources.torch_factory:find_prefix", request)
        request = request.model_copy(update={"strip_prefix": prefix})
    declared = tuple(TensorSpec(name=name, shape=shape) for name, shape in parse_inputs(options.inputs).items())
    request = request.model_copy(update={"inputs": declared})
    file, _, attribute = factory.rpartition(":")
    section = {"factory": f"{options.relative(file)}:{attribute}", "options": values,
               "weights": options.relative(path), "key": key, "strip_prefix": request.strip_prefix}  # fmt: skip
    return Given(section, request, declared)


def _choose_key(found: Mapping[str | None, str], path: Path, ask: Ask) -> str | None:
    if len(found) == 1:
        return next(iter(found))

    def parse_key(text: str) -> str:
        if text not in found:
            raise UsageError(f"`{path}` has no state dict `{text}`", did_you_mean(text, map(str, found)))
        return text

    listed = ", ".join(map(str, found))
    chosen: str = ask(Question("--key", f"which state dict of `{path}`: {listed}?", "one of them", parse_key))
    return chosen


def _factory(text: str) -> str:
    if not FACTORY.fullmatch(text):
        raise UsageError(f"`--factory {text}` is not of the form path/to/file.py:callable", WHAT_A_FACTORY_IS)
    file = Path(text.rpartition(":")[0])
    if not file.is_file():
        near = [each.name for each in file.parent.glob("*.py")]
        raise UsageError(f"there is no file `{file}`", did_you_mean(file.name, near))
    return text


def _parse_options(texts: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        read = parse(value)
        if not equals or not key.isidentifier() or read.faults:
            raise UsageError(f"`--option {text}` is not of the form KEY=VALUE", "for example `--option width=64`")
        values[key] = read.data
    return values


def _question(spec: TensorSpec, given: Given, *, named: bool = False) -> Question:
    sizes = ", ".join(map(str, spec.shape))
    text = f"the input `{spec.name}` leaves sizes open, [{sizes}]: which shape has it, without the batch axis?"
    if named:
        text = "which shape has the input of the network, without the batch axis?"
    several = len(given.declared) > 1

    def parse_shape(answer: str) -> Any:
        found = parse_inputs([answer], [spec.name])
        if named:
            return found
        shape = found.get(spec.name, ())
        if spec.shape and not _fill(spec, shape):
            raise UsageError(f"`{answer}` does not fit [{sizes}]", "write all sizes, as in `3x224x224`")
        return shape

    prefix, more = (f"{spec.name}=" if several or named else ""), ("; once for each input" if several or named else "")
    return Question("--input", text, f"as in `--input {prefix}3x224x224`{more}", parse_shape)


def _fill(spec: TensorSpec, shape: Sequence[int]) -> Shape:
    """`shape`, if it is what `spec` leaves open; else nothing."""
    fits = len(shape) == len(spec.shape) and all(
        isinstance(axis, str) or axis == size for axis, size in zip(spec.shape, shape, strict=True)
    )
    return tuple(shape) if fits else ()


def _is_closed(spec: TensorSpec) -> bool:
    return all(isinstance(axis, int) for axis in spec.shape)


def _sizes(spec: TensorSpec) -> Shape:
    return tuple(int(axis) for axis in spec.shape)
