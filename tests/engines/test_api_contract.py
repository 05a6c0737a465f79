"""The fakes promise nothing that the real modules do not keep: every class, member, keyword and number is theirs.

What Polygraphy looks for is there exactly where it really is, so that it takes the same branches.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from describe import describe, overloads
from real_api import OLDER_CUDA, real_cuda, real_tensorrt

BOTH = pytest.mark.parametrize("fake_gpu", [10, 11], indirect=True)

#: parts of a description: what is compared, and how many there are to compare
Found = dict[str, Any]


def faults(fake: Found, real: Found) -> Iterator[str]:
    """What the fake has and the real module has not, or has otherwise."""
    for name, numbers in fake["enums"].items():
        known = real["enums"].get(name, {})
        yield from (f"{name}.{one}" for one, number in numbers.items() if known.get(one) != number)
    for name, parameters in fake["functions"].items():
        yield from misfits(name, parameters, real["functions"].get(name))
    for name, members in fake["classes"].items():
        known = real["classes"].get(name)
        if known is None:
            yield name
        else:
            yield from (fault for one, member in members.items() for fault in differing(f"{name}.{one}", member, known))
    yield from sorted(set(fake["values"]) - set(real["values"]))


def differing(name: str, member: Found, known: Found) -> Iterator[str]:
    real = known.get(name.partition(".")[2])
    if real is None or real["kind"] != member["kind"]:
        yield name
    elif member["kind"] == "method":
        yield from misfits(name, member["overloads"], real["overloads"])
    elif member["kind"] == "enum" and member["members"] != real["members"]:
        yield f"{name}: {member['members']}"
    elif member["kind"] == "property" and member["writable"] and not real["writable"]:
        yield f"{name} is read-only"


def misfits(name: str, fake: list[list[Found]], real: list[list[Found]] | None) -> Iterator[str]:
    """Calls that the fake takes and the real function does not: each way to leave out what is optional counts."""
    for parameters in fake:
        required = sum(parameter["required"] for parameter in parameters)
        for count in range(required, len(parameters) + 1):
            if not any(takes(overload, parameters[:count]) for overload in real or []):
                yield f"{name}({', '.join(one['name'] for one in parameters[:count])})"


def takes(overload: list[Found], given: list[Found]) -> bool:
    """Whether an overload can be called with these, by position and by name."""
    named = [(one["name"], one["keyword"]) for one in overload[: len(given)]]
    rest = overload[len(given) :]
    variadic = any(one["name"].startswith("*") for one in overload)
    is_same = named == [(one["name"], one["keyword"]) for one in given]
    return (is_same and not any(one["required"] for one in rest)) or (variadic and len(overload) == 2)


def table(fake: Found, real: Found, wrong: list[str]) -> str:
    """How many names of each class and enum the fake has, of how many, and how many of them are wrong."""
    rows = [f"{'':32} fake  real  wrong"]
    for kind in ("classes", "enums"):
        for name, members in fake[kind].items():
            bad = sum(one.partition("(")[0].split(".")[0] == name for one in wrong)
            rows.append(f"{name:32} {len(members):4}  {len(real[kind].get(name, ())):4}  {bad:5}")
    for kind in ("functions", "values"):
        bad = sum(one.partition("(")[0] in fake[kind] for one in wrong)
        rows.append(f"{kind:32} {len(fake[kind]):4}  {len(real[kind]):4}  {bad:5}")
    return "\n".join([*rows, "", "not in the real module:", *wrong])


@BOTH
def test_all_that_the_fake_tensorrt_has_the_real_one_has(fake_gpu: Any) -> None:
    import tensorrt

    fake, real = describe(tensorrt), real_tensorrt(fake_gpu.major)
    wrong = list(faults(fake, real))
    assert fake["version"] == real["version"]
    assert sum(map(len, fake["classes"].values())) > 150, "the fake is not what is described"
    assert not wrong, f"\n{table(fake, real, wrong)}"


@pytest.mark.parametrize("version", ["", OLDER_CUDA])
def test_all_that_the_fake_cuda_has_the_real_one_has(version: str, fake_gpu: Any) -> None:
    from cuda.bindings import runtime

    fake, real = describe(runtime), real_cuda(version)
    properties = sorted(set(vars(runtime.cudaDeviceProp())) - set(real["classes"]["cudaDeviceProp"]))
    wrong = [*faults(fake, real), *properties]
    assert len(fake["functions"]) >= 30
    assert not wrong, f"\n{table(fake, real, wrong)}"


def test_a_name_keyword_or_number_that_is_not_real_is_found(fake_gpu: Any) -> None:
    import tensorrt

    real = real_tensorrt(11)
    fake = describe(tensorrt)
    fake["enums"]["BuilderFlag"]["FP16"] = 0
    fake["classes"]["Builder"]["max_batch_size"] = {"kind": "property", "writable": True}
    fake["classes"]["ITensor"]["dtype"]["writable"] = True
    fake["functions"]["volume"] = overloads(lambda shape: shape)
    wrong = list(faults(fake, real))
    assert wrong == ["BuilderFlag.FP16", "volume(shape)", "Builder.max_batch_size", "ITensor.dtype is read-only"]
    assert re.search(r"^BuilderFlag +\d+ +\d+ +1$", table(fake, real, wrong), re.MULTILINE)


class Watch:
    """Notes which names Polygraphy looks for: on the module, and on the objects that it gets from it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import tensorrt
        from tensorrt import _base

        self.seen: set[tuple[str, str]] = set()
        watch = self

        class Watched(type(tensorrt)):
            def __getattribute__(self, name: str) -> Any:
                watch.note("", name)
                return super().__getattribute__(name)

        def look(holder: Any, name: str) -> Any:
            watch.note(type(holder).__name__, name)
            return object.__getattribute__(holder, name)

        monkeypatch.setattr(_base.Strict, "__getattribute__", look, raising=False)
        tensorrt.__class__ = Watched

    def note(self, holder: str, name: str) -> None:
        caller = sys._getframe(2).f_globals.get("__name__", "")
        if caller.startswith("polygraphy") and not name.startswith("_"):
            self.seen.add((holder, name))


