"""What the interface itself does for every pass: whatever one raises is named."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from edgeopt.context import Context
from edgeopt.errors import DiskError, MissingError, PassError
from edgeopt.model import Model
from edgeopt.passes import Pass, find_debt, run_pass
from edgeopt.passes.export_onnx import ExportOnnx
from edgeopt.passes.factorize import Factorize
from edgeopt.passes.fine_tune import FineTune
from edgeopt.passes.fold_branches import FoldBranches
from edgeopt.passes.prune_channels import PruneChannels
from edgeopt.passes.prune_weights import PruneWeights
from edgeopt.passes.quantize_aware_train import QuantizeAwareTrain
from edgeopt.passes.replace_activations import ReplaceActivations
from edgeopt.passes.share_weights import ShareWeights
from edgeopt.passes.sparsify import Sparsify


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


@pytest.mark.parametrize("kind", [Factorize, PruneWeights, ReplaceActivations, Sparsify])
def test_whatever_changes_the_answers_leaves_them_to_be_won_back(kind: type[Pass]) -> None:
    assert find_debt([kind(), ExportOnnx()]).endswith("no pass wins back what that costs: add `fine_tune`")
    assert find_debt([kind(), FineTune(), FoldBranches(), ExportOnnx(), ShareWeights()]) == ""
