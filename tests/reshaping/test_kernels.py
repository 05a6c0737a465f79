"""What is linear computes the same as one kernel, whatever strides, paddings, groups and dilations it is made of."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeopt.reshaping.kernels import Kernel, add, compose, of_conv, of_norm, of_nothing

pair = lambda low, high: st.tuples(st.integers(low, high), st.integers(low, high))  # noqa: E731
convs = st.fixed_dictionaries(
    {
        "kernel_size": pair(1, 4), "stride": pair(1, 2), "dilation": pair(1, 2), "bias": st.booleans(),
        "padding": st.just((0, 0)) | pair(0, 2), "groups": st.sampled_from([1, 2, 4]),
    }
)  # fmt: skip


def make_conv(inputs: int, outputs: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, **options)


@torch.no_grad()
def make_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels).eval()
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        tensor.uniform_(0.5, 1.5)
    return norm


@torch.no_grad()
def run(kernel: Kernel, image: Tensor) -> Tensor:
    conv = nn.Conv2d(
        kernel.weight.shape[1], kernel.weight.shape[0], kernel.size, kernel.stride, kernel.padding,
        groups=kernel.groups,
    )  # fmt: skip
    conv.weight.copy_(kernel.own_weight())
    conv.bias.copy_(kernel.bias)
    made: Tensor = conv(image)
    return made


def check(kernel: Kernel | None, network: nn.Module, image: Tensor) -> None:
    assert kernel is not None
    with torch.no_grad():
        torch.testing.assert_close(run(kernel, image), network(image), rtol=1e-4, atol=1e-4)


@given(convs)
@settings(max_examples=25)
def test_a_convolution_is_its_kernel(options: dict[str, Any]) -> None:
    conv = make_conv(4, 8, **options)
    kernel = of_conv(conv)
    check(kernel, conv, torch.randn(2, 4, 11, 12))
    assert kernel is not None
    assert kernel.macs == conv.weight.numel()


def test_a_normalization_that_stands_still_is_a_kernel() -> None:
    norm = make_norm(6)
    check(of_norm(norm), norm, torch.randn(2, 6, 5, 5))
    assert of_norm(nn.BatchNorm2d(6, track_running_stats=False)) is None
    plain = nn.BatchNorm2d(6, affine=False).eval()
    check(of_norm(plain), plain, torch.randn(2, 6, 5, 5))


@given(convs, convs, st.booleans())
@settings(max_examples=50)
def test_two_behind_one_another_are_one_wherever_that_is_said(
    first: dict[str, Any], second: dict[str, Any], normalized: bool
) -> None:
    layers: list[nn.Module] = [make_conv(4, 8, **first), make_conv(8, 4, **second)]
    kernels = [of_conv(layer) for layer in layers if isinstance(layer, nn.Conv2d)]
    if normalized:
        layers.insert(1, make_norm(8))
        norm = of_norm(layers[1])  # type: ignore[arg-type]
        assert norm is not None
        assert kernels[0] is not None
        kernels[0] = compose(kernels[0], norm)
    assert kernels[0] is not None
    assert kernels[1] is not None
    whole = compose(kernels[0], kernels[1])
    assert (whole is not None) or second["padding"] != (0, 0)
    if whole is not None:
        check(whole, nn.Sequential(*layers), torch.randn(2, 4, 22, 23))


def test_zeros_around_what_has_a_bias_are_no_zeros_before_it() -> None:
    pointwise, wide = make_conv(4, 8, kernel_size=1), make_conv(8, 4, kernel_size=3, padding=1)
    bare = make_conv(4, 8, kernel_size=1, bias=False)
    kernels = [of_conv(conv) for conv in (pointwise, wide, bare)]
    assert compose(kernels[0], kernels[1]) is None  # type: ignore[arg-type]
    check(compose(kernels[2], kernels[1]), nn.Sequential(bare, wide), torch.randn(1, 4, 6, 6))  # type: ignore[arg-type]


def test_padding_that_is_not_alike_or_not_of_zeros_is_no_kernel() -> None:
    assert of_conv(make_conv(4, 4, kernel_size=2, padding="same")) is None
    assert of_conv(make_conv(4, 4, kernel_size=3, padding=1, padding_mode="reflect")) is None
    assert of_conv(make_conv(4, 4, kernel_size=3, padding="same")) is not None


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from([1, 2, 4])), min_size=1, max_size=4))
@settings(max_examples=25)
def test_branches_of_one_frame_are_one(sides: list[tuple[int, int, int]]) -> None:
    """Kernels of odd sides, padded so that they keep the size, and the image itself."""
    made = [
        make_conv(4, 4, kernel_size=(2 * high + 1, 2 * wide + 1), padding=(high, wide), groups=groups)
        for high, wide, groups in sides
    ]
    image = torch.randn(2, 4, 9, 9)
    kernels = [of_conv(conv) for conv in made]
    whole = add([*(kernel for kernel in kernels if kernel is not None), of_nothing(4)])
    assert whole is not None
    with torch.no_grad():
        expected = sum((conv(image) for conv in made), image)
    torch.testing.assert_close(run(whole, image), expected, rtol=1e-4, atol=1e-4)


def test_branches_of_other_strides_are_not_one() -> None:
    one, other = (of_conv(make_conv(4, 4, kernel_size=1, stride=stride)) for stride in (1, 2))
    assert one is not None
    assert other is not None
    assert add([one, other]) is None
