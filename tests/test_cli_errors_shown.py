"""How an error is shown: a line, its exit code, the traceback on demand, once for all processes."""

import subprocess
import sys

import click
import pytest
import torch
from click.testing import CliRunner

from snntorch_stbp.cli import evaluate as evaluate_module
from snntorch_stbp.cli import main
from snntorch_stbp.cli import verify as verify_module
from snntorch_stbp.errors import Interrupted, StbpError, UsageError


@pytest.fixture
def failing(monkeypatch):
    """A function that makes `evaluate` on a run raise an error and returns the result."""

    def invoke(error: BaseException, *args: str, before: tuple[str, ...] = ()) -> object:
        def raise_it(path: str) -> None:
            raise error

        monkeypatch.setattr(evaluate_module.RunDir, "open", raise_it)
        return CliRunner().invoke(main, [*before, "evaluate", "a-run", *args])

    return invoke


@pytest.mark.parametrize(
    ("error", "code"), [(StbpError("this is wrong."), 1), (UsageError("this is wrong."), 2)]
)
def test_an_error_is_one_line(failing, error, code):
    result = failing(error)
    assert (result.stderr, result.stdout) == ("Error: this is wrong.\n", "")
    assert result.exit_code == code


def test_what_a_file_says_does_not_steer_the_terminal(failing):
    said = "of '\x1b[2J\x1b]52;c;eA==\x07\u202ex', in Zürich,\nnot of \x9b31m雪."
    for error, code in ((StbpError(said), 1), (UsageError(said), 2)):
        result = failing(error, "--debug")
        last = result.stderr.splitlines()[-1]
        assert last == "Error: of '?[2J?]52;c;eA==??x', in Zürich, not of ?31m雪."
        assert {c for c in result.stderr if not c.isprintable()} == {"\n"}
        assert result.exit_code == code
    assert failing(ValueError(said)).stderr.startswith("Error: ValueError: of '?[2J?]52;c;eA==??x'")


def test_memory_of_the_processor_runs_out_in_one_line(failing):
    try:
        torch.empty(2**62, dtype=torch.int8)
    except RuntimeError as error:
        result = failing(error)
    assert result.stderr.startswith("Error: out of memory; a smaller --batch-size needs less. (run")
    assert result.exit_code == 1


def test_memory_is_saved_by_what_the_command_has(tmp_path, monkeypatch):
    def raise_it(path: str) -> None:
        raise MemoryError

    monkeypatch.setattr(verify_module.RunDir, "open", raise_it)
    (tmp_path / "x.onnx").touch()
    result = CliRunner().invoke(main, ["verify", str(tmp_path / "x.onnx"), "--run", "a-run"])
    assert result.stderr.startswith("Error: out of memory (run again with --debug")


def test_an_interruption_was_reported_already(failing):
    result = failing(Interrupted("stopped"))
    assert (result.output, result.exit_code) == ("", 130)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ZeroDivisionError("by zero\nmore"), "ZeroDivisionError: by zero"),
        (AssertionError(), "AssertionError"),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
        (MemoryError(), "out of memory; a smaller --batch-size needs less."),
    ],
)
def test_an_unexpected_error_is_one_line_too(failing, error, sentence):
    result = failing(error)
    hint = " (run again with --debug for the traceback)"
    assert (result.stderr, result.stdout) == (f"Error: {sentence}{hint}\n", "")
    assert result.exit_code == 1


def test_a_file_of_the_run_that_cannot_be_opened_is_named(failing):
    result = failing(IsADirectoryError(21, "Is a directory", "run/log.txt"))
    assert result.stderr == "Error: cannot use 'run/log.txt': Is a directory.\n"
    assert (result.stdout, result.exit_code) == ("", 1)


@pytest.mark.parametrize("where", ["before", "after"])
def test_debug_shows_the_traceback(failing, where):
    error = ZeroDivisionError("by zero")
    after = where == "after"
    result = failing(error, "--debug") if after else failing(error, before=("--debug",))
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.endswith("Error: ZeroDivisionError: by zero\n")
    assert result.exit_code == 1


def test_other_processes_do_not_repeat_an_error(failing, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    result = failing(StbpError("this is wrong."))
    assert (result.output, result.exit_code) == ("", 1)


def test_a_click_error_inside_a_command_keeps_its_code(failing):
    result = failing(click.UsageError("not so."))
    assert result.stderr.endswith("Error: not so.\n")
    assert result.exit_code == 2


@pytest.mark.parametrize(("closed", "seen"), [(">&-", ("", "E")), ("2>&-", ("O", ""))])
def test_a_closed_stream_is_one_that_nobody_reads(tmp_path, closed, seen):
    """As /dev/null: what a command says to the other one is seen, and no file takes its number."""
    program = (
        "import sys; from snntorch_stbp.cli import main; from snntorch_stbp.cli.text import *\n"
        "main(['runs', '--out', sys.argv[1]], standalone_mode=False)\n"
        "counter('O')(1, 2); terminal_width(); assert open(sys.argv[1]).fileno() > 2\n"
        "print('O', flush=True); print('E', file=sys.stderr)"
    )
    (tmp_path / "file").touch()
    command = f'exec "$0" -c "$1" "$2" {closed}'
    run = ["sh", "-c", command, sys.executable, program, str(tmp_path / "file")]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done
    assert (done.stdout.strip()[-1:], done.stderr.strip()) == seen
