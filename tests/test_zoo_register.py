"""Models from elsewhere: registered by a script, or offered by an installed package."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from snntorch_stbp import zoo
from snntorch_stbp.cli import main
from snntorch_stbp.errors import StbpError, UsageError
from snntorch_stbp.train.config import RunConfig
from snntorch_stbp.zoo import registry

PACKAGE = """
import snntorch as snn
import snntorch_stbp as stbp
import torch
from torch import nn

def by_parts(parts):
    size = parts.image_size[0] // 2
    return nn.Sequential(
        parts.encoder(), parts.conv(parts.in_channels, 8, 3, padding=1, boundary=True),
        parts.neuron(), parts.avg_pool(2), parts.flatten(), parts.head(8 * size * size),
    )

def converted(parts):
    height, width = parts.image_size
    neuron = {"beta": 0.5, "init_hidden": True}
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(parts.in_channels * height * width, 64), snn.Leaky(**neuron),
        nn.Linear(64, parts.num_classes), snn.Leaky(**neuron, output=True),
    )
    example = torch.zeros(2, parts.in_channels, height, width)
    return stbp.convert(model, example, num_steps=parts.num_steps, precision=parts.precision)

def broken(parts):
    raise ValueError("three channels only")
"""
ENTRIES = """
[snntorch_stbp.models]
by_parts = mynets:by_parts
converted = mynets:converted
broken = mynets:broken
missing = nowhere:net
"""


@pytest.fixture
def registered() -> Iterator[dict[str, Any]]:
    """What scripts registered; forgotten after the test."""
    yield registry._REGISTERED
    registry._REGISTERED.clear()


def tiny(parts: zoo.Parts) -> nn.Module:
    features = parts.in_channels * parts.image_size[0] * parts.image_size[1]
    return nn.Sequential(parts.encoder(), parts.flatten(), parts.head(features))


@pytest.mark.usefixtures("registered")
def test_a_registered_model_is_one_of_the_zoo() -> None:
    zoo.register("tiny", tiny, description="one layer", min_size=4)
    assert "tiny" in zoo.list_models()
    assert "tiny" in dir(zoo)
    assert zoo.info("tiny").description == "one layer"
    net = zoo.create("tiny", in_channels=1, image_size=8, num_classes=3, num_steps=4)
    assert net(torch.rand(5, 1, 8, 8)).shape == (4, 5, 3)
    assert zoo.tiny(in_channels=1, image_size=8)(torch.rand(5, 1, 8, 8)).shape == (2, 5, 10)
    config = RunConfig.from_recipe("tiny", "digits", bits=4)
    assert (config.model, config.epochs) == ("tiny", zoo.recipe("tiny", "digits").epochs)
    with pytest.raises(UsageError, match="tiny needs images of at least 4x4 pixels, not 2x2"):
        zoo.create("tiny", image_size=2)
    with pytest.raises(UsageError, match=r"There is no model 'tinny'\. Did you mean 'tiny'\?"):
        zoo.create("tinny")


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("name", ["resnet18", "tiny"])
def test_a_name_is_given_once(name: str) -> None:
    zoo.register("tiny", tiny)
    with pytest.raises(UsageError, match=f"There is a model '{name}' already: choose another name"):
        zoo.register(name, tiny)


@pytest.mark.parametrize(("name", "builder", "message"), [
    (3, tiny, "a name of letters, digits, _, - and dots, not 3"),
    ("", tiny, "a name of letters, digits, _, - and dots, not ''"),
    ("two words", tiny, "not 'two words'"),
    ("other", "tiny", "the builder of 'other' is a function of Parts, not 'tiny'"),
])  # fmt: skip
def test_what_is_no_name_or_no_builder_is_refused(name: Any, builder: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        zoo.register(name, builder)
    assert name not in zoo.list_models()


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(("builder", "message"), [
    (lambda parts: 1 / 0, "'bad' cannot be built: ZeroDivisionError: division by zero"),
    (lambda parts: "net", "the builder of the model 'bad' returned a str, no module"),
])  # fmt: skip
def test_what_a_builder_does_wrong_is_named(builder: Callable[[Any], Any], message: str) -> None:
    zoo.register("bad", builder)
    with pytest.raises(StbpError, match=message):
        zoo.create("bad")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package that offers models, installed as far as this process and its children can tell."""
    package = tmp_path / "package"
    info = package / "mynets-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mynets\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    (package / "mynets.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(package)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")])
    )
    monkeypatch.chdir(tmp_path)
    registry._offered.cache_clear()
    yield package
    registry._offered.cache_clear()
    sys.modules.pop("mynets", None)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("model", ["by_parts", "converted"])
def test_a_model_of_a_package_goes_all_the_way(model: str) -> None:
    folder = f"runs/{model}-digits-w4-T2-1"
    for command in (
        ["train", model, "--bits", "4", "--epochs", "2"],
        ["evaluate", folder, "--frozen"],
        ["export", folder, "--verify", "2"],
    ):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.output
    assert "equal" in done.stdout


@pytest.mark.usefixtures("package")
def test_models_of_packages_are_listed() -> None:
    command = [sys.executable, "-m", "snntorch_stbp.cli", "models"]
    listed = subprocess.run(command, capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr
    assert re.search(r"^by_parts +[\d,]+ +2 .* from mynets$", listed.stdout, re.MULTILINE)
    assert re.search(r"^broken +- +- .* from mynets$", listed.stdout, re.MULTILINE)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(("model", "message"), [
    ("broken", "the model 'broken' cannot be built: ValueError: three channels only"),
    ("missing", "the model 'missing' cannot be built: ModuleNotFoundError: No module named"),
])  # fmt: skip
def test_what_a_package_does_wrong_is_one_sentence(model: str, message: str) -> None:
    done = CliRunner().invoke(main, ["train", model, "--epochs", "1"])
    assert done.exit_code == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
