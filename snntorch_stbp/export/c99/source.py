"""A network of integers as one C99 header.

Values are laid out `[row][column][channel]`, so that one spike adds one contiguous row of weights
to the sums of all channels. The functions that every network shares are in the `*.h` files
beside this one; what is written here is a function per stage, the tables, and the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from ...errors import StbpError
from ...lowering.layers import INPUT, IntBranch, IntNetwork, IntNeuron, IntPool, Ints, IntStage
from ...lowering.ranges import INT32, ranges
from ..shapes import Size, Sizes, sizes
from .data import KINDS, Weights, array, layer_rows, layer_shape, pool_shape, weights
from .text import comment, plain, template

POOLINGS = {"pooled": "snn_pool", "after": "snn_pool_sums"}
"""The function that pools values in front of a layer, or its sums."""


def header(net: IntNetwork, image: Size, frames: bool, metadata: dict[str, str]) -> str:
    """The text of `network.h`.

    Args:
        net: The network.
        image: Size of an image or frame, `(C, H, W)`, or of features, `(F,)`.
        frames: Whether there is a frame per step.
        metadata: Words for the comment at its head.

    Raises:
        StbpError: If an integer of it needs more than 32 bits.
    """
    for name, reach in ranges(net).items():
        if 2 * reach.largest >= INT32:
            raise StbpError(
                f"'{name}' needs more than 30 bits; C computes in int32: lower it with bits=24."
            )
    writer = _Header(net, sizes(net, image))
    stages = [writer.stage(index) for index in range(len(net.stages))]
    return "".join(
        [comment(net, metadata), writer.sizes_text(frames), *writer.functions(), *writer.data,
         writer.state(), *stages, writer.interface()]
    )  # fmt: skip


def channels_last(size: Size) -> tuple[int, int, int]:
    """`(C, H, W)` of a size, which may be `(K,)`."""
    return (size[0], *size[1:]) if len(size) == 3 else (size[0], 1, 1)


class _Header:
    """Collects the definitions of a network."""

    def __init__(self, net: IntNetwork, shapes: Sizes) -> None:
        self.net, self.shapes = net, shapes
        self.index = {stage.name: i for i, stage in enumerate(net.stages)}
        self.data: list[str] = ["\n"]
        self.kinds: set[str] = set()
        self.neurons = [s for s in net.stages if s.neuron is not None]

    def _pooled(self, sizes: Mapping[tuple[str, int], tuple[Size, ...]]) -> dict[str, int]:
        """Scratch memory for what is pooled, two buffers for each branch of a stage, by turns."""
        most: dict[str, int] = {}
        for stage in self.net.stages:
            for number in range(len(stage.branches)):
                for pool, size in enumerate(sizes[stage.name, number]):
                    key = f"{number}_{pool % 2}"
                    most[key] = max(most.get(key, 0), prod(size))
        return dict(sorted(most.items()))

    def sizes_text(self, frames: bool) -> str:
        """Macros, and the type of what layers take."""
        size, steps = prod(self.shapes.values[INPUT]), self.net.num_steps
        counts = [prod(self.shapes.values[s.name]) for s in self.neurons]
        last = self.net.votes or self.shapes.values[self.net.stages[-1].name][0]
        macros = {
            "STEPS": steps, "FRAMES": int(frames), "INPUT": size,
            "IMAGES": size * (steps if frames else 1), "RECORD": last,
            "LAYERS": len(self.neurons), "NEURONS": sum(counts), "MOST_SPIKES": max(counts),
        }  # fmt: skip
        lines = [f"#define SNN_{name} {value}\n" for name, value in macros.items()]
        top = max(
            [(1 << self.net.input_bits) - 1]
            + [highest(b, self.net.input_bits) for s in self.net.stages for b in s.branches]
        )
        bits = next(b for b in (8, 16, 32) if top < 1 << b)
        return (
            "".join(lines) + f"\ntypedef uint{bits}_t snn_value; /* spikes, pixels, pooled */\n\n"
        )

    def functions(self) -> list[str]:
        """The shared functions that this network uses."""
        result = [template("runtime.h")]
        if self._pooled(self.shapes.pooled):
            words = {"NAME": "pool", "TYPE": "snn_value", "WHAT": "Sums or maxima"}
            result.append(template("pool.h", **words))
        if self._pooled(self.shapes.after):
            words = {"NAME": "pool_sums", "TYPE": "int32_t", "WHAT": "Sums or maxima, of sums"}
            result.append(template("pool.h", **words))
        for kind in sorted(self.kinds):
            words = {"KIND": kind, "TYPE": KINDS[kind]}
            result.append(template("nibbles.h" if kind == "nibbles" else "whole.h", **words))
            result.append(template("convolve.h", **words))
        return result

    def state(self) -> str:
        """What a network remembers from step to step, and its scratch memory."""
        lines = ["\ntypedef struct {\n"]
        for stage in self.neurons:
            i, count, neuron = (
                self.index[stage.name],
                prod(self.shapes.values[stage.name]),
                stage.neuron,
            )
            assert neuron is not None
            lines += [f"    int32_t membrane_{i}[{count}]; /* {plain(stage.name)} */\n"]
            lines += [f"    snn_value spikes_{i}[{count}];\n"]
            if len(neuron.threshold) > 1:
                lines += [f"    {_age_type(neuron)} age_{i}[{count}];\n"]
        weighted = [
            (number, prod(self.shapes.sums[stage.name, number]))
            for stage in self.net.stages
            for number, branch in enumerate(stage.branches)
            if branch.weight is not None
        ]
        for number in sorted({number for number, _ in weighted}):
            most = max(size for n, size in weighted if n == number)
            lines.append(f"    int32_t sum_{number}[{most}]; /* scratch */\n")
        for key, count in self._pooled(self.shapes.pooled).items():
            lines.append(f"    snn_value pooled_{key}[{count}]; /* scratch */\n")
        for key, count in self._pooled(self.shapes.after).items():
            lines.append(f"    int32_t after_{key}[{count}]; /* scratch */\n")
        return "".join([*lines, "} snn_state;\n"])

    def stage(self, index: int) -> str:
        """The function of a stage, and its data."""
        stage = self.net.stages[index]
        channels, height, width = channels_last(self.shapes.values[stage.name])
        last = index == len(self.net.stages) - 1
        lines: list[str] = []
        terms = [
            self._branch(stage, index, n, branch, lines) for n, branch in enumerate(stage.branches)
        ]
        names = ", ".join(plain(branch.name) for branch in stage.branches)
        body = [f"x = {' + '.join(terms)};", *self._current(stage, index)]
        body += self._neuron(stage.neuron, index) if stage.neuron else []
        if last:
            votes = f" / {channels // self.net.votes}" if self.net.votes else ""
            body.append(f"record[c{votes}] += {f's->spikes_{index}[i]' if stage.neuron else 'x'};")
        parameters = ["snn_state *s", *self._given(index, "const snn_value *", "int32_t *")]
        uses = "u, " if stage.neuron else ""
        text = "\n            ".join(body)
        return (
            f"\n/* {plain(stage.name)}: {names} */\n"
            f"static inline void snn_stage_{index}({', '.join(parameters)})\n{{\n"
            f"    int32_t i = 0, p, c, x{', u' if uses else ''};\n"
            f"{''.join(lines)}"
            f"    for (p = 0; p < {height * width}; p++)\n"
            f"        for (c = 0; c < {channels}; c++, i++) {{\n"
            f"            {text}\n"
            f"        }}\n"
            f"}}\n"
        )

    def _given(self, index: int, values: str = "", sums: str = "") -> list[str]:
        """What the function of a stage takes beside the state, with types in front."""
        stage = self.net.stages[index]
        image = any(branch.source == INPUT for branch in stage.branches)
        last = index == len(self.net.stages) - 1
        return [f"{values}image"] * image + [f"{sums}record"] * last

    def _branch(
        self, stage: IntStage, index: int, number: int, branch: IntBranch, lines: list[str]
    ) -> str:
        """Appends what makes the sums of a branch to `lines`; returns its term of the current."""
        key = stage.name, number
        source = branch.source
        x = "image" if source == INPUT else f"s->spikes_{self.index[source]}"
        size = self.shapes.values[source]

        def pooled(x: str, size: Size, pools: tuple[IntPool, ...], where: str) -> tuple[str, Size]:
            """Appends poolings of `x`; returns what they leave, and its size."""
            sizes = (self.shapes.pooled if where == "pooled" else self.shapes.after)[key]
            for n, (pool, behind) in enumerate(zip(pools, sizes, strict=True)):
                name, to = f"snn_{where}_{index}_{number}_{n}", f"s->{where}_{number}_{n % 2}"
                self.data.append(pool_shape(name, pool, size, behind))
                function, most = POOLINGS[where], int(pool.kind == "max")
                lines.append(f"    {function}(&{name}, {most}, {x}, {to});\n")
                x, size = to, behind
            return x, size

        x, size = pooled(x, size, branch.pools, "pooled")
        if branch.weight is None:
            if branch.flatten and prod(size[1:]) > 1:
                raise StbpError(f"'{stage.name}' flattens features without weights, which C lacks.")
            term = f"{x}[i]"
        else:
            shape, rows = f"snn_shape_{index}_{number}", f"snn_weights_{index}_{number}"
            data = weights(rows, layer_rows(branch, size))
            self.kinds.add(data.kind)
            self.data += [layer_shape(shape, branch, size, self.shapes.sums[key]), data.text]
            lines.append(_call(data, shape, rows, x, f"s->sum_{number}"))
            sums, _ = pooled(f"s->sum_{number}", self.shapes.sums[key], branch.after, "after")
            term = f"{sums}[i]"
        factor = self._item(f"multiplier_{index}_{number}", branch.multiplier)
        return (
            term if factor == "1" else f"{factor} * {'(int32_t)' * (branch.weight is None)}{term}"
        )

    def _current(self, stage: IntStage, index: int) -> list[str]:
        lines = []
        up = f"x * {1 << stage.up}" if stage.up else "x"
        bias = f" + {self._item(f'bias_{index}', stage.bias)}" if stage.bias.any() else ""
        if up + bias != "x":
            lines.append(f"x = {up}{bias};")
        if stage.shift.any():
            half = self._item(f"half_{index}", np.int64(1) << stage.shift >> 1)
            shift = self._item(f"shift_{index}", stage.shift)
            lines.append(f"x = snn_shift(x + {half}, {shift});")
        if stage.act_bits is not None:
            top = 1 << (stage.act_bits - 1)
            lines.append(f"x = snn_clip(x, {-top}, {top - 1});")
        return lines

    def _neuron(self, neuron: IntNeuron, index: int) -> list[str]:
        u, spike = f"s->membrane_{index}[i]", f"s->spikes_{index}[i]"
        lines = [f"u = {u} + x{f' * {1 << neuron.lift}' if neuron.lift else ''};"]
        if neuron.membrane_bits is not None:
            levels, grid = 1 << (neuron.membrane_bits - 1), 1 << neuron.coarse
            inner = f"snn_shift(u + {grid >> 1}, {neuron.coarse})" if neuron.coarse else "u"
            scale = f" * {grid}" if neuron.coarse else ""
            lines.append(f"u = snn_clip({inner}, {-levels}, {levels - 1}){scale};")
        ages, age = len(neuron.threshold), f"s->age_{index}[i]"
        table = neuron.threshold if ages > 1 else neuron.threshold[0]
        theta = self._item(f"threshold_{index}", table, f"[{age}]" if ages > 1 else "")
        lines.append(f"{spike} = u > {theta};")
        if ages > 1:
            older = f"{age} + ({age} < {ages - 1})"
            next_age = f"{spike} ? 0 : {older}" if neuron.reset == "zero" else older
            lines.append(f"{age} = ({_age_type(neuron)})({next_age});")
        first = ""
        if neuron.reset in ("subtract", "delayed"):
            first = self._item(f"first_{index}", neuron.threshold[0])
        if neuron.reset == "zero":
            lines.append(f"u = {spike} ? 0 : u;")
        elif neuron.reset == "subtract":
            lines.append(f"u = {spike} ? u - {first} : u;")
        beta = self._item(f"beta_{index}", neuron.beta)
        kept = "u" if beta == "1" else f"{beta} * u"
        half = (1 << neuron.leak >> 1) if neuron.rounds else 0
        kept += f" + {half}" if half else ""
        leaked = f"snn_shift({kept}, {neuron.leak})" if neuron.leak else kept
        late = f" - ({spike} ? {first} : 0)" if neuron.reset == "delayed" else ""
        lines.append(f"{u} = {leaked}{late};")
        return lines

    def _item(self, name: str, value: Ints, row: str = "") -> str:
        """The expression of a value per channel `c`: a number if it is the same for all."""
        if (value == value.flat[0]).all():
            number = int(value.flat[0])
            return f"({number})" if number < 0 else str(number)
        self.data.append(array(f"snn_{name}", value))
        return f"snn_{name}{row}[{'c' if value.shape[-1] > 1 else 0}]"

    def interface(self) -> str:
        """The functions that programs call."""
        entries = []
        for stage in self.neurons:
            c, h, w = channels_last(self.shapes.values[stage.name])
            place = f"offsetof(snn_state, spikes_{self.index[stage.name]})"
            entries.append(f'    {{"{plain(stage.name)}", {c}, {h}, {w}, {place}}}')
        calls = [
            f"    snn_stage_{i}({', '.join(['s', *self._given(i)])});\n"
            for i in range(len(self.net.stages))
        ]
        return template("interface.h", LAYERS=",\n".join(entries), STAGES="".join(calls).rstrip())


def highest(branch: IntBranch, input_bits: int) -> int:
    """The largest value that the layer of a branch takes."""
    top = (1 << input_bits) - 1 if branch.source == INPUT else 1
    for pool in branch.pools:
        top *= prod(pool.size) if pool.kind == "sum" else 1
    return top


def _call(data: Weights, shape: str, rows: str, x: str, sums: str) -> str:
    return f"    snn_convolve_{data.kind}(&{shape}, {rows}[0], {data.stride}, {x}, {sums});\n"


def _age_type(neuron: IntNeuron) -> str:
    """What holds the number of a threshold."""
    return "uint8_t" if len(neuron.threshold) <= 256 else "uint32_t"
