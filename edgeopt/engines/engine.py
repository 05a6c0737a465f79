"""An opened engine: as many lanes as runs may go on side by side; further callers wait for one.

Before a byte of it is deserialized, its digest and all that it is bound to are checked.
"""

from __future__ import annotations

import contextlib
import queue
from pathlib import Path
from typing import Any

from edgeopt import files
from edgeopt.engines.binding import check_binding, describe_machine
from edgeopt.engines.inspection import Layer, inspect_engine
from edgeopt.engines.lane import Arrays, Lane
from edgeopt.engines.library import VERBOSE, Told, import_polygraphy, import_tensorrt, listening
from edgeopt.engines.plan import ENGINE_FILE, GRAPH_FILE
from edgeopt.errors import BackendError, TrustError
from edgeopt.model import Artifact


class Engine:
    """Runs an engine, for several threads at once."""

    def __init__(self, artifact: Artifact) -> None:
        """Open the engine of an artifact.

        Raises:
            TrustError: a file is not what was built.
            BackendError: it was built for something else, or TensorRT refuses it.
            MissingError: a library, or a GPU, is not there.
        """
        check_files(artifact)
        check_binding(artifact.requires, describe_machine(), artifact.settings)
        import_polygraphy()  # its logger tells us what TensorRT says
        self._tensorrt = import_tensorrt()
        self._lanes: list[Lane] = []
        self._free: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        self._listening = contextlib.ExitStack()
        told = self._listening.enter_context(listening())
        try:
            self._engine = _deserialize(self._tensorrt, artifact, told)
            for _ in range(int(artifact.settings.get("streams", 1))):
                self._lanes.append(Lane(self._tensorrt, self._engine, artifact, told))
                self._free.put(self._lanes[-1])
        except BaseException:
            self.close()
            raise

    def run(self, inputs: Arrays) -> Arrays:
        """Run one batch; the arrays that come back belong to the caller."""
        lane = self._take()
        try:
            return lane.run(inputs)
        finally:
            self._free.put(lane)

    def device_ms(self, inputs: Arrays) -> float:
        """Milliseconds that one batch takes by the clock of the GPU, without copies."""
        lane = self._take()
        try:
            return lane.device_ms(inputs)
        finally:
            self._free.put(lane)

    def layers(self) -> tuple[Layer, ...]:
        """What TensorRT tells of the layers, for the shapes of the last run."""
        lane = self._take()
        try:
            return inspect_engine(self._tensorrt, self._engine, lane.context)
        finally:
            self._free.put(lane)

    def close(self) -> None:
        """Free everything on the GPU; safe to call twice."""
        while self._lanes:
            self._lanes.pop().close()
        self._engine = None
        self._listening.close()

    def _take(self) -> Lane:
        if self._engine is None:
            raise BackendError("the session is closed")
        return self._free.get()


def check_files(artifact: Artifact) -> None:
    """Every file of the artifact has the digest that the artifact says.

    Raises:
        TrustError: one has not, or is not there.
    """
    for file in artifact.files:
        path = artifact.folder / file.path
        if not path.is_file() or files.hash_file(path) != file.sha256:
            what = "is not there" if not path.is_file() else "is not the file that was built"
            raise TrustError(f"`{path}` {what}", "get the artifact again from where it was made; nothing was run of it")


def _deserialize(tensorrt: Any, artifact: Artifact, told: Told) -> Any:
    from polygraphy.backend.trt.util import get_trt_logger

    logger = get_trt_logger()
    tensorrt.init_libnvinfer_plugins(logger, "")
    try:
        runtime = tensorrt.Runtime(logger)
    except (TypeError, RuntimeError) as error:  # what the bindings raise where CUDA does not start
        raise told.error("TensorRT cannot start here", VERBOSE) from error
    if artifact.settings.get("dla_core") is not None:
        runtime.DLA_core = int(artifact.settings["dla_core"])
    if artifact.settings.get("version_compatible"):
        runtime.engine_host_code_allowed = True  # such an engine brings a runtime of its own
    engine = runtime.deserialize_cuda_engine((artifact.folder / ENGINE_FILE).read_bytes())
    if engine is None:
        raise told.error("TensorRT refuses the engine", "build it anew on this machine")
    if artifact.settings.get("strip_weights"):
        _refit(tensorrt, engine, artifact.folder / GRAPH_FILE, logger, told)
    return engine


def _refit(tensorrt: Any, engine: Any, graph: Path, logger: Any, told: Told) -> None:
    """Put the weights of the graph into an engine that was built without."""
    refitter = tensorrt.Refitter(engine, logger)
    fits = tensorrt.OnnxParserRefitter(refitter, logger).refit_from_file(str(graph))
    if not fits or not refitter.refit_cuda_engine():
        raise told.error("the weights do not fit the engine", "build it anew from this graph")
