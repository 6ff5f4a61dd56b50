"""A network of integers in C: the compiled program has every spike of the reference."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from snntorch_stbp import zoo
from snntorch_stbp.errors import StbpError, UsageError
from snntorch_stbp.export.c99 import program as c99
from snntorch_stbp.export.c99.program import FLAGS, to_c99
from snntorch_stbp.lowering import FixedPointNet, lower, reference
from snntorch_stbp.lowering.layers import (
    INPUT,
    IntBranch,
    IntNetwork,
    IntNeuron,
    IntPool,
    Ints,
    IntStage,
)

from .nets import digits, make

GCC = shutil.which("gcc")
pytestmark = pytest.mark.skipif(GCC is None, reason="needs gcc")

NETS: dict[str, Callable[[], FixedPointNet]] = {
    "4 bit": lambda: lower(make("mnistnet_bn")),
    "ternary resnet": lambda: lower(make("resnet", bits="ternary")),
    "quantized": lambda: lower(make("resnet", bits=8, act_bits=6, membrane_bits=5)),
    "fine membranes": lambda: lower(make("mnistnet", act_bits=4, membrane_bits=7, num_steps=3)),
    "float": lambda: lower(make("mnistnet", bits=None)),
    "simple": lambda: lower(make("mnistnet_bn", bits=2), form="simple", samples=digits(20)),
    "population": lambda: lower(make("mnistnet", readout="population")),
    "maxima of currents": lambda: lower(make("pooled", bits=4)),
    "averages of currents": lambda: lower(make("averaged", bits=4)),
    "padded poolings": lambda: lower(make("padded currents", bits=4)),
}


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the programs print while they are exported."""
    lines: list[str] = []
    selftest = c99.selftest

    def listen(folder: Path, compiler: str) -> str:
        lines.append(selftest(folder, compiler))
        return lines[-1]

    monkeypatch.setattr(c99, "selftest", listen)
    return lines


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that was exported without a compiler."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.which", lambda name: None)
        done = to_c99(NETS["4 bit"](), digits(24), tmp_path_factory.mktemp("c99") / "net")
    assert (done.compiled, done.agreement.samples) == (False, 24)
    return done.path


def run(folder: Path, source: str = "selftest.c", *arguments: str) -> tuple[int, str]:
    """Exit code and output of a program of the folder."""
    program = str(folder / "program")
    subprocess.run([str(GCC), *FLAGS, "-o", program, str(folder / source)], check=True)
    done = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout.strip()


def test_samples_computed_in_parts_are_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = NETS["4 bit"]()
    monkeypatch.setattr("shutil.which", lambda name: None)
    whole = to_c99(net, digits(24), tmp_path / "whole")
    monkeypatch.setattr(c99, "MOST_SAMPLES", 7)
    parts = to_c99(net, digits(24), tmp_path / "parts")
    assert parts.agreement == whole.agreement
    for one, other in zip(whole.files, parts.files, strict=True):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("name", NETS)
def test_the_program_has_every_spike(name: str, tmp_path: Path, printed: list[str]) -> None:
    net, images = NETS[name](), digits(24)
    done = to_c99(net, images, tmp_path / "net")
    record: reference.Record = {}
    reference.run(net.integers, net.quantize_input(images).numpy(), record)
    count = sum(record[s.name].size for s in net.integers.stages if s.neuron is not None)
    assert printed == [f"24 samples, {count} spikes: all equal"]
    assert (done.agreement.samples, done.agreement.spikes, done.compiled) == (24, count, True)
    assert sorted(path.name for path in done.files) == sorted(c99.FILES)
    assert sorted(done.files) == sorted(done.path.iterdir())


def test_event_frames(tmp_path: Path, printed: list[str]) -> None:
    model = zoo.create("nmnistnet", in_channels=2, image_size=16).eval()
    frames = torch.randint(0, 3, (2, 5, 2, 16, 16), generator=torch.manual_seed(0)).float()
    to_c99(lower(model), frames, tmp_path / "net")
    assert re.fullmatch(r"5 samples, \d+ spikes: all equal", printed[0])


