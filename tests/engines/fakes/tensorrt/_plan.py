"""What a serialized engine is here: a header, what the engine must know, and the ONNX graph that it runs."""

from __future__ import annotations

import ctypes
import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

import onnx
from onnx import numpy_helper

from tensorrt._base import Strict
from tensorrt._enums import DataType

MAGIC = b"fakeTRT1"


class IHostMemory(ctypes.Structure):
    """Bytes that the library owns: a buffer without a length, as the compiled class is."""

    @classmethod
    def _of(cls, content: bytes) -> IHostMemory:
        kind = type("IHostMemory", (cls,), {"_fields_": [("_content", ctypes.c_ubyte * len(content))]})
        return kind.from_buffer_copy(content)

    @property
    def nbytes(self) -> int:
        return ctypes.sizeof(self)

    @property
    def dtype(self) -> Any:
        return DataType.INT8

    def __enter__(self) -> IHostMemory:
        return self

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        return None


@dataclass(frozen=True)
class Plan:
    """All that a build decides; `profiles` holds, of each profile, the least, best and greatest shape of each input."""

    version: str
    capability: list[int]
    model: bytes
    name: str = ""
    hardware: str = "NONE"
    verbosity: str = "LAYER_NAMES_ONLY"
    capability_of_engine: str = "STANDARD"
    version_compatible: bool = False
    refittable: bool = False
    stripped: bool = False
    float_layers: tuple[str, ...] = ()
    profiles: tuple[dict[str, list[list[int]]], ...] = ()

    def written(self) -> bytes:
        fields = {name: value for name, value in vars(self).items() if name != "model"}
        head = json.dumps(fields).encode()
        body = MAGIC + len(head).to_bytes(8, "little") + head + self.model
        return body + hashlib.sha256(body).digest()

    def without_weights(self) -> Plan:
        """The plan of a stripped engine: the large weights are zeros that compress well, until a refit."""
        model = onnx.load_from_string(self.model)
        for one in model.graph.initializer:
            if one.data_type == onnx.TensorProto.FLOAT and len(one.dims) > 1:
                one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one) * 0, one.name))
        return replace(self, model=model.SerializeToString(), stripped=True)


def read(content: bytes) -> Plan | None:
    """The plan in these bytes; None where they are torn, changed, or something else."""
    body, digest = content[:-32], content[-32:]
    if not body.startswith(MAGIC) or hashlib.sha256(body).digest() != digest:
        return None
    length = int.from_bytes(body[8:16], "little")
    fields = json.loads(body[16 : 16 + length])
    fields["float_layers"], fields["profiles"] = tuple(fields["float_layers"]), tuple(fields["profiles"])
    return Plan(model=body[16 + length :], **fields)


class ITimingCache(Strict):
    """The times of kernels, of one version on one kind of GPU."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("tensorrt.ITimingCache: No constructor defined!")

    @classmethod
    def _of(cls, source: str, entries: list[str]) -> ITimingCache:
        made = cls.__new__(cls)
        made._source, made._entries = source, set(entries)
        return made

    def serialize(self) -> IHostMemory:
        return IHostMemory._of(json.dumps({"source": self._source, "entries": sorted(self._entries)}).encode())

    def combine(self, input_cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if input_cache._source != self._source and not ignore_mismatch:
            return False
        self._entries |= input_cache._entries
        return True

    def reset(self) -> bool:
        self._entries.clear()
        return True
