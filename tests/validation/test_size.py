from __future__ import annotations

from edgeopt.model import ArtifactFile
from edgeopt.validation.size import measure_size


def test_the_size_is_exact_and_counts_every_file() -> None:
    files = tuple(ArtifactFile(path=name, sha256="0" * 64, size_bytes=size) for name, size in (("a", 1000), ("b", 24)))
    found = measure_size(files, "digest of the artifact")
    assert (found.metric, found.unit) == ("size.bytes", "bytes")
    assert found.value == found.low == found.high == 1024
    assert (found.subject, found.samples) == ("digest of the artifact", 2)
    assert not found.simulated
    assert measure_size(files, "digest of the artifact", simulated=True).simulated
