"""Bad input on the command line gives one sentence, the right exit code and no traceback."""

from dataclasses import replace

import pytest
from click.testing import CliRunner

from snntorch_stbp.cli import main
from snntorch_stbp.train.config import RunConfig
from snntorch_stbp.train.run.rundir import RunDir


def fail(*args: str, code: int = 2) -> str:
    """The last line on stderr of a command line that fails with `code`; stdout stays empty."""
    result = CliRunner().invoke(main, args)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr.strip().splitlines()[-1]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(tmp_path):
    config = RunConfig.from_recipe("mnistnet", "digits", bits=4, epochs=3)
    folder = RunDir.create(tmp_path / "runs", config)
    folder.write_history([{"epoch": n, "val_accuracy": 0.5} for n in (1, 2)])
    return folder


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["trian", "resnet18"], "'trian' is no command. Did you mean 'train'?"),
        (["xyz"], "'xyz' is no command. Choose one of train, sweep, allocate,"),
        (["train", "resnt18"], "'resnt18'"),
        (["train", "resnt18"], "Did you mean 'resnet18'?"),
        (["train", "resnet18", "--dataset", "mnits"], "'mnits'"),
        (["train", "resnet18", "--dataset", "mnits"], "Did you mean 'mnist'?"),
        (["train", "resnet18", "--dataset", "npz"], "'npz' needs a path"),
        (["train", "resnet18", "--augment", "flop"], "Did you mean 'flip'?"),
        (["train", "resnet18", "--augment", "flip:2"], "'flip' takes no amount, but 'flip:2'"),
        (
            ["train", "resnet18", "--augment", "crop:1.5"],
            "The amount of 'crop:1.5' is a whole number of pixels above 0, such as crop:2.",
        ),
        (
            ["train", "mnistnet", "--augment", "elastic:9"],
            "elastic:9 folds too many images of 8 pixels: give up to 0.571 pixels, or elastic",
        ),
        (
            ["train", "mnistnet", "--optimizer", "muon", "--momentum", "0.5"],
            "--momentum is for --optimizer sgd, not for muon.",
        ),
        (
            ["train", "mnistnet", "--bits", "ternary", "--weight-range", "learned"],
            "--weight-range learned is for weights of 2 to 8 bits, not for ternary: use fitted.",
        ),
        (
            ["sweep", "resnet18", "--augment", "rotate:much"],
            "The amount of 'rotate:much' is a number of degrees above 0, such as rotate:2.",
        ),
        (["train"], "name the model to train, such as `snntorch-stbp train resnet18`"),
        (["train", "resnet18", "--quiet", "--json"], "--quiet and --json exclude each other"),
        (
            ["train", "resnet18", "--recipe", "seed", "--bits", "1"],
            "--recipe seed is for weights of 2 bits and more, not for 1: give other --bits.",
        ),
        (
            ["sweep", "mnistnet", "--recipe", "seed"],
            "--recipe seed is for weights of 2 bits and more, not for ternary: give other --bits.",
        ),
        (
            ["train", "mnistnet", "--recipe", "seed", "--bits", "1", "--weight-range", "learned"],
            "--weight-range learned is for weights of 2 to 8 bits, not for 1: use fitted.",
        ),
        (
            ["train", "mnistnet", "--seed", "99999999999"],
            "--seed lies between 0 and 4294967295, not 99999999999.",
        ),
        (
            ["train", "mnistnet", "--epochs", "99999999"],
            "--epochs lies between 1 and 1000000, not 99999999.",
        ),
        (["sweep", "resnet18", "--recipe", "sed"], "'sed' is not one of 'standard', 'seed'"),
        (
            ["train", "mnistnet", "--teacher", "runs/x", "--device", "cpu"],
            "--teacher 'runs/x' cannot be used: there is no run folder 'runs/x'",
        ),
        (
            ["train", "mnistnet", "--membrane-bits", "6", "--learn-threshold"],
            "--learn-threshold moves thresholds away from the levels of --membrane-bits",
        ),
        (
            ["train", "mnistnet", "--scale", "po2"],
            "--scale is for quantized networks: give --bits, or leave it out.",
        ),
        (
            ["train", "mnistnet", "--init", "torch", "--init-from", "nowhere"],
            "--init is of new weights, --init-from has others: leave either out.",
        ),
        (
            ["train", "mnistnet", "--teacher", "nowhere", "--distill-weight", "0"],
            "a --distill-weight of 0 teaches nothing: leave --teacher out.",
        ),
        (["train", "resnet18", "--teacher", ","], "name the folder of a run, such as runs/"),
        (
            ["train", "resnet18", "--weight-range", "learned"],
            "--weight-range is for quantized weights: give --bits, or leave it out.",
        ),
        (
            ["sweep", "resnet18", "--bits", "32", "--per-tensor"],
            "--per-tensor is for quantized weights: give --bits, or leave it out.",
        ),
        (
            ["train", "resnet18", "--boundary-bits", "8"],
            "--boundary-bits is for quantized weights: give --bits, or leave it out.",
        ),
        (
            ["sweep", "resnet18", "--bits", "32", "--boundary-bits", "8"],
            "--boundary-bits is for quantized weights: give --bits, or leave it out.",
        ),
        (["train", "resnet18", "--temperature", "2"], "--temperature needs a --teacher."),
        (["sweep", "resnet18", "--temperature", "2"], "--temperature needs a --teacher."),
        (
            ["train", "resnet18", "--spike-rate-weight", "2"],
            "--spike-rate-weight needs a --spike-rate-target.",
        ),
        (
            ["train", "resnet18", "--spike-rate-target", "0.1", "--compile"],
            "--spike-rate-target watches the network's own neurons: leave it or --compile out.",
        ),
        (
            ["train", "resnet18", "--augment", "crop:2,flip", "--refine-epochs", "2"],
            "--refine-epochs leaves out mixup and what --augment does besides crop and flip: give",
        ),
        (["train", "resnet18", "--distill-weight", "1"], "--distill-weight needs a --teacher."),
        (["train", "resnet18", "--momentum", "0.5"], "--momentum is for --optimizer sgd, not for"),
        (["train", "resnet18", "--no-nesterov"], "--no-nesterov is for --optimizer sgd, not for"),
        (
            ["train", "resnet18", "--save-memory", "--compile"],
            "--save-memory does not reach into a compiled network: leave it or --compile out.",
        ),
        (
            ["train", "resnet18", "--checkpoint-activations", "--compile"],
            "--checkpoint-activations does not reach into a compiled network",
        ),
        (
            ["train", "resnet18", "--checkpoint-activations", "--frozen-aware", "--init-from", "x"],
            "checkpoint-activations is for the trained network's own blocks",
        ),
        (
            ["train", "resnet18", "--validate-on-test", "--val-fraction", "0.5"],
            "--val-fraction holds images out, --validate-on-test none: leave one out.",
        ),
        (
            ["train", "resnet18", "--num-nodes", "2"],
            "--num-nodes 2 needs to know the other machines: start it on each of them with torchrun"
            " or SLURM, or set MASTER_ADDR, MASTER_PORT and NODE_RANK there.",
        ),
        (
            ["train", "mnistnet", "--dataset", "digits", "--augment", "cutout:8"],
            "cutout:8 leaves nothing of images of 8 pixels: give less than 8, or cutout alone.",
        ),
        (["train", "resnet18", "--bit", "4"], "No such option"),
        (["evaluate"], "Missing argument 'RUN'"),
        (["models", "vgg12"], "'vgg12'"),
        (["models", "--bits", "4"], "--bits chooses among the recipes of one model: name the"),
        (["evaluate", "x", "--split", "all"], "'all' is not one of 'test', 'val'"),
    ],
)
def test_usage_errors_name_the_value_and_what_is_right(args, sentence):
    assert sentence in fail(*args)


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--bits", "0", "'0' is no bit width here; use 1 to 8, ternary or 32 (floating point)."),
        ("--bits", "9", "'9' is no bit width here; use 1 to 8, ternary or 32 (floating point)."),
        ("--bits", "four", "'four' is no bit width here; use 1 to 8, ternary or 32"),
        ("--bits", "-4", "'-4' is no bit width here"),
        ("--act-bits", "1", "'1' is no bit width here; use 2 to 16 or 32 (floating point)."),
        ("--membrane-bits", "ternary", "'ternary' is no bit width here; use 2 to 16 or 32"),
        ("--input-bits", "9", "'9' is no bit width here; use 1 to 8 or 32"),
        ("--boundary-bits", "32", "'32' is no bit width here; use 2 to 8."),
        ("--steps", "0", "0 is too small; use 1 or more."),
        ("--steps", "two", "'two' is no whole number."),
        ("--epochs", "0", "0 is too small; use 1 or more."),
        ("--batch-size", "-1", "-1 is too small; use 1 or more."),
        ("--workers", "-1", "-1 is too small; use 0 or more."),
        ("--devices", "0", "0 is too small; use 1 or more."),
        ("--seed", "1.5", "'1.5' is no whole number."),
        ("--lr", "0", "0 is out of range; use a number above 0."),
        ("--lr", "nan", "nan is out of range; use a number above 0."),
        ("--lr", "fast", "'fast' is no number."),
        ("--weight-decay", "-1", "-1 is out of range; use a number of at least 0."),
        ("--beta", "1.5", "1.5 is out of range; use a number from 0 to 1."),
        ("--threshold", "inf", "inf is out of range; use a number above 0."),
        ("--optimizer", "adamv", "'adamv' is not one of 'adamw', 'adam', 'sgd'"),
        ("--device", "gpu", "'gpu' is not one of 'auto', 'cpu', 'cuda', 'mps'"),
        ("--precision", "16", "'16' is not one of '32', 'bf16-mixed', '16-mixed'"),
        ("--ema", "1", "1 is out of range; use a number from 0 to 0.999999."),
        ("--distill-weight", "2", "2 is out of range; use a number from 0 to 1."),
        ("--temperature", "0", "0 is out of range; use a number above 0."),
        ("--spike-rate-target", "2", "2 is out of range; use a number from 0 to 1."),
        ("--mixup", "-1", "-1 is out of range; use a number from 0 to 100."),
        ("--momentum", "1", "1 is out of range; use a number from 0 to 0.9999."),
        ("--scale", "log", "'log' is not one of 'float', 'po2'"),
    ],
)
def test_values_of_train_are_checked(option, value, sentence):
    assert f"Invalid value for '{option}': {sentence}" in fail("train", "resnet18", option, value)


