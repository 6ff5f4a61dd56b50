"""The errors a user meets: one clear sentence each, and the exit code of the command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StbpError(Exception):
    """Something failed that the user can act on; the message is one sentence that says how."""

    exit_code = 1


class UsageError(StbpError):
    """A wrong value was asked for; the message names it and what would be right."""

    exit_code = 2


class Interrupted(StbpError):
    """Training was stopped by the user after its state was saved."""

    exit_code = 130


def suggest(name: str, choices: Iterable[str]) -> str:
    """A trailing `" Did you mean 'x'?"` for the closest of `choices`, or an empty string."""
    close = difflib.get_close_matches(name.lower(), list(choices), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