def odd_network(seed: int) -> IntNetwork:
    """What the zoo lacks: groups, dilation, uneven geometry, chained pools, every reset."""
    random = np.random.default_rng(seed)

    def draw(low: int, high: int, *shape: int) -> Ints:
        return random.integers(low, high + 1, shape)

    none = np.zeros(10, np.int64)
    one, unit = np.ones(1, np.int64), np.ones(1)
    convolution = IntBranch(
        INPUT, "conv", draw(-3, 3, 10), draw(-60, 60, 10, 1, 3, 2), 7, stride=(2, 1),
        padding=(1, 2), dilation=(2, 3), groups=2, after=(IntPool("max", (1, 3), (1, 2)),),
    )  # fmt: skip
    pooled = IntBranch(
        INPUT, "pooled", one, draw(-7, 7, 10, 2, 1, 1), 4,
        (IntPool("sum", (2, 3), (1, 1)), IntPool("max", (2, 2), (1, 1), (2, 1))), padding=(1, 1),
    )  # fmt: skip
    quantized = IntNeuron(
        draw(-3, 7, 10), 3, True, draw(-20, 90, 1, 10), ("subtract", "delayed")[seed % 2], 6, 2
    )  # fmt: skip
    first = IntStage(
        "a", (convolution,), 1, draw(-50, 50, 10), draw(3, 6, 10), 9, quantized, unit, False
    )
    aged = IntNeuron(one, 1, False, draw(-400, 900, 3, 10), "none")
    second = IntStage("b", (pooled,), 2, none, none, None, aged, unit, False)
    shortcut = IntBranch("a", "a", draw(-9, 9, 10))
    follow = IntBranch("a", "c", draw(1, 40, 10), draw(-1, 1, 10, 10, 3, 3), 2, padding=(1, 1))
    zeros = IntNeuron(3 * one, 2, True, draw(0, 90, 4, 10))
    third = IntStage("c", (follow, shortcut), 2, none, none, None, zeros, unit, False)
    size = 10 * 3 * 4
    linear = IntBranch("c", "d", one, draw(-900, 900, 15, size), 11, flatten=True)
    voting = IntNeuron(one, 0, False, draw(0, 2000, 1, 15))
    last = IntStage("d", (linear,), 0, none[:1], none[:1], None, voting, unit, False)
    return IntNetwork((first, second, third, last), 4, 8, 1 / 255, 5, "exact")


