"""tdBN equals its formula, behaves as a torch batch normalisation, and survives conversion."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import snntorch_stbp as stbp

KINDS = {
    "1d": (stbp.TDBatchNorm1d, ()),
    "1d-length": (stbp.TDBatchNorm1d, (7,)),
    "2d": (stbp.TDBatchNorm2d, (4, 5)),
    "3d": (stbp.TDBatchNorm3d, (2, 4, 3)),
}


def formula(x: Tensor, norm: nn.Module, mean: Tensor, var: Tensor) -> Tensor:
    """Zheng 2021, channel by channel."""
    y = torch.empty_like(x)
    for c in range(x.shape[2]):
        normal = (x[:, :, c] - mean[c]) / torch.sqrt(var[c] + norm.eps)
        y[:, :, c] = norm.weight[c] * (norm.alpha * norm.threshold * normal) + norm.bias[c]
    return y


@pytest.mark.parametrize("kind", KINDS)
@given(steps=st.integers(1, 4), alpha=st.floats(0.1, 2), threshold=st.floats(0.1, 2))
def test_equals_the_formula(kind: str, steps: int, alpha: float, threshold: float) -> None:
    cls, spatial = KINDS[kind]
    norm = cls(3, alpha=alpha, threshold=threshold).double()
    nn.init.uniform_(norm.weight, -2, 2)
    nn.init.uniform_(norm.bias, -1, 1)
    x = torch.randn(steps, 5, 3, *spatial, dtype=torch.float64) * 3 + 1
    channels = x.transpose(0, 2).flatten(1)
    expected = formula(x, norm, channels.mean(1), channels.var(1, unbiased=False))
    torch.testing.assert_close(norm(x), expected, rtol=1e-10, atol=1e-10)

    norm.eval()
    expected = formula(x, norm, norm.running_mean, norm.running_var)
    torch.testing.assert_close(norm(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_are_those_of_torch_over_the_folded_batch(
    momentum: float | None,
) -> None:
    ours = stbp.TDBatchNorm2d(3, momentum=momentum).double()
    theirs = nn.BatchNorm2d(3, momentum=momentum).double()
    for _ in range(4):
        x = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64) * 2 + 1
        ours(x)
        theirs(x.flatten(0, 1))
    assert torch.equal(ours.running_mean, theirs.running_mean)
    assert torch.equal(ours.running_var, theirs.running_var)
    assert torch.equal(ours.num_batches_tracked, theirs.num_batches_tracked)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("shape", [(5, 3, 4, 4), (1, 3, 1, 2), (1, 3, 1, 1)])
def test_a_repeated_step_is_normalised_as_the_sequence_that_it_stands_for(
    momentum: float | None, shape: tuple[int, ...]
) -> None:
    """Values, gradients and running statistics; one value per channel is enough if it repeats."""
    norms = [stbp.TDBatchNorm2d(3, momentum=momentum).double() for _ in range(2)]
    weights = torch.randn(4, *shape, dtype=torch.float64)
    for _ in range(3):
        image = torch.randn(shape, dtype=torch.float64) * 2 + 1
        inputs = [image.clone().requires_grad_() for _ in norms]
        results = [norms[0].repeated(inputs[0], 4), norms[1](inputs[1].repeat(4, 1, 1, 1, 1))]
        for result in results:
            (result * weights).sum().backward()
        torch.testing.assert_close(*results)
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    for name, value in norms[0].state_dict().items():
        torch.testing.assert_close(value, norms[1].state_dict()[name])
    torch.testing.assert_close(norms[0].weight.grad, norms[1].weight.grad)
    for norm in norms:
        norm.eval()
    torch.testing.assert_close(norms[0].repeated(image, 4), norms[1](image.repeat(4, 1, 1, 1, 1)))


def test_gradients_are_those_of_the_scaled_torch_module() -> None:
    ours = stbp.TDBatchNorm2d(3, alpha=0.5, threshold=0.4).double()
    theirs = nn.BatchNorm2d(3).double()
    x = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    weights = torch.randn_like(x)
    (ours(a) * weights).sum().backward()
    ((theirs(b.flatten(0, 1)) * 0.2).unflatten(0, (2, 5)) * weights).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)


def test_is_a_torch_batch_norm_with_its_state() -> None:
    norm = stbp.TDBatchNorm2d(3)
    assert isinstance(norm, nn.BatchNorm2d)
    assert set(norm.state_dict()) == set(nn.BatchNorm2d(3).state_dict())
    norm.load_state_dict(nn.BatchNorm2d(3).state_dict())


def test_without_affine_or_running_statistics() -> None:
    x = torch.randn(2, 5, 3, 4, 4)
    plain = stbp.TDBatchNorm2d(3, affine=False, track_running_stats=False)
    assert torch.equal(plain(x), plain.eval()(x))
    torch.testing.assert_close(plain(x), stbp.TDBatchNorm2d(3)(x).detach())


def test_statistics_that_are_no_longer_tracked_stay_as_they_are() -> None:
    """As in torch, where it is set on a module; evaluation takes those of before."""
    ours, theirs = stbp.TDBatchNorm2d(3, threshold=1.0), nn.BatchNorm2d(3)
    for tracked in (True, False, True):
        ours.track_running_stats = theirs.track_running_stats = tracked
        x, image = torch.randn(2, 5, 3, 4, 4) + 1, torch.randn(5, 3, 4, 4)
        sequence = torch.stack([image, image])
        for found, taken in ((ours(x), x), (ours.repeated(image, 2), sequence)):
            expected = theirs(taken.flatten(0, 1)).unflatten(0, (2, 5))
            torch.testing.assert_close(found, expected)
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value)
    for norm in (ours, theirs):
        norm.track_running_stats = False
        norm.eval()
    torch.testing.assert_close(ours(x), theirs(x.flatten(0, 1)).unflatten(0, (2, 5)))


def test_a_batch_without_samples_changes_no_statistics() -> None:
    norm, empty = stbp.TDBatchNorm2d(3), torch.zeros(0, 3, 4, 4)
    norm(torch.randn(2, 5, 3, 4, 4))
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    assert norm.repeated(empty, 4).shape == norm(empty.expand(4, 0, 3, 4, 4)).shape
    assert torch.equal(norm.running_mean, mean)
    assert torch.equal(norm.running_var, variance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("track", [True, False])
def test_halves_without_affine(track: bool, dtype: torch.dtype) -> None:
    """As torch's own, with statistics in float32."""
    x, options = torch.randn(2, 5, 3, 4, 4), {"affine": False, "track_running_stats": track}
    norm, own = stbp.TDBatchNorm2d(3, threshold=1.0, **options), nn.BatchNorm2d(3, **options)
    for training in (True, False):
        found = norm.train(training)(x.to(dtype))
        expected = own.train(training)(x.flatten(0, 1).to(dtype)).unflatten(0, (2, 5))
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("affine", [True, False])
def test_conversion_to_synchronised_statistics_keeps_the_function(affine: bool) -> None:
    layer = nn.Conv2d(2, 3, 3, padding=1, bias=False)
    norm = stbp.TDBatchNorm2d(3, alpha=0.7, threshold=0.4, affine=affine)
    block = stbp.TimeDistributed(layer, norm)
    if affine:
        nn.init.uniform_(norm.weight, -2, 2)
        nn.init.uniform_(norm.bias, -1, 1)
    x = torch.randn(2, 5, 2, 4, 4)
    block(x)
    expected = block.eval()(x)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(block))
    assert isinstance(converted.norm, nn.SyncBatchNorm)
    torch.testing.assert_close(converted.eval()(x), expected)
    assert set(converted.state_dict()) == set(block.state_dict())


