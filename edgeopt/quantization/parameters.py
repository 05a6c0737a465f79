"""What one QuantizeLinear or DequantizeLinear says of its integers, in a graph that anybody may have written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeopt.quantization.arithmetic import Quantizer


@dataclass(frozen=True)
class Parameters:
    """What one QuantizeLinear or DequantizeLinear says.

    Attributes:
        dtype: the name of the type of its integers.
        scale: None where its value is not known.
        zero_point: the same; zeros where the node has none.
        axis: what a scale per channel lies along.
        sources: the names of scale and zero point.
        varies: whether one of them depends on the input of the graph.
    """

    dtype: str
    scale: NDArray[np.float64] | None
    zero_point: NDArray[np.int64] | None
    axis: int
    sources: tuple[str, ...]
    varies: bool

    def same(self, other: Parameters) -> bool:
        """Whether integers mean the same to both."""
        if self.dtype != other.dtype or self.sources == other.sources:
            return self.dtype == other.dtype
        pairs = ((self.scale, other.scale), (self.zero_point, other.zero_point))
        return all(a is not None and b is not None and np.array_equal(a.ravel(), b.ravel()) for a, b in pairs)

    def quantizer(self) -> Quantizer | None:
        """The arithmetic of it, or None where the numbers are not known, or none that it can work with."""
        scale, zero_point = self.scale, self.zero_point
        if scale is None or zero_point is None or scale.ndim > 1 or self.dtype not in ("int8", "uint8", "int32"):
            return None
        if not (np.isfinite(scale) & (scale > 0)).all() or zero_point.size not in (1, scale.size):
            return None
        shape = () if scale.size == 1 else scale.shape
        points = np.broadcast_to(zero_point.reshape(-1) if zero_point.size > 1 else zero_point.reshape(()), shape)
        return Quantizer(
            scale.reshape(shape).astype(np.float32), points.astype(self.dtype), self.axis if shape else None
        )

    @property
    def middle(self) -> int:
        """The zero point of symmetric integers."""
        return 128 if self.dtype == "uint8" else 0

    def off_centre(self) -> int | None:
        """The first zero point that is not in the middle, or None where all are, or none is known."""
        wrong = [] if self.zero_point is None else self.zero_point[self.zero_point != self.middle].ravel()
        return int(wrong[0]) if len(wrong) else None

    def text(self) -> str:
        """Scale and zero point in words, of a scale for the whole tensor."""
        if self.scale is None or self.zero_point is None or self.scale.size != 1 or self.zero_point.size != 1:
            return "scales of its own"
        return f"{self.scale.item():.6g} around {self.zero_point.item()}"
