"""What a network computes beside what is read of it is refused by name, before anything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import brevitas.nn as qnn
import brevitas.quant as bq
import pytest
import torch
from torch import Tensor, nn

import snntorch_stbp as stbp
from snntorch_stbp import Leaky, PopulationVote, Precision, TimeDistributed
from snntorch_stbp.constant import constant
from snntorch_stbp.errors import StbpError
from snntorch_stbp.frozen import freeze
from snntorch_stbp.frozen.read import read_graph

P = Precision(weight_bits=4)


def net(
    *modules: nn.Module, features: int = 144, outputs: int = 10, last: Any = None
) -> nn.Sequential:
    """Layers and neurons, and a linear layer with neurons behind them."""
    head = TimeDistributed(nn.Sequential(nn.Flatten(), P.linear(features, outputs)))
    last = Leaky(0.5, 0.1) if last is None else last
    return nn.Sequential(P.input_quant(), stbp.DirectCoding(3), *modules, head, last).eval()


def conv(**options: Any) -> nn.Module:
    return TimeDistributed(qnn.QuantConv2d(1, 4, 3, weight_bit_width=4, **options))


class Added(nn.Module):
    """Two layers whose currents are added by a function."""

    def __init__(self, add: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.add = add
        self.quant, self.coding = P.input_quant(), stbp.DirectCoding(3)
        self.a, self.b = (TimeDistributed(P.conv2d(1, 4, 3)) for _ in range(2))
        self.neuron = Leaky(0.5, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.coding(self.quant(x))
        return self.neuron(self.add(self.a(x), self.b(x)))


class Half(Added):
    """One layer takes the input itself, the other what a quantizer made of it."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.coding(x)
        return self.neuron(self.a(self.quant(x)) + self.b(x))


