"""What every command shares: lazy loading, help in sections with an example, errors as sentences.

Sub-commands are imported when they are named, and heavy libraries by the commands themselves, so
that help, version and usage errors answer at once.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import click

from snntorch_stbp.errors import Interrupted, StbpError, suggest

from .text import clean, paragraph, terminal_width

_DEBUG = "snntorch_stbp.debug"


class Option(click.Option):
    """An option listed under the heading `section` in its command's help."""

    def __init__(self, *args: Any, section: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class Command(click.Command):
    """A command whose help lists options by section and ends with lines to copy."""

    def __init__(self, *args: Any, example: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.example = example

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, one block for each section, in the order of declaration."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = None if isinstance(param, click.Argument) else param.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(param, "section", "Options"), []).append(record)
        widest = max(len(option) for records in sections.values() for option, _ in records)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl([(f"{option:<{widest}}", text) for option, text in records])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example, one command a line."""
        lines = self.example.splitlines()
        with formatter.section("Examples" if len(lines) > 1 else "Example"):
            for line in lines:
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")


class LazyGroup(Command, click.Group):
    """A group whose sub-commands live in modules of their own, imported when they are named.

    Args:
        package: The package that holds one module per sub-command.
        table: Name of each sub-command (and of its module and function) -> line in the help.
    """

    def __init__(self, *args: Any, package: str, table: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.package = package
        self.table = table

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command line; where the shell closed stdout or stderr, nobody reads them."""
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:
                setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        return super().main(*args, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the sub-commands in the order of the table."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module `cmd_name` and take the command of that name from it."""
        if cmd_name not in self.table:
            return None
        command = getattr(importlib.import_module(f"{self.package}.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the sub-command, or fail with a close name."""
        name = args[0]
        if name not in self.table and not name.startswith("-") and not ctx.resilient_parsing:
            hint = suggest(name, self.table) or f" Choose one of {', '.join(self.table)}."
            ctx.fail(f"'{name}' is no command.{hint}")
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sub-commands, then the options."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.table.items()))
        super().format_options(ctx, formatter)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the sub-command; what goes wrong becomes one sentence and an exit code."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Interrupted as error:  # the reporter has said how to go on
            ctx.exit(error.exit_code)
        except Exception as error:
            if ctx.meta.get(_DEBUG):
                for line in traceback.format_exc().split("\n")[:-1]:
                    click.echo(clean(line), err=True)
            if isinstance(error, StbpError):
                # Processes beside the first one meet the same error and need not repeat it.
                if os.environ.get("LOCAL_RANK", "0") == "0":
                    _say(str(error))
                ctx.exit(error.exit_code)
            if isinstance(error, OSError) and error.filename and error.strerror:
                _say(f"cannot use '{error.filename}': {error.strerror}.")
                ctx.exit(1)
            hint = "" if ctx.meta.get(_DEBUG) else " (run again with --debug for the traceback)"
            _say(_unexpected(error, self._takes(ctx, "batch_size")) + hint)
            ctx.exit(1)

    def _takes(self, ctx: click.Context, name: str) -> bool:
        """Whether the command that runs has an option of that name."""
        command = self.get_command(ctx, ctx.invoked_subcommand or "")
        return command is not None and any(param.name == name for param in command.params)


def _say(sentence: str) -> None:
    """Write an error on stderr, wrapped where that is a terminal."""
    for line in paragraph("Error:", sentence, 7, terminal_width(sys.stderr)):
        click.echo(clean(line), err=True)


def _unexpected(error: Exception, batches: bool) -> str:
    """One line for an exception that nobody foresaw; whether batches can be made smaller."""
    kind = type(error).__name__
    if kind in ("OutOfMemoryError", "MemoryError") or "DefaultCPUAllocator" in str(error):
        return "out of memory" + "; a smaller --batch-size needs less." * batches
    lines = str(error).strip().splitlines()
    return f"{kind}: {lines[0]}" if lines else kind


def _remember_debug(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        ctx.meta[_DEBUG] = True


def debug_option() -> click.Option:
    """`--debug`, understood before the sub-command and after it."""
    return click.Option(
        ["--debug"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_remember_debug,
        help="Show the traceback of an error.",
    )


def json_option() -> click.Option:
    """`--json`."""
    return click.Option(["--json", "as_json"], is_flag=True, help="Print JSON, for programs.")


def command(example: str, *params: click.Parameter) -> Callable[[Callable[..., None]], Command]:
    """Declare a sub-command with its parameters and lines to copy; `--debug` is added to it."""
    return click.command(cls=Command, example=example, params=[*params, debug_option()])
