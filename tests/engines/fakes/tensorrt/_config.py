"""The builder's configuration and the profiles of dynamic shapes."""

from __future__ import annotations

import json
from typing import Any

from fake_gpu import fake_gpu

from tensorrt._base import VERSION, Dims, Setting, Strict, only
from tensorrt._enums import (
    BuilderFlag,
    DeviceType,
    EngineCapability,
    HardwareCompatibilityLevel,
    MemoryPoolType,
    PreviewFeature,
    ProfilingVerbosity,
    RuntimePlatform,
    TacticSource,
    TilingOptimizationLevel,
)
from tensorrt._plan import ITimingCache

#: what a DLA has engines for
DLA_LAYERS = {"CONVOLUTION", "DECONVOLUTION", "ACTIVATION", "POOLING", "ELEMENTWISE", "CONCATENATION", "SCALE"}


class IOptimizationProfile(Strict):
    extra_memory_target = Setting(1.0)
    profile_stream = Setting(major=11)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("tensorrt.IOptimizationProfile: No constructor defined!")

    @classmethod
    def _new(cls) -> IOptimizationProfile:
        made = cls.__new__(cls)
        made._shapes = {}
        return made

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        shapes = [Dims(shape) for shape in (min, opt, max)]
        least, best, greatest = map(tuple, shapes)
        ordered = all(0 <= low <= middle <= high for low, middle, high in zip(least, best, greatest, strict=False))
        if not len(least) == len(best) == len(greatest) or not ordered:
            raise ValueError(f"Shapes are not consistent for input {input}: {least}, {best}, {greatest}")
        self._shapes[input] = shapes

    def get_shape(self, input: str) -> list[Dims]:
        return self._shapes.get(input, [])

    def __bool__(self) -> bool:
        return True


class IBuilderConfig(Strict):
    avg_timing_iterations = Setting(1)
    builder_optimization_level = Setting(3)
    default_device_type = Setting(DeviceType.GPU)
    DLA_core = Setting(-1)
    engine_capability = Setting(EngineCapability.STANDARD)
    hardware_compatibility_level = Setting(HardwareCompatibilityLevel.NONE)
    l2_limit_for_tiling = Setting(-1)
    max_aux_streams = Setting(-1)
    max_num_tactics = Setting(-1)
    profile_stream = Setting(0)
    profiling_verbosity = Setting(ProfilingVerbosity.LAYER_NAMES_ONLY)
    progress_monitor = Setting()
    runtime_platform = Setting(RuntimePlatform.SAME_AS_BUILD)
    tiling_optimization_level = Setting(TilingOptimizationLevel.NONE)
    build_route = Setting(major=11)
    int8_calibrator = Setting(major=10)
    algorithm_selector = Setting(major=10)
    quantization_flags = Setting(0, major=10)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("tensorrt.IBuilderConfig: No constructor defined!")

    @classmethod
    def _of(cls, logger: Any) -> IBuilderConfig:
        made = cls.__new__(cls)
        made._logger, made._profiles, made._cache, made._devices = logger, [], None, {}
        made._flags, made._features = 1 << int(BuilderFlag.TF32), set()
        made._pools = {MemoryPoolType.WORKSPACE: fake_gpu().memory_bytes}
        made._sources = sum(1 << int(source) for source in TacticSource)
        return made

    @property
    def flags(self) -> int:
        return self._flags

    @flags.setter
    def flags(self, value: int) -> None:
        self._flags = int(value)

    def set_flag(self, flag: BuilderFlag) -> None:
        self._flags |= 1 << int(_of(BuilderFlag, flag))

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._flags &= ~(1 << int(_of(BuilderFlag, flag)))

    def get_flag(self, flag: BuilderFlag) -> bool:
        return bool(self._flags >> int(_of(BuilderFlag, flag)) & 1)

    @only(10)
    def set_quantization_flag(self, flag: Any) -> None:
        self.quantization_flags |= 1 << int(flag)

    @only(10)
    def get_quantization_flag(self, flag: Any) -> bool:
        return bool(self.quantization_flags >> int(flag) & 1)

    def set_preview_feature(self, feature: PreviewFeature, enable: bool) -> None:
        (self._features.add if enable else self._features.discard)(_of(PreviewFeature, feature))

    def get_preview_feature(self, feature: PreviewFeature) -> bool:
        return _of(PreviewFeature, feature) in self._features

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        self._pools[_of(MemoryPoolType, pool)] = int(pool_size)

    def get_memory_pool_limit(self, pool: MemoryPoolType) -> int:
        return self._pools.get(_of(MemoryPoolType, pool), 0)

    def set_tactic_sources(self, tactic_sources: int) -> bool:
        self._sources = int(tactic_sources)
        return True

    def get_tactic_sources(self) -> int:
        return self._sources

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    def create_timing_cache(self, serialized_timing_cache: Any) -> ITimingCache | None:
        """An empty one of nothing; None of bytes that no cache wrote."""
        source = f"{VERSION} on {fake_gpu().capability}"
        content = bytes(serialized_timing_cache)
        try:
            found = json.loads(content) if content else {"source": source, "entries": []}
        except ValueError:
            return None
        return ITimingCache._of(found["source"], found["entries"])

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if cache._source != f"{VERSION} on {fake_gpu().capability}" and not ignore_mismatch:
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache

    def can_run_on_DLA(self, layer: Any) -> bool:  # noqa: N802
        return layer.type.name in DLA_LAYERS

    def set_device_type(self, layer: Any, device_type: DeviceType) -> None:
        self._devices[layer.name] = _of(DeviceType, device_type)

    def get_device_type(self, layer: Any) -> DeviceType:
        return self._devices.get(layer.name, self.default_device_type)


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"incompatible function arguments: {kind.__name__} is wanted, not {value!r}")
    return value