@pytest.mark.parametrize("command", [["show"], ["evaluate"], ["train", "--resume"]])
def test_a_missing_run_is_a_failure(command):
    assert "there is no run folder 'runs/x'" in fail(*command, "runs/x", code=1)


@pytest.mark.parametrize("command", [["show"], ["evaluate"], ["train", "--resume"]])
def test_a_folder_that_is_no_run_is_a_failure(command, tmp_path):
    (tmp_path / "photos").mkdir()
    assert "'photos' is not the folder of a run" in fail(*command, "photos", code=1)


@pytest.mark.parametrize("command", [["show"], ["evaluate"], ["train", "--resume"]])
def test_a_damaged_configuration_is_a_failure(command, run):
    (run.path / "config.json").write_text('{"model": ')
    assert "config.json" in fail(*command, str(run.path), code=1)


def test_best_weights_that_were_not_kept_are_gone(run):
    run.write_text("config.json", run.changed(select="last").to_json())
    sentence = "has not kept the best: --select last cannot change to --select best; leave that"
    assert sentence in fail("train", "--resume", str(run.path), "--select", "best")


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--bits", "2"], "was begun with --bits 4, which cannot change to --bits 2"),
        (["--bits", "32"], "was begun with --bits 4, which cannot change to --bits 32"),
        (["--steps", "4"], "was begun with --steps 2, which cannot change to --steps 4"),
        (["--dataset", "mnist"], "with --dataset digits, which cannot change to --dataset mnist"),
        (["vgg11"], "with the model mnistnet, which cannot change to the model vgg11"),
        (["--input-bits", "32"], "--input-bits 8, which cannot change to --input-bits 32"),
        (["--augment", "flip"], "--augment none, which cannot change to --augment flip"),
        (["--image-size", "16"], "--image-size 0, which cannot change to --image-size 16"),
        (["--ema", "0.99"], "--ema 0, which cannot change to --ema 0.99"),
        (["--spike-rate-target", "0"], "with no --spike-rate-target, which cannot change to --spi"),
        (
            ["--boundary-bits", "8"],
            "with no --boundary-bits, which cannot change to --bounda",
        ),
        (["--init-from", "r"], "with no --init-from, which cannot change to --init-from r"),
        (["--no-nesterov"], "with no --no-nesterov, which cannot change to --no-nesterov"),
        (["--per-tensor"], "with no --per-tensor, which cannot change to --per-tensor"),
        (["--validate-on-test"], "with no --validate-on-test, which cannot change to"),
        (["--select", "middle"], "'middle' is not one of 'best', 'last'"),
        (["--epochs", "1"], "has 2 epochs already; give --epochs a higher number, or none."),
    ],
)
def test_a_resumed_run_keeps_its_configuration(run, args, sentence):
    assert sentence in fail("train", "--resume", str(run.path), *args)


def test_a_resumed_run_stays_where_it_is(run):
    sentence = f"--resume goes on in '{run.path}' itself: leave --out out."
    assert sentence in fail("train", "--resume", str(run.path), "--out", "elsewhere")


@pytest.mark.parametrize("command", [["show"], ["inspect"], ["train", "--resume"], ["evaluate"]])
def test_a_path_that_the_system_refuses_is_named(command):
    assert f"cannot use '{'x' * 300}" in fail(*command, "x" * 300, code=1)


def test_options_that_agree_with_the_run_are_accepted(run):
    from snntorch_stbp.cli.train import _resumed_config

    given = {"model": "mnistnet", "bits": 4, "epochs": 5, "device": "cpu", "data_dir": "d"}
    expected = replace(run.config, epochs=5, device="cpu", data_dir="d")
    assert _resumed_config(run, given) == expected


def test_what_torchrun_sets_is_a_number(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "many")
    result = CliRunner().invoke(main, ["train", "mnistnet", "--epochs", "1"])
    assert result.exit_code == 2
    assert "LOCAL_WORLD_SIZE, which torchrun sets, is a number, not 'many'." in result.stderr
