"""Every model at every precision: it builds, runs, learns something, traces, and shares weights."""

import pytest
import torch
from brevitas.nn import QuantConv2d, QuantIdentity, QuantLinear
from torch import fx, nn

from snntorch_stbp import (
    DirectCoding,
    Leaky,
    NeuNorm,
    PopulationVote,
    Precision,
    TDBatchNorm1d,
    TDBatchNorm2d,
    TimeDistributed,
    kernels,
    zoo,
)
from snntorch_stbp.quant import load_float_state

from .nets import small_resnet

WEIGHTS = [None, 4, 2, "ternary", 1]
SMALL = ("mnistnet", "mnistnet_bn", "nmnistnet", "nmnistnet_bn")
QUICK = {("resnet18", 4), ("vgg11", 1), ("vgg11_bn", None)}  # of the networks of 10 million weights
EACH = [
    pytest.param(
        name,
        bits,
        marks=() if name in SMALL or (name, bits) in QUICK else pytest.mark.slow,
        id=f"{name}-{bits}",
    )
    for name in zoo.list_models()
    for bits in WEIGHTS
]


def build(name, weight_bits=None, **options):
    """A model at its smallest comfortable size, two classes, and a batch of images for it."""
    size = max({"convnets": 12, "resnet": 8, "vgg": 32}[zoo.info(name).family], 8)
    size = max(size, zoo.info(name).min_size)
    precision = options.pop("precision", Precision(weight_bits=weight_bits))
    torch.manual_seed(0)
    net = zoo.create(
        name, num_classes=2, in_channels=1, image_size=size, precision=precision, **options
    )
    return net, torch.rand(4, 1, size, size)


@pytest.mark.parametrize(("name", "weight_bits"), EACH)
def test_builds_and_learns_at_every_precision(name, weight_bits):
    net, images = build(name, weight_bits)
    record = net(images)
    assert record.shape == (2, 4, 2)
    nn.functional.cross_entropy(record.mean(0), torch.tensor([0, 1, 0, 1])).backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        if parameter.dim() > 1:
            assert parameter.grad.any(), f"no gradient reaches {key}"


@pytest.mark.parametrize(("name", "weight_bits"), EACH)
def test_no_layer_of_a_new_network_is_dead_or_saturated(name, weight_bits):
    net, images = build(name, weight_bits, readout="rate")
    rates = {}
    for key, module in net.named_modules():
        if isinstance(module, Leaky):
            module.register_forward_hook(
                lambda _, __, spikes, key=key: rates.update({key: spikes.mean().item()})
            )
    net(images)
    rates.popitem()  # the classes: a handful of neurons
    assert min(rates.values()) > 0.03, rates
    assert max(rates.values()) < 0.6, rates


@pytest.mark.parametrize(
    ("name", "weight_bits"), [*(("mnistnet_bn", bits) for bits in WEIGHTS[1:]), ("resnet18", 4)]
)
def test_float_weights_load_into_quantized_networks(name, weight_bits):
    float_net, _ = build(name)
    precision = Precision(weight_bits=weight_bits, act_bits=8, membrane_bits=6)
    quantized, _ = build(name, precision=precision)
    state = float_net.state_dict()
    assert set(state) <= set(quantized.state_dict())
    kept = load_float_state(quantized, state)
    assert all("quant" in key for key in kept)
    loaded = quantized.state_dict()
    for key, value in state.items():
        assert torch.equal(loaded[key], value), key


def test_boundary_bits_are_those_of_the_first_and_last_layer_alone():
    for name in ("mnistnet", "resnet18", "vgg11"):
        net, _ = build(name, precision=Precision(weight_bits=2, boundary_bits=8))
        layers = [m for m in net.modules() if isinstance(m, (QuantConv2d, QuantLinear))]
        bits = [int(layer.weight_quant.bit_width()) for layer in layers]
        assert bits == [8] + [2] * (len(bits) - 2) + [8], name


@pytest.mark.parametrize(("name", "expected"), [("mnistnet", 0), ("resnet18", 1), ("vgg11", 4)])
def test_pooled_spikes_that_no_neuron_follows_are_quantized(name, expected):
    net, images = build(name, precision=Precision(weight_bits=4, act_bits=6))
    inside_neurons = sum(m.current_quant is not None for m in net.modules() if type(m) is Leaky)
    quantizers = [m for m in net.modules() if isinstance(m, QuantIdentity)]
    # One at the input, one per neuron, the rest behind pooling.
    assert len(quantizers) - 1 - inside_neurons == expected
    assert net(images).isfinite().all()


class Tracer(fx.Tracer):
    """The contract of the export: these modules are leaves, all else is traced through."""

    LEAVES = (TimeDistributed, Leaky, DirectCoding, PopulationVote, NeuNorm, QuantIdentity)
    LEAVES += (TDBatchNorm1d, TDBatchNorm2d)

    def is_leaf_module(self, module, name):
        return isinstance(module, self.LEAVES) or super().is_leaf_module(module, name)


@pytest.mark.parametrize(
    ("name", "readout"),
    [
        ("mnistnet", "population"),
        ("cifarnet_neunorm", "current"),
        ("resnet18", "rate"),
        ("vgg11_bn", "current"),
    ],
)
def test_traces_into_leaves_each_called_once(name, readout):
    size = zoo.info(name).min_size
    net = zoo.create(
        name, image_size=size, precision=Precision(act_bits=8, weight_bits=4), readout=readout
    ).eval()
    graph = Tracer().trace(net)
    called = [node.target for node in graph.nodes if node.op == "call_module"]
    assert len(called) == len(set(called)), "a module is called twice"
    neurons = {key for key, module in net.named_modules() if isinstance(module, Leaky)}
    assert neurons <= set(called)
    functions = {node.target.__name__ for node in graph.nodes if node.op == "call_function"}
    assert functions <= {"add"}
    assert not [node for node in graph.nodes if node.op in ("call_method", "get_attr")]
    images = torch.rand(2, 3, size, size)
    assert torch.equal(fx.GraphModule(net, graph)(images), net(images))


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("mnistnet_bn", None), ("mnistnet", 1), ("blocks", 4),
        pytest.param("resnet18", 4, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_compiles_as_one_graph(name, bits):
    """What breaks it compiles as pieces, slowly, and under warnings."""
    precision = Precision(weight_bits=bits)
    net, images = small_resnet(precision), torch.rand(2, 1, 8, 8)
    if name != "blocks":
        net = zoo.create(name, image_size=32, precision=precision)
        images = torch.rand(2, 3, 32, 32)
    for training in (True, False):
        torch.compiler.reset()
        record = torch.compile(net.train(training), fullgraph=True, backend="eager")(images)
        assert record.shape == (2, 2, 10)
        if bits is None:  # the compiler has Brevitas' weights, which may round otherwise
            with kernels.backend("loop"):
                torch.testing.assert_close(record, net(images))
    torch.compiler.reset()