@pytest.mark.parametrize(
    ("norm", "shape", "wanted"),
    [
        (stbp.TDBatchNorm2d(3), (5, 3, 4, 4), r"\[T, B, 3, \*, \*\]"),
        (stbp.TDBatchNorm2d(3), (2, 5, 4, 4, 4), r"not the shape \(2, 5, 4, 4, 4\)"),
        (stbp.TDBatchNorm1d(3), (3,), r"\[T, B, 3\] or \[T, B, 3, \*\]"),
    ],
)
def test_refuses_other_shapes(norm: nn.Module, shape: tuple[int, ...], wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        norm(torch.zeros(shape))


def test_refuses_values_that_are_not_positive() -> None:
    for alpha in (0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=rf"finite alpha and threshold, not {alpha} and 0\.4"):
            stbp.TDBatchNorm2d(3, alpha=alpha)


def test_neunorm_equals_its_recurrence() -> None:
    norm = stbp.NeuNorm(3, (2, 2), decay=0.8).double()
    nn.init.uniform_(norm.weight)
    spikes = (torch.rand(4, 2, 3, 2, 2) > 0.5).double()
    expected, held = torch.empty_like(spikes), torch.zeros(2, 2, 2, dtype=torch.float64)
    for t in range(4):
        held = 0.8 * held + 0.2 / 3 * spikes[t].sum(1)
        for c in range(3):
            expected[t, :, c] = spikes[t, :, c] - norm.weight[c] * held
    torch.testing.assert_close(norm(spikes), expected)


def test_neunorm_refuses_other_shapes_and_decays() -> None:
    with pytest.raises(ValueError, match=r"NeuNorm takes \[T, B, 3, 2, 2\]"):
        stbp.NeuNorm(3, (2, 2))(torch.zeros(4, 2, 3, 2, 3))
    with pytest.raises(ValueError, match=r"in \[0, 1\), not 1"):
        stbp.NeuNorm(3, (2, 2), decay=1.0)
