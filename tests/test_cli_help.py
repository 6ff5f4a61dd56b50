"""Help, version and usage errors answer without importing torch; examples in the help work."""

import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import snntorch_stbp
from snntorch_stbp.cli import COMMANDS, main
from snntorch_stbp.cli.group import Command
from snntorch_stbp.train.config import RunConfig

HEAVY = {"torch", "brevitas", "snntorch", "lightning_fabric", "matplotlib", "sklearn", "numpy"}


def command(name: str) -> Command:
    found = main.get_command(click.Context(main), name)
    assert isinstance(found, Command)
    return found


PROGRAM = """
import sys
log = sys.argv.pop()
from snntorch_stbp.cli import main
try:
    main(prog_name="snntorch-stbp")
finally:
    with open(log, "w") as file:
        print(*sys.modules, file=file)
"""


def imported_by(args: list[str], folder: Path) -> tuple[int, str, set[str]]:
    """Exit code, stderr and heavy packages imported by a command line in its own process."""
    log = folder / "modules"
    run = [sys.executable, "-c", PROGRAM, *args, str(log)]
    done = subprocess.run(run, capture_output=True, text=True, cwd=folder)
    return done.returncode, done.stderr, set(log.read_text().split()) & HEAVY


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["train", "--help"], 0),
        (["datasets"], 0),
        (["runs"], 0),
        (["trian"], 2),
        (["train", "resnet81"], 2),
        (["train", "resnet18", "--bits", "9"], 2),
        (["train", "resnet18", "--dataset", "mnits"], 2),
        (["evaluate", "nowhere"], 1),
    ],
)
def test_quick_answers_do_not_import_torch(args, code, tmp_path):
    returned, stderr, heavy = imported_by(args, tmp_path)
    assert returned == code, stderr
    assert heavy == set()


def test_version():
    result = CliRunner().invoke(main, ["--version"])
    assert result.exit_code == 0
    assert result.output == f"snntorch-stbp {snntorch_stbp.__version__}\n"


def test_help_lists_every_command_with_its_line():
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for name, line in COMMANDS.items():
        assert f"{name:<10}{line}" in result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_ends_with_examples(name):
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert f"snntorch-stbp {name}" in result.output.split("Example")[-1]
    assert max(map(len, result.output.splitlines())) <= 84


@pytest.mark.parametrize(
    "line", [line for name in COMMANDS for line in command(name).example.splitlines()]
)
def test_examples_are_valid_command_lines(line):
    program, name, *args = shlex.split(line)
    assert program == "snntorch-stbp"
    command(name).make_context(name, args)


def test_every_option_of_train_has_help_in_a_section():
    text = CliRunner().invoke(main, ["train", "--help"]).output
    for section in ("Precision", "Data", "Neuron", "Training", "Device", "Run"):
        assert f"\n{section}:\n" in text
    for param in command("train").params:
        assert isinstance(param, click.Argument) or param.help, param.name


def test_train_offers_every_field_of_a_configuration():
    offered = {param.name for param in command("train").params}
    missing = {field.name for field in fields(RunConfig)} - offered
    # --per-tensor, --no-nesterov, --no-cuda-graphs; written by the program
    assert missing == {"per_channel", "nesterov", "cuda_graphs", "split_seed", "version"}
