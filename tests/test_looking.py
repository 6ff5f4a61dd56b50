"""What is known of parameters without looking at them: neurons notice every change of theirs."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import snntorch_stbp as stbp
from snntorch_stbp import kernels
from snntorch_stbp.looking import Ones, number

from .nets import digits, make


def test_one_number_is_read_where_it_is_no_part_of_a_graph():
    """On a CPU, by whichever way it came there; never what is learned."""
    x = torch.tensor(0.5)
    assert number(x) == 0.5
    x.data.fill_(2)
    assert number(x) == 2
    assert number(torch.ones(2)) is None
    assert number(x.requires_grad_()) is None


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3)])
def test_ones_are_known_and_changes_are_noticed(shape):
    """In place or by another tensor; parameters are never said to be 1."""
    ones, x = Ones(), torch.ones(shape)
    assert [ones(x), ones(x)] == [True, True]
    x.view(-1)[-1] = 2
    assert [ones(x), ones(x)] == [False, False]
    assert ones(torch.ones(shape))
    assert not ones(torch.ones(shape).requires_grad_())
    assert not ones(torch.full(shape, float("nan")))
    if x.numel() > 1:
        assert not ones(torch.nn.Parameter(torch.ones(shape), requires_grad=False))
        with torch.inference_mode():
            assert not ones(torch.ones(shape))


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("inside", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("outside", [-0.5, 1.5])
def test_a_decay_that_leaves_the_unit_interval_is_clamped(inside, outside, learned):
    """Whether it was there at first or came to be there, by whichever way; copies, too."""
    x = torch.linspace(-1, 1, 60).reshape(6, 2, 5)
    expected = stbp.Leaky(min(max(outside, 0.0), 1.0), output=True)(x)
    neuron = stbp.Leaky(inside, learn_beta=learned, output=True)
    before = [r.detach() for r in neuron(x)]
    twin = copy.deepcopy(neuron)
    with torch.no_grad():
        neuron.beta.fill_(outside)
    state = {**twin.state_dict(), "beta": torch.tensor(outside)}
    other = stbp.Leaky(inside, learn_beta=learned, output=True)
    other(x)
    other.load_state_dict(state)
    for changed in (neuron, other, copy.deepcopy(neuron)):
        for result, wanted in zip(changed(x), expected, strict=True):
            assert torch.equal(result, wanted)
    for result, wanted in zip(twin(x), before, strict=True):
        assert torch.equal(result, wanted)


def test_a_factor_of_spikes_that_changes_is_applied():
    """Graded spikes, set after a pass with plain ones."""
    x = torch.rand(3, 4, 5)
    neuron = stbp.Leaky()
    spikes = neuron(x)
    neuron.graded_spikes_factor.fill_(0.5)
    assert torch.equal(neuron(x), spikes / 2)


def test_factors_of_spikes_that_change_are_applied():
    """Several: through `data`, and in a copy, whose versions begin anew."""
    x = torch.rand(3, 4, 2) + 1
    neuron = stbp.Leaky(graded_spikes_factor=torch.ones(2))
    factor = {**neuron.state_dict(), "graded_spikes_factor": torch.ones(2)}
    for _ in range(2):
        neuron.load_state_dict(factor)
    spikes = neuron(x)
    twin, pickled = copy.deepcopy(neuron), pickle.loads(pickle.dumps(neuron))
    for other in (twin, pickled):
        other.load_state_dict({**factor, "graded_spikes_factor": torch.full((2,), 3.0)})
        assert torch.equal(other(x), 3 * spikes)
    neuron.graded_spikes_factor.data.fill_(0.5)
    assert torch.equal(neuron(x), spikes / 2)


def test_an_average_of_parameters_kept_by_hand_is_followed():
    """As many scripts keep it, by `data` of parameters that need no gradient."""
    live = stbp.Leaky(0.9, learn_beta=True, learn_graded_spikes_factor=True)
    average = copy.deepcopy(live).requires_grad_(False)
    x = torch.rand(5, 2, 3)
    average(x)
    with torch.no_grad():
        live.graded_spikes_factor.fill_(2.0)
        live.beta.fill_(1.5)
    for mine, other in zip(average.parameters(), live.parameters(), strict=True):
        mine.data.mul_(0.0).add_(other.data)
    assert torch.equal(average(x), live(x))
    assert torch.equal(copy.deepcopy(average)(x), live(x))


@pytest.mark.parametrize("learned", [False, True])
def test_a_neuron_is_one_graph_for_a_compiler(learned):
    """Nothing is read of its parameters while a compiler looks."""
    neuron, x = stbp.Leaky(0.5, learn_beta=learned), torch.rand(3, 2, 5)
    torch._dynamo.reset()
    compiled = torch.compile(neuron, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), neuron(x))


@pytest.mark.parametrize("bits", [None, 4, 1, "ternary"])
def test_a_traced_network_computes_the_same(bits):
    """Of other inputs, too: a trace does not see what kernels do."""
    net = make("mnistnet_bn", bits=bits).eval()
    x, other = digits(4), digits(8)[4:]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(net, x)
        with kernels.backend("loop"):
            expected = net(x), net(other)
        torch.testing.assert_close(traced(x), expected[0])
        torch.testing.assert_close(traced(other), expected[1])


@pytest.mark.parametrize("pretended", [False, True])
def test_tensors_without_numbers_get_no_further_than_their_shapes(pretended):
    """Neither those that pretend to be on a CPU nor others in their company go to machine code."""
    quantized = stbp.Precision(4).conv2d(3, 8, 3, padding=1)
    fused = stbp.TimeDistributed(nn.Conv2d(3, 8, 3, padding=1), stbp.TDBatchNorm2d(8))
    x = torch.rand(2, 4, 3, 16, 16)
    neuron, pool = stbp.Leaky(), stbp.AvgPool2d(2)
    expected = [quantized(x[0]), stbp.fire(fused, neuron, x), neuron(x), pool(x[0])]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        if pretended:
            x = mode.from_tensor(x)
        found = [quantized(x[0]), stbp.fire(fused, neuron, x), neuron(x), pool(x[0])]
    assert all(type(y) is FakeTensor for y in found)
    assert [y.shape for y in found] == [y.shape for y in expected]
