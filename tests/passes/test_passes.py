"""What the interface itself does for every pass: whatever one raises is named."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from edgeopt.context import Context
from edgeopt.errors import DiskError, MissingError, PassError
from edgeopt.model import Model
from edgeopt.passes import find_debt, run_pass
from edgeopt.passes.export_onnx import ExportOnnx
from edgeopt.passes.fine_tune import FineTune
from edgeopt.passes.prune_channels import PruneChannels
from edgeopt.passes.quantize_aware_train import QuantizeAwareTrain


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
        run_pass("prune_channels", {"ratio": 0.5, "reestimate_bn": True}, torch_model, Context(folder=tmp_path))
    assert type(caught.value) is kind
    assert str(caught.value) == message


def test_what_pruning_costs_is_owed_until_a_pass_wins_it_back() -> None:
    pruned, tuned, exported = PruneChannels(ratio=0.5), FineTune(), ExportOnnx()
    assert "add `fine_tune`, or set `reestimate_bn: true`" in find_debt([pruned, exported])
    assert find_debt([pruned, tuned, exported]) == ""
    assert find_debt([pruned, exported, QuantizeAwareTrain()]) == ""
    assert find_debt([PruneChannels(ratio=0.5, reestimate_bn=True), exported]) == ""
    assert find_debt([tuned, pruned, exported]) == find_debt([pruned])
    assert find_debt([exported]) == ""
