"""Layers in bytes are the layers: in every geometry, with the same gradient, or not taken."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import brevitas.nn as qnn
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import snntorch_stbp as stbp
from snntorch_stbp import kernels, memory
from snntorch_stbp.constant import constant
from snntorch_stbp.kernels import int8
from snntorch_stbp.kernels.geometry import MOST_SUMMED, PRODUCTS, Geometry
from snntorch_stbp.quant import Bits

from .nets import digits, make

PADDED = Geometry(padding=(1, 1))
TAKEN = "_ApplyBackward"
WIDTHS: tuple[Bits, ...] = (1, "ternary", 2, 3, 4, 8)

USABLE = int8._supported() and kernels.native._compiler() is not None
in_bytes = pytest.mark.skipif(
    not USABLE,
    reason="no processor with AVX2, or no compiler",
)


def usual(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry | None) -> Tensor:
    return F.linear(x, weight, bias) if geometry is None else F.conv2d(x, weight, bias, *geometry)


def operands(
    geometry: Geometry | None = PADDED,
    channels: int = 16,
    outputs: int = 32,
    kernel: tuple[int, int] = (3, 3),
    size: tuple[int, int] = (16, 12),
    divisor: int = 1,
    top: int = 1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs `0` to `top` over `divisor`, weights, scales (powers of two) and a dyadic bias."""
    groups = 1 if geometry is None else geometry.groups
    images, kernels_ = ((), ()) if geometry is None else (size, kernel)
    count = 600 if geometry is None else 4
    x = torch.randint(0, top + 1, (count, channels, *images)) / divisor
    scale = 2.0 ** torch.randint(-4, 4, (outputs, 1, *[1] * len(images)))
    weight = torch.randint(-7, 8, (outputs, channels // groups, *kernels_)) * scale
    return x, weight, scale, torch.randint(-8, 8, (outputs,)) / 4


def taken(y: Tensor) -> bool:
    return type(y.grad_fn).__name__.startswith(TAKEN)


@in_bytes
@given(
    stride=st.tuples(*[st.integers(1, 2)] * 2),
    padding=st.tuples(*[st.integers(0, 2)] * 2),
    dilation=st.tuples(*[st.integers(1, 2)] * 2),
    groups=st.sampled_from([1, 2, 4]),
    kernel=st.tuples(*[st.integers(2, 4)] * 2),
    channels=st.sampled_from([4, 12, 16, 20]),
    outputs=st.sampled_from([128, 132, 200]),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
def test_a_convolution_in_any_geometry_is_exact(
    stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int], groups: int,
    kernel: tuple[int, int], channels: int, outputs: int, layout: torch.memory_format,
) -> None:  # fmt: skip
    geometry = Geometry(stride, padding, dilation, groups)
    x, weight, scale, bias = operands(geometry, channels, outputs * groups, kernel, (26, 24))
    x = x.to(memory_format=layout)
    weight.requires_grad_()
    found = int8.apply(x, weight, scale, bias, geometry)
    assert taken(found)
    exact = usual(x.double(), weight.double(), bias.double(), geometry)
    assert torch.equal(found.double(), exact)  # sums are dyadic: float32 holds them


@in_bytes
@pytest.mark.parametrize("divisor", [1, 4, 16])
@pytest.mark.parametrize("geometry", [None, PADDED])
def test_averages_and_sums_of_spikes_are_exact(geometry: Geometry | None, divisor: int) -> None:
    x, weight, scale, bias = operands(geometry, 32, 160, divisor=divisor, top=divisor)
    found = int8.apply(x, weight.requires_grad_(), scale, bias, geometry)
    assert taken(found)
    assert torch.equal(found.double(), usual(x.double(), weight.double(), bias.double(), geometry))
    sums = x * divisor * (127 // divisor)
    assert torch.equal(
        int8.apply(sums, weight, scale, None, geometry), usual(sums, weight, None, geometry)
    )


@in_bytes
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("geometry", [None, Geometry((2, 1), (1, 1), (1, 1), 2)])
def test_the_gradient_is_that_of_the_usual_way(geometry: Geometry | None, half: bool) -> None:
    x, weight, scale, bias = operands(geometry, 16, 256, size=(24, 16), divisor=4, top=4)
    if geometry is not None:  # as the results of layers in bytes lie
        x = x.to(memory_format=torch.channels_last)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        found = int8.apply(x, weight, scale, bias, geometry)
        expected = usual(x, weight, bias, geometry)
    assert taken(found)
    assert found.dtype == expected.dtype
    given = torch.randn(found.shape).to(found.dtype)
    ours = torch.autograd.grad(found, leaves, given)
    theirs = torch.autograd.grad(expected, leaves, given)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: x + 0.3,
        lambda x: -x,
        lambda x: 128 * x,
        lambda x: x.index_put((torch.tensor(0),), torch.tensor(float("nan"))),
        lambda x: x.index_put((torch.tensor(3),), torch.tensor(float("inf"))),
        lambda x: x.double(),
    ],
    ids=["fractions", "negative", "large", "nan", "infinite", "float64"],
)
@pytest.mark.parametrize("geometry", [None, PADDED])
def test_what_is_no_byte_goes_the_usual_way(
    geometry: Geometry | None, spoil: Callable[[Tensor], Tensor]
) -> None:
    x, weight, scale, bias = operands(geometry, 32, 160)
    x = spoil(x)
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    found = int8.apply(x, weight, scale, bias, geometry)
    expected = usual(x, weight, bias, geometry)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_wide_weights_and_small_layers_go_the_usual_way() -> None:
    x, weight, scale, bias = operands(None, 32, 160)
    for w in (300 * weight, weight[:8]):
        y = int8.apply(x, w.requires_grad_(), scale[: len(w)], bias[: len(w)], None)
        assert not taken(y)
        assert torch.equal(y, F.linear(x, w, bias[: len(w)]))
    assert int8.pack(300 * weight, scale, None) is None
    assert int8.pack(weight + scale / 4, scale, None) is None
    assert int8.pack(weight * float("nan"), scale, None) is None
    assert int8.pack(weight[:8], scale[:8], None) is None


def test_processors_that_cannot_compute_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, scale, bias = operands()
    monkeypatch.setattr(int8, "_supported", lambda: False)
    y = int8.apply(x, weight.requires_grad_(), scale, bias, PADDED)
    assert not taken(y)
    assert int8.pack(weight, scale, Geometry()) is None


@in_bytes
def test_a_processor_that_computes_wrongly_is_told_and_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = int8._computed
    monkeypatch.setattr(int8, "_computed", lambda *a: right(*a) + 1)
    assert not int8._supported.__wrapped__()
    assert "take float32" in caplog.text


@in_bytes
@pytest.mark.parametrize("geometry", [None, PADDED])
def test_the_default_device_changes_nothing(geometry: Geometry | None) -> None:
    x, weight, scale, bias = operands(geometry, outputs=128)
    with torch.device("meta"):
        assert int8._supported.__wrapped__()
        y = int8.apply(x, weight.requires_grad_(), scale, bias, geometry)
    assert taken(y)
    assert torch.equal(y, usual(x, weight, bias, geometry))


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("per_channel", [True, False])
def test_quantized_layers_compute_what_brevitas_does(bits: Bits, per_channel: bool) -> None:
    precision = stbp.Precision(bits, per_channel=per_channel)
    quantizer = precision._weight_quant(bits)  # type: ignore[arg-type]
    spikes, flat = (torch.rand(4, 16, 12, 12) > 0.7).float(), (torch.rand(600, 40) > 0.7).float()
    pairs: list[tuple[nn.Module, nn.Module, Tensor]] = [
        (
            precision.conv2d(16, 32, 3, padding=1),
            qnn.QuantConv2d(16, 32, 3, padding=1, weight_quant=quantizer),
            spikes,
        ),
        (
            precision.conv2d(16, 32, (3, 5), padding="same"),
            qnn.QuantConv2d(16, 32, (3, 5), padding="same", weight_quant=quantizer),
            spikes,
        ),
        (
            precision.linear(40, 160),
            qnn.QuantLinear(40, 160, bias=True, weight_quant=quantizer),
            flat,
        ),
    ]
    for ours, theirs, x in pairs:
        theirs.load_state_dict(ours.state_dict())
        found, expected = ours(x), theirs(x)
        torch.testing.assert_close(found, expected)
        given = torch.randn_like(found)
        gradients = (torch.autograd.grad(y, n.parameters(), given) for y, n in
                     ((found, ours), (expected, theirs)))  # fmt: skip
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        with torch.no_grad(), constant(ours):
            assert torch.equal(ours(x), found)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_what_is_traced_for_another_format_has_standard_operators() -> None:
    x, weight, scale, bias = operands()
    traced = torch.jit.trace(lambda x: int8.apply(x, weight, scale, bias, PADDED), x)
    assert "onednn" not in str(traced.graph)
    exported = torch.export.export(stbp.Precision(4).conv2d(16, 32, 3, padding=1), (x,))
    assert "onednn" not in str(exported.graph)


@in_bytes
@pytest.mark.parametrize("geometry", [None, PADDED])
def test_packed_weights_can_be_copied_and_sent(geometry: Geometry | None) -> None:
    x, weight, scale, bias = operands(geometry, 16, 160)
    packed = int8.pack(weight, scale, geometry)
    expected = int8.apply(x, weight, scale, bias, geometry, packed)
    for copied in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert copied is not packed
        assert torch.equal(int8.apply(x, weight, scale, bias, geometry, copied), expected)


def test_hard_networks_can_be_copied() -> None:
    net, x = make("mnistnet"), digits(8)
    for hard in (stbp.lower(net), stbp.freeze(net)):
        assert torch.equal(copy.deepcopy(hard)(x), hard(x))
        assert any(hard.packed.values()) == USABLE


@in_bytes
def test_layers_behind_spikes_are_computed_in_bytes() -> None:
    layer = stbp.Precision(4).conv2d(16, 32, 3, padding=1)
    assert taken(layer((torch.rand(4, 16, 12, 12) > 0.7).float()))
    assert not taken(layer(torch.rand(4, 16, 12, 12)))
    with kernels.backend("loop"):
        assert not taken(layer((torch.rand(4, 16, 12, 12) > 0.7).float()))


@pytest.mark.parametrize("channels", [16, 64])  # computed again, and kept as bits
def test_saved_memory_changes_no_gradient(channels: int) -> None:
    layer = stbp.Precision(4).conv2d(channels, 32, 3, padding=1)
    x = (torch.rand(4, channels, 16, 16) > 0.7).float().requires_grad_()

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(layer(x).relu().square().sum(), [x, *layer.parameters()])

    plain = gradients()
    with memory.saving():
        saved = gradients()
    for a, b in zip(saved, plain, strict=True):
        assert torch.equal(a, b)


@in_bytes
@pytest.mark.parametrize("count", [MOST_SUMMED, MOST_SUMMED + 1])
def test_sums_beyond_32_bits_are_not_taken(count: int) -> None:
    """The largest bytes of the widest layer that is taken are summed exactly."""
    layer = stbp.Precision(weight_bits=8).linear(count, PRODUCTS, bias=False)
    nn.init.ones_(layer.weight)
    scale = layer.quant_weight().scale.detach()
    x = torch.full((1, count), 127.0)
    with torch.no_grad(), constant(layer):
        result = layer(x)
    levels = (layer.quant_weight().value / scale).round().double()
    expected = (x.double() @ levels.t()) * scale.reshape(-1).double()
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=0)


@in_bytes
@pytest.mark.parametrize("size", [(2, 9), (9, 2)])
def test_a_kernel_larger_than_its_image_is_refused(size: tuple[int, int]) -> None:
    """As torch refuses it: whatever the size of the batch, and the processor."""
    layer = stbp.Precision(weight_bits=4).conv2d(16, 64, 3)
    for count in (1, 600):
        with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
            layer(torch.ones(count, 16, *size))
