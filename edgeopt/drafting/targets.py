"""What a draft builds for: kinds of machines by name, with the backends that are worth a race there."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass

from edgeopt import backends, registry
from edgeopt.errors import MissingError, UsageError, did_you_mean
from edgeopt.recipe.draft import TargetDraft

X86, ARM, TENSORRT = "x86", "arm64", "tensorrt"
ON_DEVICE = "an engine belongs to the GPU that built it: to have it measured, compile on the device"


@dataclass(frozen=True)
class Kind:
    """A kind of machine.

    Attributes:
        backends: those that race there.
        machines: what `platform.machine()` calls its CPU.
        isa: what every such CPU has at least.
        note: what to say of it.
    """

    backends: tuple[str, ...]
    machines: tuple[str, ...] = ()
    isa: tuple[str, ...] = ()
    note: str = ""

    @property
    def is_here(self) -> bool:
        return platform.machine() in self.machines


INTEL = Kind(
    ("onnxruntime_cpu", "openvino_cpu"), ("x86_64", "AMD64"), ("avx2",), "avx512_vnni or avx_vnni, where it has it"
)
ARM_CPU = Kind(("onnxruntime_cpu",), ("aarch64", "arm64"), ("asimd",), "asimddp where it has it, as from Cortex-A76 on")
NVIDIA = Kind((TENSORRT,), note=ON_DEVICE)

KINDS = {X86: INTEL, ARM: ARM_CPU, "raspberrypi": ARM_CPU, "orin": NVIDIA, "jetson": NVIDIA, TENSORRT: NVIDIA}


def find_targets(texts: Sequence[str]) -> tuple[TargetDraft, ...]:
    """The targets that were named, as `NAME` or `NAME=backend,backend`; else this machine.

    Raises:
        UsageError: a name is not known, or a backend cannot be a candidate.
        MissingError: no backend of a kind is here.
    """
    found = [_find(text) for text in texts or _here()]
    names = [target.name for target in found]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"two targets are called `{name}`", "as in `--target desk=onnxruntime_cpu`, name each apart"
            )
    return tuple(found)


def _here() -> list[str]:
    """This machine's CPU, and its GPU where there is a backend for it."""
    cpu = next((name for name, kind in KINDS.items() if kind.is_here), None)
    gpu = [TENSORRT] if TENSORRT in registry.names("backends") and not _missing(TENSORRT) else []
    return [cpu or f"{platform.machine()}=onnxruntime_cpu", *gpu]


def _find(text: str) -> TargetDraft:
    name, equals, listed = text.partition("=")
    if equals:
        return TargetDraft(name, [_check(each.strip()) for each in listed.split(",")])
    if name not in KINDS:
        hint = did_you_mean(name, KINDS)
        raise UsageError(f"`{name}` is no kind of target", f"{hint}; another takes `--target {name}=BACKEND`")
    kind = KINDS[name]
    lacks = {each: _missing(each) for each in kind.backends}
    known = set(registry.names("backends"))
    chosen = [each for each in kind.backends if each in known and not (kind.is_here and lacks[each])]
    if not chosen:
        why = "; ".join(f"`{each}`: {lacks[each]}" for each in kind.backends)
        raise MissingError(f"no backend for `{name}` is here: {why}", f"or name one: `--target {name}=BACKEND`")
    notes = [f"not here: {each}, {lack}" for each, lack in lacks.items() if lack]
    if kind.machines and not kind.is_here:
        notes.append(f"CHECK: `isa` has what every such CPU has; add {kind.note}")
        notes.append("CHECK: times are taken on the machine that compiles, which is another one")
    elif kind.note == ON_DEVICE:
        notes.append(kind.note)
    return TargetDraft(name, chosen, () if kind.is_here else kind.isa, notes)


def _check(name: str) -> str:
    backend = registry.resolve("backends", name)
    if backend.accepts != "onnx" or backends.get(name).profile() is None:
        why = "runs no integers" if backend.accepts == "onnx" else "runs torch networks, to compare with"
        raise UsageError(f"`{name}` cannot be a target's backend here: it {why}", "`edgeopt backends` lists others")
    return name


def _missing(name: str) -> str:
    """Why a backend cannot be used on this machine; empty where it can."""
    if name not in registry.names("backends"):
        return "which this edgeopt does not have"
    try:
        backends.get(name).available()
    except MissingError as error:
        return f"{error.message}; {error.hint}" if error.hint else error.message
    return ""
