"""What the interface itself does for every pass: whatever one raises is named."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from edgeopt.context import Context
from edgeopt.errors import DiskError, MissingError, PassError
from edgeopt.model import Model
from edgeopt.passes import run_pass
from edgeopt.passes.prune_channels import PruneChannels


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ZeroDivisionError("of all things"), PassError, "`prune_channels` failed: ZeroDivisionError: of all things"),
        (ModuleNotFoundError("No module", name="torch"), MissingError, "`torch` is not installed"),
        (OSError(errno.ENOSPC, "No space left on device"), DiskError, "no space left on the disk"),
        (MemoryError("too much"), MemoryError, "too much"),
    ],
)
def test_what_a_pass_raises_is_named(
    error: Exception, kind: type[Exception], message: str, torch_model: Model, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def explode(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(PruneChannels, "apply", explode)
    with pytest.raises(kind) as caught:
        run_pass("prune_channels", {"ratio": 0.5}, torch_model, Context(folder=tmp_path))
    assert type(caught.value) is kind
    assert str(caught.value) == message
