"""What is typed after `train` becomes the configuration of the run."""

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from snntorch_stbp.cli import main
from snntorch_stbp.errors import StbpError
from snntorch_stbp.train import loop
from snntorch_stbp.train.config import RunConfig


@pytest.fixture
def fitted(monkeypatch):
    """A function that runs `train` and returns what `fit` was called with."""

    def invoke(*args: str) -> tuple[RunConfig, dict[str, object]]:
        calls = []
        monkeypatch.setattr(loop, "fit", lambda config, **rest: calls.append((config, rest)))
        result = CliRunner().invoke(main, ["train", *args])
        assert result.exit_code == 0, result.output
        return calls[0]

    return invoke


def test_without_options_the_recipe_decides(fitted):
    config, rest = fitted("resnet18")
    assert config == RunConfig.from_recipe("resnet18", "digits")
    assert (rest["out"], rest["resume"]) == (Path("runs"), None)


@pytest.mark.parametrize(
    ("args", "field", "value"),
    [
        ("--bits 4", "bits", 4),
        ("--bits 1", "bits", 1),
        ("--bits Ternary", "bits", "ternary"),
        ("--bits 32", "bits", None),
        ("--act-bits 8", "act_bits", 8),
        ("--act-bits 32", "act_bits", None),
        ("--membrane-bits 6", "membrane_bits", 6),
        ("--input-bits 4", "input_bits", 4),
        ("--input-bits 32", "input_bits", None),
        ("--bits 4 --boundary-bits 8", "boundary_bits", 8),
        ("--bits 4 --per-tensor", "per_channel", False),
        ("--bits 4 --scale po2", "scale", "po2"),
        ("--dataset npz:a/b.npz", "dataset", "npz:a/b.npz"),
        ("--data-dir d", "data_dir", "d"),
        ("--download", "download", True),
        ("--image-size 16", "image_size", 16),
        ("--augment crop,flip", "augment", ("crop", "flip")),
        ("--augment none", "augment", ()),
        ("--val-fraction 0.2", "val_fraction", 0.2),
        ("--validate-on-test", "validate_on_test", True),
        ("--steps 4", "steps", 4),
        ("--beta 0", "beta", 0.0),
        ("--threshold 1", "threshold", 1.0),
        ("--surrogate gaussian", "surrogate", "gaussian"),
        ("--readout population", "readout", "population"),
        ("--epochs 3", "epochs", 3),
        ("--batch-size 16", "batch_size", 16),
        ("--lr 1e-2", "lr", 0.01),
        ("--optimizer sgd", "optimizer", "sgd"),
        ("--weight-decay 0", "weight_decay", 0.0),
        ("--schedule constant", "schedule", "constant"),
        ("--warmup-epochs 0", "warmup_epochs", 0),
        ("--loss tet", "loss", "tet"),
        ("--label-smoothing 0.1", "label_smoothing", 0.1),
        ("--clip-grad 2", "clip_grad", 2.0),
        ("--clip-grad 0", "clip_grad", None),
        ("--bits 4 --weight-range max", "weight_range", "max"),
        ("--surrogate-centre zero", "surrogate_centre", "zero"),
        ("--init torch", "init", "torch"),
        ("--recipe seed", "recipe", "seed"),
        ("--recipe seed", "momentum", 0.0),
        ("--recipe seed --epochs 2", "epochs", 2),
        ("--teacher runs/a-1", "teacher", ("runs/a-1",)),
        ("--teacher runs/A-1,b-2", "teacher", ("runs/A-1", "b-2")),
        ("--teacher runs/a-1 --distill-weight 0.9", "distill_weight", 0.9),
        ("--teacher runs/a-1 --temperature 2", "temperature", 2.0),
        ("--mixup 0.2", "mixup", 0.2),
        ("--mixup 0", "mixup", None),
        ("--augment crop,cutout --refine-epochs 3", "refine_epochs", 3),
        ("--ema 0.999", "ema", 0.999),
        ("--ema 0", "ema", None),
        ("--optimizer sgd --momentum 0.5", "momentum", 0.5),
        ("--optimizer sgd --no-nesterov", "nesterov", False),
        ("--init-from runs/a-1", "init_from", "runs/a-1"),
        ("--seed 7", "seed", 7),
        ("--device cpu", "device", "cpu"),
        ("--precision bf16-mixed", "precision", "bf16-mixed"),
        ("--devices 2", "devices", 2),
        ("--num-nodes 2", "num_nodes", 2),
        ("--workers 3", "workers", 3),
        ("--compile", "compile", True),
    ],
)
def test_each_option_sets_its_field(fitted, args, field, value):
    config, _ = fitted("mnistnet", *args.split())
    assert getattr(config, field) == value
    assert config.model == "mnistnet"


def test_zero_image_size_overrides_a_recipe_that_resizes(fitted):
    assert RunConfig.from_recipe("vgg11", "digits").image_size == 32
    assert fitted("vgg11", "--image-size", "0")[0].image_size is None


def test_the_terminal_is_given_back_when_training_fails(monkeypatch):
    closed = []

    def fit(config: RunConfig, **rest: object) -> None:
        raise StbpError("the loss became nan.")

    class Reporter:
        def close(self) -> None:
            closed.append(True)

    monkeypatch.setattr(loop, "fit", fit)
    CliRunner().invoke(main, ["train", "--help"])  # imports the module
    module = sys.modules["snntorch_stbp.cli.train"]
    monkeypatch.setattr(module, "make_reporter", lambda *_: Reporter())
    result = CliRunner().invoke(main, ["train", "mnistnet"])
    assert (result.exit_code, result.stderr) == (1, "Error: the loss became nan.\n")
    assert closed == [True]


def test_a_batch_that_processes_cannot_share_is_refused_before_they_start(tmp_path, monkeypatch):
    monkeypatch.setattr("snntorch_stbp.train.launch.Fabric", None)
    command = ("train", "mnistnet", "--device", "cpu", "--out", str(tmp_path), "--batch-size", "33")
    for processes in ("2", "5"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)  # as torchrun says
        result = CliRunner().invoke(main, command)
        sentence = f"A batch of 33 cannot be shared by {processes} processes evenly; choose a multi"
        assert (result.exit_code, sentence in result.stderr) == (2, True), result.output
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    result = CliRunner().invoke(main, [*command, "--devices", "2"])
    assert "shared by 2 processes evenly" in result.stderr
    assert not list(tmp_path.iterdir())
