"""Weights put into an engine that was built without them, or changed in one that was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tensorrt._base import Setting, Strict
from tensorrt._enums import Severity
from tensorrt._graph import Graph
from tensorrt._runtime import ICudaEngine


class Refitter(Strict):
    error_recorder = Setting()
    max_threads = Setting(1)

    def __init__(self, engine: ICudaEngine, logger: Any) -> None:
        if not engine.refittable:
            logger.log(Severity.ERROR, "createInferRefitter: the engine is not refittable")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._engine, self._logger = engine, logger
        self._given: dict[str, Any] = {}

    @property
    def logger(self) -> Any:
        return self._logger

    def get_all_weights(self) -> list[str]:
        return [one.name for one in self._engine._graph.weights.values() if len(one.dims) > 1]

    def get_missing_weights(self) -> list[str]:
        return [name for name in self.get_all_weights() if self._engine._plan.stripped and name not in self._given]

    def set_named_weights(self, name: str, weights: Any) -> bool:
        wanted = self._engine._graph.weights.get(name)
        if wanted is None or np.asarray(weights).size != int(np.prod(wanted.dims)):
            self._logger.log(Severity.ERROR, f"setNamedWeights: no weights {name} of that size")
            return False
        self._given[name] = np.asarray(weights)
        return True

    def refit_cuda_engine(self) -> bool:
        if self.get_missing_weights():
            self._logger.log(Severity.ERROR, f"refitCudaEngine: missing weights {self.get_missing_weights()}")
            return False
        model = onnx.load_from_string(self._engine._plan.model)
        for one in model.graph.initializer:
            if one.name in self._given:
                array = self._given[one.name].astype(numpy_helper.to_array(one).dtype).reshape(tuple(one.dims))
                one.CopyFrom(numpy_helper.from_array(array, one.name))
        self._engine._plan = replace(self._engine._plan, model=model.SerializeToString(), stripped=False)
        self._engine._graph = Graph(model)
        return True


class OnnxParserRefitter(Strict):
    def __init__(self, refitter: Refitter, logger: Any) -> None:
        self._refitter, self._logger = refitter, logger

    @property
    def num_errors(self) -> int:
        return 0

    def refit_from_bytes(self, model: Any, path: str | None = None) -> bool:
        weights = onnx.load_from_string(bytes(model)).graph.initializer
        known = set(self._refitter.get_all_weights())
        given = [
            self._refitter.set_named_weights(one.name, numpy_helper.to_array(one))
            for one in weights
            if one.name in known
        ]
        return all(given)

    def refit_from_file(self, model: str) -> bool:
        return self.refit_from_bytes(onnx.load(model).SerializeToString())
