"""What an artifact weighs."""

from __future__ import annotations

from edgeopt.model import Artifact
from edgeopt.validation import Measurement


def measure_size(artifact: Artifact, *, simulated: bool = False) -> Measurement:
    """The bytes of the artifact's files; exact, so the bounds are the value."""
    size_bytes = float(artifact.size_bytes)
    return Measurement(
        metric="size.bytes",
        unit="bytes",
        value=size_bytes,
        low=size_bytes,
        high=size_bytes,
        samples=len(artifact.files),
        subject=artifact.digest(),
        simulated=simulated,
    )
