"""Mixed precision: every layer computes at its bits, from the file to the exported graph."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.nn.utils import parametrizations, prune

import snntorch_stbp as stbp
from snntorch_stbp import mixed, rounded, zoo
from snntorch_stbp.cli import main
from snntorch_stbp.errors import StbpError, UsageError
from snntorch_stbp.train.config import RunConfig
from snntorch_stbp.train.run.rundir import RunDir

from .nets import digits, integers, make

GIVEN = {"*": 4, "features.0": 8, "head.*": "ternary", "hidden.1": 32}


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.output


def new(name: str, precision: stbp.Precision, **options: Any) -> nn.Module:
    torch.manual_seed(3)
    return zoo.create(name, in_channels=1, image_size=8, precision=precision, **options)


@pytest.mark.parametrize("name", ["mnistnet", "mnistnet_bn"])
@pytest.mark.parametrize("bits", [None, 1, "ternary", 2, 8])
def test_bits_assigned_later_are_bits_from_the_start(name: str, bits: Any) -> None:
    """Same initial weights, same spikes, same state: whether built at 3 bits or at others."""
    built = new(name, stbp.Precision(bits))
    assigned = new(name, stbp.Precision(3), layer_bits={"*": bits})
    for (key, ours), (other, theirs) in zip(
        assigned.state_dict().items(), built.state_dict().items(), strict=True
    ):
        assert key == other
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    assigned.load_state_dict(built.state_dict())
    x = digits(16)
    assert torch.equal(assigned.eval()(x), built.eval()(x))


@pytest.mark.parametrize("weight_range", ["fitted", "learned", "max"])
def test_assigned_weights_have_the_range_that_was_asked_for(weight_range: Any) -> None:
    def at(bits: Any) -> stbp.Precision:
        return stbp.Precision(bits, weight_range=weight_range)

    built = new("mnistnet", at(4)).eval()
    assigned = new("mnistnet", at(3), layer_bits={"*": 4}).eval()
    assigned.load_state_dict(built.state_dict())
    x = digits(16)
    assert torch.equal(assigned(x), built(x))
    for few in (1, "ternary"):  # which have no range
        mixed.assign_bits(built, {"hidden.*": few}, at(4))


def test_parameters_stay_the_same_objects_and_options_of_a_convolution_too() -> None:
    conv = nn.Conv2d(4, 6, 3, 2, (1, 0), 2, groups=2, bias=True)
    net = nn.Sequential(conv, conv)
    layers = mixed.assign_bits(net, {"0": 2}, stbp.Precision())
    assert net[0] is net[1] is layers["0"]
    assert net[0].weight is conv.weight
    assert net[0].bias is conv.bias
    x = torch.randn(2, 4, 9, 9)
    weight = net[0].quant_weight().value
    expected = nn.functional.conv2d(x, weight, conv.bias, 2, (1, 0), 2, 2)
    torch.testing.assert_close(net[0](x), expected)
    with torch.no_grad():
        conv.weight.mul_(3)  # the scale follows the shared weights
    torch.testing.assert_close(net[0].quant_weight().value, 3 * weight)


@pytest.mark.parametrize("bits", [None, 4])
def test_hooks_of_a_layer_go_on(bits: int | None) -> None:
    net, seen = nn.Sequential(nn.Linear(4, 3)), []
    handles = [
        net[0].register_forward_hook(lambda m, args, kwargs, y: seen.append(y), with_kwargs=True),
        net[0].register_forward_pre_hook(lambda m, args: (2 * args[0],)),
        net[0].register_full_backward_hook(lambda m, d_x, d_y: seen.append(d_y[0])),
    ]
    mixed.assign_bits(net, {"0": bits}, stbp.Precision())
    x = torch.randn(2, 4, requires_grad=True)
    y = net(x)
    y.sum().backward()
    assert torch.equal(seen[0], y)
    assert torch.equal(seen[1], torch.ones(2, 3))
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(net(2 * x), y)
    assert len(seen) == 2


@pytest.mark.parametrize("change", [
    lambda layer: prune.random_unstructured(layer, "weight", 0.5),
    lambda layer: parametrizations.weight_norm(layer, "weight"),
])  # fmt: skip
def test_weights_that_are_computed_at_each_pass_are_refused(change: Any) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3))
    change(net[1])
    layers = list(net)
    with pytest.raises(StbpError, match=r"the weight of '1' is computed from other .* call torch"):
        mixed.assign_bits(net, {"*": 4}, stbp.Precision())
    assert list(net) == layers
    assert mixed.assign_bits(net, {"0": 4}, stbp.Precision())


def test_the_last_pattern_decides_and_means_count_weights() -> None:
    net = make("mnistnet_bn", bits=4)
    mixed.assign_bits(net, {k: None if v == 32 else v for k, v in GIVEN.items()}, stbp.Precision())
    layers = mixed.weight_layers(net)
    assert list(layers) == ["features.0", "features.4", "hidden.1", "head.0"]
    bits = [8, 4, 32, 2]
    assert [rounded.weight_bits(layer) for layer in layers.values()] == bits
    sizes = [layer.weight.numel() for layer in layers.values()]
    expected = sum(b * n for b, n in zip(bits, sizes, strict=True)) / sum(sizes)
    assert mixed.mean_bits(net) == pytest.approx(expected)


def test_there_is_no_mean_of_no_weights() -> None:
    with pytest.raises(UsageError, match="Leaky has no layers with weights"):
        mixed.mean_bits(stbp.Leaky())


def test_layers_are_named_as_the_exported_graph_names_them() -> None:
    net = make("resnet")
    graph = stbp.freeze(net).graph
    exported = {b.name for stage in graph.stages for b in stage.branches if b.layer is not None}
    assert exported == set(mixed.weight_layers(net))


def test_integers_of_every_layer_fit_its_bits_and_spikes_are_those_of_integers() -> None:
    net = make("resnet", bits=4)
    wanted = {"conv1": 8, "stages.0.0.conv1": 1, "stages.1.0.*": 2, "head.0": "ternary"}
    mixed.assign_bits(net, wanted, stbp.Precision())
    frozen = stbp.freeze(net)
    bits = {
        branch.name: (part.bits, int(part.weight.abs().max()))
        for stage in frozen.stages
        for branch, part in zip(stage.stage.branches, stage.current.branches, strict=True)
        if part.weight is not None
    }
    assert bits["conv1"][0] == 8
    assert 64 <= bits["conv1"][1] <= 127
    assert bits["stages.0.0.conv1"] == (1, 1)
    assert bits["stages.1.0.shortcut"] == (2, 1)
    assert bits["head.0"] == (2, 1)
    assert bits["stages.0.0.conv2"][0] == 4
    record: dict[str, torch.Tensor] = {}
    x = digits(8)
    frozen(x, record)
    spikes, _ = integers(frozen, x)
    for name, value in spikes.items():
        assert (record[name].numpy() == value).all(), name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mixed")


@pytest.fixture(scope="module")
def run(folder: Path) -> str:
    file = folder / "bits.json"
    file.write_text(json.dumps(GIVEN | {"hidden.1": 2}))
    arguments = ("--bits-file", str(file), "--bits", "3", "--epochs", "1", "--device", "cpu")
    code, output = call(
        "train", "mnistnet_bn", *arguments, "--out", str(folder / "runs"), "--quiet"
    )
    assert code == 0, output
    file.unlink()  # the run keeps the bits, not the path
    return output.strip()


def test_a_mixed_run_is_kept_resumed_and_evaluated(run: str) -> None:
    assert run.endswith("mnistnet_bn-digits-wmixed-T2-1")
    assert RunDir.open(run).config.layer_bits == GIVEN | {"hidden.1": 2}
    code, output = call("train", "--resume", run, "--epochs", "2")
    assert code == 0, output
    assert "weights of 2." in output  # hidden.1 has most of them
    code, output = call("evaluate", run, "--fixed-point", "--json")
    assert code == 0, output
    assert json.loads(output)["spikes_differ"] == 0
    code, output = call("show", run)
    assert re.search(r"^bits of +features\.0: 8$", output, re.MULTILINE)
    assert " mixed " in call("runs", "--out", str(Path(run).parent))[1]


@pytest.mark.parametrize("kind", [(), ("--fixed-point",)])
def test_a_mixed_run_is_exported_at_its_bits(run: str, kind: tuple[str, ...]) -> None:
    pytest.importorskip("qonnx")
    code, output = call("export", run, "--verify", "2", *kind, "--json")
    assert code == 0, output
    said = json.loads(output)
    assert said["quantized"] is True
    code, output = call("inspect", said["files"][0], "--json")
    assert code == 0, output
    rows = json.loads(output)["layers"]
    bits = {row["name"]: row["weight_bits"] for row in rows if row["parameters"]}
    assert bits == {"features.0": 8, "features.4": 4, "hidden.1": 2, "head.0": 2}


def test_another_file_does_not_go_on_with_a_run(run: str, tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text('{"*": 2}')
    code, output = call("train", "--resume", run, "--bits-file", str(file))
    assert code == 2
    assert (
        "was begun with a --bits-file of * 4, features.0 8, head.* ternary, hidden.1 2, which "
        "cannot change to a --bits-file of * 2; leave that out" in output
    )


@pytest.mark.parametrize(("text", "message"), [
    ('{"hiden.1": 4}', "no layer with weights is called 'hiden.1': there are features.0, "
     "features.4, hidden.1, head.0. Did you mean 'hidden.1'?"),
    ('{"head.0": 9}', "the bits of layer 'head.0' are 1 to 8, 32 (floating point) or \"ternary\", "
     "not 9."),
    ('{"head.0": true}', "not true."),
    ('{"head.0": 4, "head.0": 2}', "'head.0' comes twice"),
    ("[4]", "one JSON object of names and bits, not [4]."),
    ("{}", "names no layer"),
    ('{"a": 4', "is no JSON file of bits by layer"),
    ("[" * 100_000, "is no JSON file of bits by layer"),
    (None, "No such file"),
])  # fmt: skip
def test_wrong_files(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "bits.json"
    if text is not None:
        file.write_text(text)
    out = tmp_path / "runs"
    code, output = call("train", "mnistnet", "--bits-file", str(file), "--out", str(out))
    assert code == 2, output
    assert message in output
    assert not out.exists()


def test_configurations_without_bits_by_layer_are_read() -> None:
    values = json.loads(RunConfig.from_recipe("mnistnet", "digits").to_json())
    del values["layer_bits"]
    config = RunConfig.from_json(json.dumps(values))
    assert (config.layer_bits, config.quantized) == ({}, False)
    with pytest.raises(UsageError, match="the bits of layer 'a' are"):
        RunConfig.from_recipe("mnistnet", "digits", layer_bits={"a": 0})
