"""Average pooling is torch's, to the last bit, in every layout, and where no kernel covers it."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snntorch_stbp import AvgPool2d, kernels
from snntorch_stbp.pooling import avg_pool2d

LAYOUTS = (torch.contiguous_format, torch.channels_last)
TYPES = (torch.float32, torch.float64, torch.bfloat16)


def with_gradient(pool: nn.Module, x: Tensor, d_y: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    y = pool(x)
    y.backward(d_y)
    assert x.grad is not None
    return y.detach(), x.grad


@pytest.mark.parametrize("backend", ["compiled", "fused"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("channels", [1, 3, 16, 37])
def test_pooling_and_its_gradient_are_those_of_torch(
    channels: int, kind: torch.dtype, layout: torch.memory_format, backend: str
) -> None:
    torch.manual_seed(channels)
    x = torch.randn(5, channels, 14, 6).to(kind).to(memory_format=layout)
    d_y = torch.randn(5, channels, 7, 3).to(kind)
    expected = with_gradient(nn.AvgPool2d(2), x, d_y)
    with kernels.backend(backend):
        found = with_gradient(AvgPool2d(2), x, d_y)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
        assert ours.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_divisor_of_one_gives_sums(layout: torch.memory_format) -> None:
    x = (torch.rand(4, 8, 6, 6) > 0.5).float().to(memory_format=layout)
    expected = x.unflatten(2, (3, 2)).unflatten(4, (3, 2)).sum((3, 5))
    assert torch.equal(avg_pool2d(x, (2, 2), divisor_override=1), expected)


def test_the_gradient_is_that_of_finite_differences() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: avg_pool2d(x, 2), x)


@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        ((2, 3, 7, 8), {"kernel_size": 2}),  # a row too many
        ((2, 3, 8, 9), {"kernel_size": 2}),
        ((2, 3, 8, 8), {"kernel_size": 2, "stride": 1}),
        ((2, 3, 9, 9), {"kernel_size": 3}),
        ((2, 3, 8, 8), {"kernel_size": (4, 2)}),
        ((2, 3, 8, 8), {"kernel_size": 2, "padding": 1}),
        ((2, 3, 7, 7), {"kernel_size": 2, "ceil_mode": True}),
        ((2, 3, 8, 8), {"kernel_size": 2, "padding": 1, "count_include_pad": False}),
        ((2, 3, 8, 8), {"kernel_size": 2, "divisor_override": 3}),
        ((3, 8, 8), {"kernel_size": 2}),  # one image
        ((0, 3, 8, 8), {"kernel_size": 2}),
    ],
)
def test_other_windows_and_images_are_torchs(shape: tuple[int, ...], arguments: dict) -> None:
    x = torch.randn(shape)
    assert torch.equal(AvgPool2d(**arguments)(x), nn.AvgPool2d(**arguments)(x))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_stay_on_their_device_whatever_the_default_is(layout: torch.memory_format) -> None:
    x = torch.rand(2, 8, 8, 8).to(memory_format=layout)
    d_y = torch.rand(2, 8, 4, 4)
    with torch.device("meta"):
        found = with_gradient(AvgPool2d(2), x, d_y)
    for ours, theirs in zip(found, with_gradient(nn.AvgPool2d(2), x, d_y), strict=True):
        assert torch.equal(ours, theirs)


def test_a_divisor_of_zero_is_refused_as_torch_does() -> None:
    with pytest.raises(RuntimeError, match="divisor must be not zero"):
        avg_pool2d(torch.ones(1, 1, 2, 2), 2, divisor_override=0)


def test_half_precision_and_views_are_pooled_too() -> None:
    for x in (torch.randn(2, 3, 8, 8).half(), torch.randn(2, 3, 8, 16)[..., ::2]):
        assert torch.equal(avg_pool2d(x, 2), F.avg_pool2d(x, 2))


def test_pooling_compiles_and_keeps_nothing_of_its_input() -> None:
    kept: list[Tensor] = []
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t), lambda t: t):
        avg_pool2d(x * 1.0, 2)
    assert not kept
    exported = torch.export.export(AvgPool2d(2), (x.detach(),))
    assert torch.equal(exported.module()(x), F.avg_pool2d(x, 2))