def build_by_polygraphy(graph: Path, folder: Path) -> bytes:
    """All that a build may ask of Polygraphy, with a log that shows nearly everything."""
    import tensorrt
    from polygraphy.backend import trt
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.EXTRA_VERBOSE
    network = trt.network_from_onnx_path(
        str(graph), strongly_typed=True, flags=[tensorrt.OnnxParserFlag.NATIVE_INSTANCENORM]
    )
    profile = trt.Profile().add("image", (1, 1, 16, 16), (4, 1, 16, 16), (8, 1, 16, 16))
    config = trt.create_config(
        *network[:2],
        profiles=[profile],
        load_timing_cache=str(folder / "timing.cache"),
        memory_pool_limits={tensorrt.MemoryPoolType.WORKSPACE: 1 << 28},
        profiling_verbosity=tensorrt.ProfilingVerbosity.DETAILED,
        builder_optimization_level=4,
        hardware_compatibility_level=tensorrt.HardwareCompatibilityLevel.AMPERE_PLUS,
        version_compatible=True,
        exclude_lean_runtime=True,
        refittable=True,
        strip_plan=True,
        sparse_weights=True,
        max_aux_streams=0,
        engine_capability=tensorrt.EngineCapability.STANDARD,
        tactic_sources=[tensorrt.TacticSource.JIT_CONVOLUTIONS],
        tf32=True,
    )
    return bytes(trt.engine_bytes_from_network(network, config, save_timing_cache=str(folder / "timing.cache")))


@BOTH
def test_polygraphy_finds_what_it_would_find_in_the_real_tensorrt(
    fake_gpu: Any, onnx_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorrt

    fake_gpu.set(dla_cores=1)
    real = real_tensorrt(fake_gpu.major)
    watch = Watch(monkeypatch)
    for _ in range(2):  # the second time there is a timing cache to combine with
        assert build_by_polygraphy(onnx_model.path, tmp_path)
    kinds = ("classes", "enums", "functions")
    names = {name for kind in kinds for name in real[kind]} | set(real["values"])
    wrong = []
    for holder, name in sorted(watch.seen):
        is_real = name in real["classes"].get(holder, names)
        if hasattr(getattr(tensorrt, holder) if holder else tensorrt, name) != is_real:
            wrong.append(f"{holder or 'tensorrt'}.{name}")
    asked = {name for _, name in watch.seen}
    assert {"OnnxParser", "parse_from_file", "set_shape", "set_flag", "build_serialized_network", "combine"} <= asked
    assert not wrong, f"only in one of fake and real: {wrong}"
