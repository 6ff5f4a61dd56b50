"""Stateless layers run once for all steps; still images become sequences; votes are counted."""

from __future__ import annotations

import pytest
import snntorch as snn
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import snntorch_stbp as stbp
from snntorch_stbp.sequence import is_repeated


class Counting(nn.Module):
    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return 2 * x


def test_equals_the_layer_at_every_step() -> None:
    layer = nn.Sequential(nn.Conv2d(2, 3, 3), nn.AvgPool2d(2))
    x = torch.randn(4, 5, 2, 8, 8)
    expected = torch.stack([layer(step) for step in x])
    torch.testing.assert_close(stbp.TimeDistributed(layer)(x), expected)


def test_calls_the_layer_once() -> None:
    layer = Counting()
    stbp.TimeDistributed(layer)(torch.zeros(4, 5, 2))
    assert layer.calls == 1


def seen_by(layer: nn.Module, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Samples in each call of the forward pass of the class of `layer`."""
    seen: list[int] = []
    forward = type(layer).forward
    monkeypatch.setattr(
        type(layer), "forward", lambda self, x: seen.append(len(x)) or forward(self, x)
    )
    return seen


@pytest.mark.parametrize("bits", [None, 3])
def test_a_convolution_computes_an_image_once_for_all_steps(
    bits: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    conv = stbp.Precision(weight_bits=bits).conv2d(2, 3, 3)
    layer = stbp.TimeDistributed(conv, stbp.TDBatchNorm2d(3))
    seen = seen_by(conv, monkeypatch)
    image = torch.randn(5, 2, 8, 8)
    results, gradients = [], []
    for sequence in (stbp.DirectCoding(4)(image), image.repeat(4, 1, 1, 1, 1)):
        layer.zero_grad()
        results.append(layer(sequence))
        results[-1].square().sum().backward()
        gradients.append(conv.weight.grad.clone())
    assert seen == [5, 20]
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*gradients)


def test_layers_that_draw_numbers_draw_them_at_every_step() -> None:
    layer = stbp.TimeDistributed(nn.Sequential(nn.Linear(2, 50), nn.Dropout()))
    out = layer(stbp.DirectCoding(4, still_dims=2)(torch.ones(5, 2)))
    assert not torch.equal(out[0], out[1])


class Noisy(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + torch.randn_like(x))


def hooked(pre: bool) -> nn.Linear:
    layer = nn.Linear(2, 50)
    if pre:
        layer.register_forward_pre_hook(lambda m, given: (given[0] + torch.randn_like(given[0]),))
    else:
        layer.register_forward_hook(lambda m, given, y: y + torch.randn_like(y))
    return layer


@pytest.mark.parametrize("layer", [Noisy(2, 50), hooked(True), hooked(False)])
def test_layers_of_other_classes_and_with_hooks_may_draw_numbers(layer: nn.Module) -> None:
    out = stbp.TimeDistributed(layer)(stbp.DirectCoding(4, still_dims=2)(torch.ones(5, 2)))
    assert not torch.equal(out[0], out[1])


def test_hooks_of_torch_draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pruned and normalised weights are computed in them."""
    layer = parametrizations.weight_norm(nn.Linear(2, 50))
    prune.random_unstructured(layer, "bias", 0.5)
    seen = seen_by(layer, monkeypatch)
    image = stbp.DirectCoding(4, still_dims=2)(torch.ones(5, 2))
    assert is_repeated(stbp.TimeDistributed(layer)(image))
    assert seen == [5]


def test_normalisations_see_the_sequence_or_the_folded_batch() -> None:
    x = torch.randn(3, 4, 2, 6, 6)
    conv = nn.Conv2d(2, 3, 3, bias=False)
    ours = stbp.TimeDistributed(conv, stbp.TDBatchNorm2d(3, threshold=1.0))(x)
    torchs = stbp.TimeDistributed(conv, nn.BatchNorm2d(3))(x)
    torch.testing.assert_close(ours, torchs)
    group = stbp.TimeDistributed(conv, nn.GroupNorm(1, 3))(x)
    torch.testing.assert_close(group[0], nn.GroupNorm(1, 3)(conv(x[0])))


@pytest.mark.parametrize(
    "inside",
    [
        snn.Leaky(0.5),
        nn.Sequential(nn.Linear(2, 2), snn.Synaptic(0.5, 0.5)),
        stbp.Leaky(),
        nn.Sequential(stbp.TDBatchNorm1d(2)),
    ],
)
def test_refuses_layers_that_need_the_steps_in_order(inside: nn.Module) -> None:
    with pytest.raises(TypeError, match=r"needs the sequence \[T, B, \.\.\.\]: put it behind"):
        stbp.TimeDistributed(inside)


def test_refuses_what_is_no_layer() -> None:
    with pytest.raises(TypeError, match=r"takes a layer, a torch\.nn\.Module, not None"):
        stbp.TimeDistributed(None)  # type: ignore[arg-type]


def test_refuses_what_is_no_sequence() -> None:
    with pytest.raises(
        ValueError, match=r"takes a sequence \[T, B, \.\.\.\], not the shape \(3,\)"
    ):
        stbp.TimeDistributed(nn.Identity())(torch.zeros(3))


@pytest.mark.parametrize("layer", [nn.Flatten(), nn.MaxPool2d(2), stbp.AvgPool2d(2)])
def test_what_an_image_passes_first_is_computed_once(
    layer: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A linear layer behind it then sees one step, too."""
    seen = seen_by(layer, monkeypatch)
    image = torch.rand(3, 2, 4, 4)
    y = stbp.TimeDistributed(layer)(stbp.DirectCoding(5)(image))
    assert seen == [3]
    assert is_repeated(y)
    assert torch.equal(y, torch.stack([layer(image)] * 5))


def test_direct_coding_repeats_images_and_passes_sequences() -> None:
    coding = stbp.DirectCoding(3)
    images = torch.rand(2, 1, 4, 4)
    sequence = coding(images)
    assert sequence.shape == (3, 2, 1, 4, 4)
    assert all(torch.equal(step, images) for step in sequence)
    assert coding(sequence) is sequence
    with pytest.raises(ValueError, match=r"a sequence of 3 steps, not the shape \(4, 2, 1, 4, 4\)"):
        coding(torch.zeros(4, 2, 1, 4, 4))
    with pytest.raises(ValueError, match="at least 1 time step, not 0"):
        stbp.DirectCoding(0)


def test_direct_coding_may_pass_sequences_of_any_length() -> None:
    coding = stbp.DirectCoding(3, any_length=True)
    assert coding(torch.rand(2, 1, 4, 4)).shape == (3, 2, 1, 4, 4)
    sequence = torch.rand(5, 2, 1, 4, 4)
    assert coding(sequence) is sequence
    for wrong in (torch.zeros(0, 2, 1, 4, 4), torch.zeros(4), torch.zeros(())):
        with pytest.raises(ValueError, match="a sequence of at least 1 step, not the shape"):
            coding(wrong)
    assert repr(coding) == "DirectCoding(num_steps=3, any_length=True)"


def test_rate_coding_spikes_as_often_as_the_image_is_bright() -> None:
    images = torch.tensor([0.0, 0.3, 1.0]).reshape(1, 1, 1, 3)
    rate = stbp.RateCoding(4000)(images).mean(0).flatten()
    torch.testing.assert_close(rate, torch.tensor([0.0, 0.3, 1.0]), atol=0.04, rtol=0)


def test_latency_coding_spikes_once_and_earlier_for_brighter_pixels() -> None:
    images = torch.tensor([[0.2, 0.6, 1.0]])
    spikes = stbp.LatencyCoding(10, still_dims=2)(images)
    assert spikes.sum(0).le(1).all()
    when = spikes.argmax(0).flatten()
    assert when[2] < when[1] < when[0]


@pytest.mark.parametrize("coding", [stbp.DirectCoding, stbp.RateCoding, stbp.LatencyCoding])
@pytest.mark.parametrize("steps", [2.5, True, "3", None])
def test_steps_are_a_whole_number(coding: type[nn.Module], steps: object) -> None:
    with pytest.raises(ValueError, match=f"a whole number of time steps, not {steps!r}"):
        coding(steps)


@pytest.mark.parametrize("coding", [stbp.RateCoding, stbp.LatencyCoding])
def test_what_is_no_intensity_is_refused(coding: type[nn.Module]) -> None:
    image = torch.randint(0, 2, (2, 1, 4, 4))
    with pytest.raises(ValueError, match=r"Coding takes intensities .* not int64: .* x / 255"):
        coding(3)(image)
    with pytest.raises(ValueError, match=r"Coding takes intensities in \[0, 1\], not nan"):
        coding(3)(image / 0)


def test_population_vote_is_the_mean_of_each_group() -> None:
    record = torch.rand(2, 5, 12)
    votes = stbp.PopulationVote(3)(record)
    assert votes.shape == (2, 5, 3)
    torch.testing.assert_close(votes[..., 1], record[..., 4:8].mean(-1))


def test_population_vote_names_the_number_of_neurons() -> None:
    message = r"PopulationVote\(10\) takes a multiple of 10 neurons, not 25"
    with pytest.raises(ValueError, match=message):
        stbp.PopulationVote(10)(torch.rand(2, 3, 25))
    with pytest.raises(ValueError, match="PopulationVote is for at least 1 class, not 0"):
        stbp.PopulationVote(0)


@pytest.mark.parametrize("repeated", [False, True])
def test_refuses_layers_that_return_several_tensors(repeated: bool) -> None:
    layer = stbp.TimeDistributed(nn.MaxPool2d(2, return_indices=True))
    x = torch.rand(3, 2, 4, 4)
    message = r"layers that return one tensor \[N, \.\.\.\], but MaxPool2d returns a tuple"
    with pytest.raises(TypeError, match=message):
        layer(stbp.DirectCoding(3)(x) if repeated else x.unsqueeze(0))


def test_readout_is_the_mean_over_time() -> None:
    record = torch.rand(4, 2, 3)
    torch.testing.assert_close(stbp.readout(record), record.mean(0))