class Unheard(nn.Module):
    """A vote that does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.vote = net(conv(), Leaky(0.5, 0.1)), PopulationVote(5)

    def forward(self, x: Tensor) -> Tensor:
        record = self.net(x)
        self.vote(record)
        return record


class Doubled(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Halved(nn.AvgPool2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) / 2


class Inner(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight.abs(), bias)


class Plain(nn.Conv2d):
    """Another name alone."""


class Twice(Leaky):
    def forward(self, input_: Tensor) -> Any:
        return super().forward(2 * input_)


def patched() -> nn.Module:
    layer = nn.Conv2d(1, 4, 3)
    layer.forward = lambda x: 2 * nn.Conv2d.forward(layer, x)  # type: ignore[method-assign]
    return layer


def with_values(layer: nn.Module, **values: float) -> nn.Module:
    """The same with the first number of each tensor replaced."""
    for name, value in values.items():
        getattr(layer, name).data.view(-1)[0] = value
    return layer


def spiking(function: Callable[[Tensor], Tensor]) -> nn.Module:
    return net(conv(), Leaky(0.5, 0.1, spike_grad=function))


IMAGES = Precision(weight_bits=4, act_bits=6)

REFUSED: list[tuple[Callable[[], nn.Module], str]] = [
    (
        lambda: Added(lambda a, b: torch.add(a, b, alpha=0.25)),  # type: ignore[call-overload]
        r"an addition with alpha=0\.25: currents are added as they are; take the factor into",
    ),
    (lambda: Added(lambda a, b: a.add(b, alpha=-1)), "an addition with alpha=-1"),
    (
        lambda: net(conv(), qnn.QuantIdentity(bit_width=2), Leaky(0.5, 0.1)),
        r"'3' \(QuantIdentity\) quantizes what is no input, spikes or averages .*act_bits=",
    ),
    (
        lambda: net(
            TimeDistributed(nn.Sequential(nn.Conv2d(1, 4, 3), qnn.QuantIdentity(bit_width=2))),
            Leaky(0.5, 0.1),
        ),
        r"'2' \(QuantIdentity\) quantizes what is no input, spikes or averages",
    ),
    (
        lambda: net(qnn.QuantIdentity(bit_width=2), conv(), Leaky(0.5, 0.1)),
        r"'2' \(QuantIdentity\) is the second quantizer of the input: leave one out",
    ),
    (
        lambda: net(
            conv(), Leaky(), nn.AvgPool2d(2), IMAGES.pool_quant(4), IMAGES.pool_quant(4),
            TimeDistributed(P.conv2d(4, 4, 3)), Leaky(), features=4,
        ),
        r"'6' \(QuantIdentity\) quantizes what is quantized already: leave one of them out",
    ),
    (
        lambda: nn.Sequential(qnn.QuantIdentity(), stbp.DirectCoding(3), conv(), Leaky()),
        r"'0' \(QuantIdentity\) must round the input to unsigned integers of one scale",
    ),
    (
        lambda: net(
            conv(output_quant=bq.Int8ActPerTensorFloat, output_bit_width=2), Leaky(0.5, 0.1)
        ),
        r"'2' \(QuantConv2d\) quantizes its output, .* leave output_quant out \(currents are",
    ),
    (
        lambda: net(
            conv(input_quant=bq.Uint8ActPerTensorFloat, input_bit_width=2), Leaky(0.5, 0.1)
        ),
        r"'2' \(QuantConv2d\) quantizes its input, .* leave input_quant out \(spikes are whole",
    ),
    (
        lambda: net(
            conv(bias_quant=bq.Int8BiasPerTensorFloatInternalScaling, bias_bit_width=2),
            Leaky(0.5, 0.1),
        ),
        r"'2' \(QuantConv2d\) quantizes its bias, which export does not: leave bias_quant out",
    ),
    (
        lambda: net(
            conv(), Leaky(), TimeDistributed(nn.Flatten()),
            TimeDistributed(qnn.QuantLinear(144, 9, output_quant=bq.Int8ActPerTensorFloat)),
            Leaky(), features=9,
        ),
        r"'5' \(QuantLinear\) quantizes its output",
    ),
    (
        lambda: net(
            TimeDistributed(P.conv2d(1, 4, 2, padding="same")), Leaky(0.5, 0.1), features=256
        ),
        r"the convolution '2' must be padded by zeros, by as many on either side",
    ),
    (
        lambda: net(conv(padding=1, padding_mode="reflect"), Leaky(0.5, 0.1), features=256),
        r"the convolution '2' must be padded by zeros",
    ),
    (
        lambda: net(conv(padding="same", stride=2), Leaky(0.5, 0.1), features=64),
        r"the convolution '2' must be padded by zeros",
    ),
    (
        lambda: net(TimeDistributed(Doubled(1, 4, 3)), Leaky(0.5, 0.1)),
        r"'2' \(Doubled\) has its own forward, which export cannot read: use Conv2d itself",
    ),
    (
        lambda: net(TimeDistributed(Inner(1, 4, 3)), Leaky(0.5, 0.1)),
        r"'2' \(Inner\) has its own _conv_forward",
    ),
    (
        lambda: net(TimeDistributed(patched()), Leaky(0.5, 0.1)),
        r"'2' \(Conv2d\) has its own forward",
    ),
    (
        lambda: net(
            conv(), Leaky(0.5, 0.1), TimeDistributed(Halved(2)), features=36
        ),
        r"'4' \(Halved\) has its own forward, .*: use AvgPool2d itself",
    ),
    (lambda: net(conv(), Twice(0.5, 0.1)), r"'3' \(Twice\) has its own forward, .* Leaky it"),
    (
        lambda: net(conv(), Leaky(0.5, torch.rand(1, 6))),
        r"'3' has a threshold of 6 values; export takes one, or one for each of the 4 channels "
        r"\(a row of them, not \[1, 6\]\)",
    ),
    (
        lambda: net(
            TimeDistributed(P.conv2d(1, 6, 3)), Leaky(torch.rand(1, 1, 6), 0.1), features=216
        ),
        r"'3' has a beta of 6 values; .* of the 6 channels \(a row of them, not \[1, 1, 6\]\)",
    ),
    (
        lambda: net(conv(), Leaky(0.5, torch.rand(4, 6, 6))),
        r"'3' has a threshold of 144 values; export takes one, or one for each of the 4 channels",
    ),
    (
        lambda: net(conv(), Leaky(), last=Leaky(0.5, torch.rand(3, 1))),
        r"'5' has a threshold of 3 values; export takes one, or one for each of the 10 channels",
    ),
    (
        lambda: net(
            TimeDistributed(nn.Sequential(nn.AvgPool2d(2), IMAGES.pool_quant(4))),
            TimeDistributed(P.conv2d(1, 4, 3)),
            Leaky(0.5, 0.1), features=4,
        ),
        r"'2' \(QuantIdentity\) quantizes an averaged input, which export does not: quantize the",
    ),
    (
        lambda: spiking(lambda u: (u > 0.005).float()),
        r"the spike function of '3' gives 0 for a potential of .* above the threshold; hardware",
    ),
    (lambda: spiking(lambda u: (u >= 0).float()), "gives 1 for a potential of 0 above the thresh"),
    (lambda: spiking(torch.sigmoid), "the spike function of '3' gives 0.2689 for"),
    (lambda: spiking(lambda u: (u > 0) * 1.0000001), "gives 1.00000012 for a potential of"),
    (
        lambda: net(conv(), Leaky(), TimeDistributed(nn.Flatten(2)), features=16),
        r"'4' \(Flatten\) must flatten channels, height and width, .*: take Flatten\(1\) here",
    ),
    (
        lambda: net(conv(), Leaky(0.5, 0.1), outputs=20, last=PopulationVote(10)),
        r"'5' \(PopulationVote\) takes currents, export counts the votes of spikes: put a Leaky",
    ),
    (
        lambda: Half(torch.add),
        "'b' takes the input as it is, another layer quantized: .* in front of everything",
    ),
    (Unheard, "the record must be the population vote, where there is one"),
    (
        lambda: nn.Sequential(*net(conv(), Leaky(0.5)), PopulationVote(5), nn.Identity()),
        "a population vote must be the last thing that a network does",
    ),
    (
        lambda: net(TimeDistributed(with_values(P.conv2d(1, 4, 3), weight=float("nan"))), Leaky()),
        r"the weight of '2' \(QuantConv2d\) is not finite, it holds nan",
    ),
    (
        lambda: net(TimeDistributed(with_values(P.conv2d(1, 4, 3), bias=float("inf"))), Leaky()),
        r"the bias of '2' \(QuantConv2d\) is not finite, it holds inf",
    ),
    (
        lambda: net(
            TimeDistributed(
                P.conv2d(1, 4, 3), with_values(stbp.TDBatchNorm2d(4), running_var=float("nan"))
            ),
            Leaky(),
        ),
        r"the running_var of '2' \(TDBatchNorm2d\) is not finite",
    ),
    (lambda: net(conv(), Leaky(0.5, float("inf"))), r"the threshold of '3' \(Leaky\) is not fin"),
]  # fmt: skip


@pytest.mark.parametrize("convert", [freeze, stbp.lower])
@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_what_is_not_read_is_refused(
    make: Callable[[], nn.Module], message: str, convert: Callable[[nn.Module], Any]
) -> None:
    with pytest.raises(StbpError, match=message):
        convert(make())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Added(lambda a, b: torch.add(a, b, alpha=1)),
        lambda: net(TimeDistributed(Plain(1, 4, 3)), Leaky(0.5, 0.1)),
        lambda: net(conv(), qnn.QuantIdentity(act_quant=None), Leaky(0.5, 0.1)),
        lambda: net(conv(padding="valid"), Leaky(0.5, 0.1)),
        lambda: net(conv(padding="same"), Leaky(0.5, 0.1), features=256),
        lambda: net(
            TimeDistributed(P.conv2d(1, 4, (2, 3), padding="same", dilation=2)),
            Leaky(0.5, 0.1),
            features=256,
        ),
        lambda: net(conv(), Leaky(0.5, torch.rand(4))),
        lambda: net(conv(), Leaky(0.5, torch.rand(4, 1, 1))),
        lambda: net(conv(), Leaky(0.5, torch.rand(1, 4, 1, 1))),
        lambda: net(conv(), Leaky(0.5, 0.1), last=Leaky(0.5, torch.rand(1, 10))),
        lambda: net(conv(), Leaky(0.5, torch.rand(1, 1))),
        lambda: spiking(lambda u: (u > 0).float()),
    ],
)
def test_the_same_in_other_words_is_read(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make().eval()
    x = (torch.rand(8, 1, 8, 8) * 255).round() / 255
    read_graph(model)
    freeze(model)
    with torch.no_grad():
        assert torch.equal(stbp.lower(model)(x), model(x))


def test_layers_inside_of_constant_are_read() -> None:
    model = net(TimeDistributed(P.conv2d(1, 4, 3)), Leaky(0.5, 0.1))
    with constant(model):
        assert len(read_graph(model).stages) == 2
