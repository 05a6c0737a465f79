"""What an artifact weighs."""

from __future__ import annotations

from collections.abc import Sequence

from edgeopt.model import ArtifactFile
from edgeopt.validation import Measurement


def measure_size(files: Sequence[ArtifactFile], subject: str, *, simulated: bool = False) -> Measurement:
    """The bytes of an artifact's files; exact, so the bounds are the value."""
    size_bytes = float(sum(file.size_bytes for file in files))
    return Measurement(
        metric="size.bytes",
        unit="bytes",
        value=size_bytes,
        low=size_bytes,
        high=size_bytes,
        samples=len(files),
        subject=subject,
        simulated=simulated,
    )
