from __future__ import annotations

from scripted_backend import script

from edgeopt.model import ArtifactFile
from edgeopt.validation.size import measure_size


def test_the_size_is_exact_and_counts_every_file() -> None:
    files = tuple(ArtifactFile(path=name, sha256="0" * 64, size_bytes=size) for name, size in (("a", 1000), ("b", 24)))
    artifact = script().model_copy(update={"files": files})
    found = measure_size(artifact)
    assert (found.metric, found.unit) == ("size.bytes", "bytes")
    assert found.value == found.low == found.high == 1024
    assert found.subject == artifact.digest()
    assert not found.simulated
    assert measure_size(artifact, simulated=True).simulated
