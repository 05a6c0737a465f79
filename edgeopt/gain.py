"""What a pass gained on a target, in one honest sentence: what shrank and is no faster has shrunk in vain.

A gain is for deciding whether a change is kept, and for telling. It is no measurement: those have intervals, and are
judged by budgets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgeopt.compression import compress
from edgeopt.model import Facts

if TYPE_CHECKING:
    import onnx

    from edgeopt.clock import Clock

#: the largest share that is a gain: rough times of the same graph differ by less than the rest
WORTH = 0.97


@dataclass(frozen=True)
class Gain:
    """What is left of a cost.

    Attributes:
        kind: `time`, of one run on a target; or `download`, bytes after compression.
        share: after ÷ before, so that less is better.
        candidate: what was timed, as `onnxruntime_cpu/int8` or `tensorrt/int8 of orin-7`; empty for a download, which
            is the same everywhere.
    """

    kind: Literal["time", "download"]
    share: float
    candidate: str = ""

    @property
    def worth(self) -> bool:
        """Whether it is a gain, beyond what rough times differ by anyhow."""
        return self.share <= WORTH

    def tell(self) -> str:
        """One sentence, as `0.71× the time on openvino_cpu`, or `no gain on onnxruntime_cpu: 1.02× the time`."""
        place = f" on {self.candidate}" if self.candidate else ""
        what = f"{self.share:.2f}× the {self.kind}"
        return f"{what}{place}" if self.worth else f"no gain{place}: {what}"

    def facts(self) -> Facts:
        """For the report: the sentence, and the share itself."""
        return {"gain": self.tell(), f"{self.kind}_share": round(self.share, 4)}


def time_gain(clock: Clock, before: onnx.ModelProto, after: onnx.ModelProto, candidate: str = "") -> Gain:
    """The time of one float graph as a share of that of another, at the precision of the target.

    Args:
        candidate: the name of what is timed, as the recipe has it; empty: the backend's.

    Raises:
        BuildError: one of them cannot be built or run.
    """
    return Gain("time", clock.compare(before, after), name_place(clock, candidate))


def name_place(clock: Clock, candidate: str = "") -> str:
    """What a clock times, and the device that it stands on: see `Gain.candidate`."""
    place = candidate or clock.timer.backend
    return f"{place} of {clock.timer.device}" if clock.timer.device else place


def download_gain(before: bytes, after: bytes) -> Gain:
    """The compressed size of some bytes as a share of that of others; what comes compressed is compressed no further.

    Args:
        before: files as they would be sent, one behind the other, and not empty.
    """
    return Gain("download", _compressed_bytes(after) / _compressed_bytes(before))


def _compressed_bytes(data: bytes) -> int:
    return min(len(data), len(compress(data)))