@pytest.mark.parametrize("seed", [0, 1])
def test_every_part_of_the_arithmetic(
    seed: int, tmp_path: Path, printed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not a conversion that only happens to keep its value."""
    strict = (*FLAGS, "-Wconversion", "-Wsign-conversion", "-Wshadow")
    monkeypatch.setattr(c99, "FLAGS", strict)
    images = torch.rand(6, 2, 7, 9, generator=torch.manual_seed(seed))
    to_c99(FixedPointNet(odd_network(seed)), images, tmp_path / "net")
    assert re.fullmatch(r"6 samples, \d+ spikes: all equal", printed[0])


USER = """
#include <stdio.h>
#include "network.h"
static void count(void *context, int layer, int step, const snn_value *spikes)
{
    const snn_layer *l = &snn_layers[layer];
    int32_t i;
    (void)step;
    for (i = 0; i < l->channels * l->height * l->width; i++)
        *(long *)context += spikes[i];
}
int main(void)
{
    static snn_state state;
    static const snn_value image[SNN_INPUT] = {@IMAGE@};
    int32_t record[SNN_RECORD], streamed[SNN_RECORD] = {0}, i;
    long spikes = 0;
    int step;
    snn_run(&state, image, record, count, &spikes);
    snn_reset(&state);
    for (step = 0; step < SNN_STEPS; step++)
        snn_step(&state, image, streamed);
    printf("%ld", spikes);
    for (i = 0; i < SNN_RECORD; i++)
        printf(" %ld %ld", (long)record[i], (long)streamed[i]);
    return 0;
}
"""


def test_a_program_of_ones_own_runs_and_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, image = NETS["ternary resnet"](), digits(1)
    monkeypatch.setattr("shutil.which", lambda name: None)
    done = to_c99(net, image, tmp_path / "net")
    pixels = net.quantize_input(image).numpy().astype(np.int64)
    record: reference.Record = {}
    scores = reference.run(net.integers, pixels, record)[0]
    spikes = sum(record[s.name].sum() for s in net.integers.stages if s.neuron is not None)
    (done.path / "user.c").write_text(USER.replace("@IMAGE@", ", ".join(map(str, pixels.flat))))
    code, text = run(done.path, "user.c")
    assert code == 0
    assert list(map(int, text.split())) == [spikes, *np.repeat(scores, 2)]


def test_a_flipped_weight_is_found_and_its_layer_named(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "net"
    shutil.copytree(exported, folder)
    text = (folder / "network.h").read_text()
    row = re.search(r'snn_weights_0_0\[\d+\]\[(\d+)\] = \{\n"(.*)",\n', text)
    assert row is not None
    changed = r"\377" + r"\210" * (int(row[1]) - 2)
    (folder / "network.h").write_text(text.replace(f'"{row[2]}"', f'"{changed}"', 1))
    place = r"step \d, channel \d+, row \d+, column \d+: [01] instead of [01]"
    code, output = run(folder)
    assert code == 1
    assert re.fullmatch(rf"sample \d+: 'features\.1' differs at {place}", output)


def test_an_export_that_differs_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = NETS["4 bit"]()
    first = net.integers.stages[0]
    changed = replace(first, up=first.up + 1)
    other = replace(net.integers, stages=(changed, *net.integers.stages[1:]))
    written = c99.header
    monkeypatch.setattr(c99, "header", lambda _, *rest: written(other, *rest))
    message = r"exported program differs from the network: sample \d+: 'features\.1' differs"
    with pytest.raises(StbpError, match=message) as caught:
        to_c99(net, digits(24), tmp_path / "net")
    assert caught.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_foreign_samples_are_refused(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "net"
    shutil.copytree(exported, folder)
    assert run(folder)[1].endswith(": all equal")
    data = (folder / "samples.bin").read_bytes()
    (folder / "short.bin").write_bytes(data[:-5])
    (folder / "other.bin").write_bytes(data[:12] + b"\0" + data[13:])
    (folder / "record.bin").write_bytes(data[:-40] + bytes(4) + data[-36:])
    for name, code, message in (
        ("short.bin", 2, "'short.bin' ends within sample 23"),
        ("other.bin", 2, "'other.bin' holds no samples of this network"),
        ("missing.bin", 2, "'missing.bin' holds no samples of this network"),
        ("record.bin", 1, "sample 23: the record differs at 0: "),
    ):
        command = [str(folder / "program"), name]
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert (ran.returncode, ran.stdout[: len(message)]) == (code, message)


def test_what_does_not_compile_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(c99, "header", lambda *_: "broken")
    with pytest.raises(StbpError, match=r"does not compile the exported program: .*error"):
        to_c99(NETS["4 bit"](), digits(2), tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_what_c_cannot_hold_is_refused(tmp_path: Path) -> None:
    net = NETS["4 bit"]().integers
    wide = replace(net, stages=(replace(net.stages[0], up=25), *net.stages[1:]))
    with pytest.raises(StbpError, match=r"'features\.1' needs more than 30 bits; C computes in"):
        to_c99(FixedPointNet(wide), digits(2), tmp_path / "net")


def test_an_existing_path_is_kept_unless_forced(tmp_path: Path) -> None:
    net = NETS["4 bit"]()
    (tmp_path / "mine").touch()
    with pytest.raises(UsageError, match=r"exists already; replace it with --force\.") as caught:
        to_c99(net, digits(2), tmp_path)
    assert caught.value.exit_code == 2
    assert (tmp_path / "mine").exists()


def test_words_of_the_metadata_stay_in_the_comment(tmp_path: Path) -> None:
    words = {"run": 'a */ int main(void) { "\\ ??/\n#error', "end": "/*/ \\"}
    done = to_c99(NETS["4 bit"](), digits(1), tmp_path / "net", metadata=words)
    text = (done.path / "network.h").read_text()
    assert 'run: a _ int main(void) { "\\ __#error\n' in text
    assert "end: _/ _\n" in text
