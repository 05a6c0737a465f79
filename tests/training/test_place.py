"""Training runs where it is fast and gives sound results, and what is not there is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeopt import environment
from edgeopt.errors import PassError
from edgeopt.training.place import find_layout, find_place, lay_out

IMAGES = [torch.randn(2, 3, 8, 8)]


class Viewed(nn.Module):
    """Flattens maps by `view`, which channels last do not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(256, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        logits: torch.Tensor = self.linear(x.view(len(x), -1))
        return logits


@pytest.mark.parametrize(
    ("flags", "precision", "found"),
    [
        ((), "auto", "fp32"),
        (("avx512_bf16",), "auto", "bf16"),
        (("amx_bf16",), "auto", "bf16"),
        (("amx_bf16",), "fp32", "fp32"),
        (("amx_bf16",), "bf16", "bf16"),
    ],
)
def test_a_cpu_takes_bfloat16_where_it_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], precision: str, found: str
) -> None:
    monkeypatch.setattr(environment, "cpu_flags", lambda: frozenset(flags))
    place = find_place("cpu", precision)  # type: ignore[arg-type]
    assert (place.device.type, place.precision) == ("cpu", found)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_precision_without_gain_is_refused(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setattr(environment, "cpu_flags", frozenset)
    with pytest.raises(PassError, match=f"`precision: {precision}` gains nothing") as caught:
        find_place("cpu", precision)  # type: ignore[arg-type]
    assert caught.value.hint == "set `precision: auto`; there is fp32"


def test_cuda_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_place("auto", "fp32").device.type == "cpu"
    with pytest.raises(PassError, match="sees no such device") as caught:
        find_place("cuda", "auto")
    assert caught.value.hint == "set `device: auto`"


def test_in_bfloat16_products_are_rounded_and_weights_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "cpu_flags", lambda: frozenset({"amx_bf16"}))
    layer = nn.Linear(8, 8)
    with find_place("cpu", "auto").autocast():
        assert layer(torch.randn(2, 8)).dtype == torch.bfloat16
    assert layer.weight.dtype == torch.float32


def test_images_lie_channels_last_where_networks_can_be_run_so() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert find_layout([network], IMAGES) == torch.channels_last
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    (image,) = lay_out(IMAGES, torch.channels_last)
    assert image.is_contiguous(memory_format=torch.channels_last)


def test_one_network_that_cannot_holds_all_to_the_other_order() -> None:
    networks = [nn.Conv2d(3, 4, 3), Viewed()]
    assert find_layout(networks, IMAGES) == torch.contiguous_format
    assert all(parameter.is_contiguous() for network in networks for parameter in network.parameters())
    networks[1](*lay_out(IMAGES, torch.contiguous_format))


def test_without_images_no_network_is_run() -> None:
    assert find_layout([nn.Linear(3, 3)], [torch.randn(2, 99)]) == torch.contiguous_format
