"""The builder: checks what the real one checks before it starts, then does what the test asks for."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from typing import Any

from fake_gpu import fake_gpu

from tensorrt._base import VERSION, Setting, Strict, only
from tensorrt._config import IBuilderConfig, IOptimizationProfile
from tensorrt._enums import BuilderFlag, DeviceType, NetworkDefinitionCreationFlag, Severity
from tensorrt._graph import Graph
from tensorrt._network import INetworkDefinition
from tensorrt._plan import IHostMemory, Plan

STRONGLY_TYPED = NetworkDefinitionCreationFlag.STRONGLY_TYPED

#: what a network that says its own types is not built with; of these, 11 has none
WEAK_NAMES = (
    "FP16",
    "BF16",
    "INT8",
    "FP8",
    "INT4",
    "FP4",
    "PREFER_PRECISION_CONSTRAINTS",
    "OBEY_PRECISION_CONSTRAINTS",
)
WEAK = [flag for flag in BuilderFlag if flag.name in WEAK_NAMES]
REFIT = [BuilderFlag.REFIT, BuilderFlag.REFIT_IDENTICAL, BuilderFlag.REFIT_INDIVIDUAL]


class Builder(Strict):
    error_recorder = Setting()
    max_threads = Setting(1)

    def __init__(self, logger: Any) -> None:
        if not (fake_gpu().devices and fake_gpu().driver):
            logger.log(Severity.ERROR, "CUDA initialization failure with error: 35. Is a GPU there, and its driver?")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger

    @property
    def logger(self) -> Any:
        return self._logger

    @property
    def num_DLA_cores(self) -> int:  # noqa: N802
        return fake_gpu().dla_cores

    @only(10)
    @property
    def platform_has_fast_fp16(self) -> bool:
        return True

    @only(10)
    @property
    def platform_has_fast_int8(self) -> bool:
        return True

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition._of(self, flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig._of(self._logger)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile._new()

    def is_network_supported(self, network: INetworkDefinition, config: IBuilderConfig) -> bool:
        return not list(_faults(network, config))

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        faults = [*_faults(network, config), *self._place(network, config)]
        for fault in faults:
            self._logger.log(Severity.ERROR, f"IBuilder::buildSerializedNetwork: Error Code 4: {fault}")
        if faults or not self._go_wrong() or not _time_kernels(network._graph, config, self._logger):
            return None
        plan = _plan(network, config)
        if config.get_flag(BuilderFlag.STRIP_PLAN):
            plan = plan.without_weights()
        return IHostMemory._of(plan.written())

    def _place(self, network: INetworkDefinition, config: IBuilderConfig) -> Iterator[str]:
        """Tell which layers the accelerator does not take; a fault if the GPU may not take them either."""
        if config.default_device_type is not DeviceType.DLA or network._graph is None:
            return
        for layer in (one for one in network if not config.can_run_on_DLA(one)):
            if config.get_flag(BuilderFlag.GPU_FALLBACK):
                text = f"Default DLA is enabled but layer {layer.name} is not supported on DLA, falling back to GPU."
                self._logger.log(Severity.WARNING, text)
            else:
                yield f"Default DLA is enabled but layer {layer.name} is not supported on DLA"

    def _go_wrong(self) -> bool:
        """Do what the test asks for; False ends the build."""
        what = fake_gpu().build
        if what == "segfault":
            ctypes.string_at(0)
        while what == "hang":
            time.sleep(1)
        if what == "out_of_memory":
            self._logger.log(Severity.ERROR, "Error Code 2: OutOfMemory (Requested size was 9663676416 bytes.)")
        if what == "none":
            text = "Error Code 10: Internal Error (Could not find any implementation for node conv1.)"
            self._logger.log(Severity.ERROR, text)
        return not what


def _faults(network: INetworkDefinition, config: IBuilderConfig) -> Iterator[str]:
    if network._graph is None or not network.num_outputs:
        yield "Network must have at least one output"
        return
    if network.get_flag(STRONGLY_TYPED):
        yield from (f"{flag.name} is set for a strongly typed network" for flag in WEAK if config.get_flag(flag))
    for one in network._graph.inputs:
        for profile in config._profiles:
            yield from _misfits(one.name, one.shape, profile)
        if -1 in one.shape and not config._profiles:
            yield "Network has dynamic or shape inputs, but no optimization profile has been defined."


def _misfits(name: str, shape: tuple[int, ...], profile: IOptimizationProfile) -> Iterator[str]:
    given = profile.get_shape(name)
    if not given and -1 in shape:
        yield f"Dynamic input {name} has no shapes in the optimization profile."
    for dims in given:
        fixed = [length in (-1, one) for length, one in zip(shape, dims, strict=False)]
        if len(dims) != len(shape) or not all(fixed):
            yield f"For input {name}, the profile's dimensions {dims} do not fit the network's {shape}."


def _time_kernels(graph: Graph, config: IBuilderConfig, logger: Any) -> bool:
    """Fill the timing cache, kernel by kernel, and tell whoever watches; False where that one, or a miss, ends it."""
    cache, monitor, kernels = config._cache, config.progress_monitor, graph.fused()
    goes_on = True
    if monitor is not None:
        monitor.phase_start("Building Engine", None, len(kernels))
    for step, kernel in enumerate(kernels):
        entry = f"{kernel.nodes[0].op_type} {kernel.nodes[0].input} {graph.tensor(kernel.output).shape}"
        if cache is not None and entry not in cache._entries:
            if config.get_flag(BuilderFlag.ERROR_ON_TIMING_CACHE_MISS):
                logger.log(Severity.ERROR, f"Error Code 2: Internal Error (timing cache miss for {kernel.name})")
                goes_on = False
            cache._entries.add(entry)
        if monitor is not None and monitor.step_complete("Building Engine", step) is False:
            goes_on = False
    if monitor is not None:
        monitor.phase_finish("Building Engine")
    return goes_on


def _plan(network: INetworkDefinition, config: IBuilderConfig) -> Plan:
    profiles = [
        {name: [list(dims) for dims in shapes] for name, shapes in profile._shapes.items()}
        for profile in config._profiles
    ]
    return Plan(
        version=VERSION,
        capability=list(fake_gpu().capability),
        model=network._graph.model.SerializeToString(),
        name=network.name,
        hardware=config.hardware_compatibility_level.name,
        verbosity=config.profiling_verbosity.name,
        capability_of_engine=config.engine_capability.name,
        version_compatible=config.get_flag(BuilderFlag.VERSION_COMPATIBLE),
        refittable=any(config.get_flag(flag) for flag in REFIT),
        float_layers=fake_gpu().float_layers,
        profiles=tuple(profiles),
    )
