"""What `export` is asked to write: options that exclude each other, and the name of the file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from snntorch_stbp.errors import UsageError

from .export_text import DEFAULTS

GRAPHS = ("form", "target", "batch", "frozen", "as_trained", "act_bits")
"""Options of graphs, which say nothing of a folder of integers."""


def kind_of(options: dict[str, Any]) -> str:
    """What is written, as part of a file name.

    Raises:
        UsageError: If options exclude each other.
    """
    if options["format"] in ("folder", "c"):
        check_folder(options)
    elif wrong := given(["register_bits"], options):
        raise UsageError(
            f"{wrong[0]} is for --format folder and --format c: graphs hold 24 bits exactly."
        )
    as_trained, fixed_point = options["as_trained"], options["fixed_point"]
    asked = [name for name in ("frozen", "as_trained", "fixed_point") if options[name]]
    if len(asked) > 1:
        first, second = (f"--{name.replace('_', '-')}" for name in asked[:2])
        raise UsageError(f"{first} and {second} exclude each other; choose one.")
    if options["arithmetic"] is not None and not fixed_point:
        check_integers(options)
        raise UsageError("--arithmetic chooses how integers are made: it needs --fixed-point.")
    if options["act_bits"] is not None and (as_trained or fixed_point):
        other = "--as-trained" if as_trained else "--fixed-point"
        raise UsageError(f"--act-bits changes deployment arithmetic: {other} goes without it.")
    if fixed_point:
        check_integers(options)
    target = str(options["target"])
    if as_trained and target != "generic":
        raise UsageError(f"target {target} needs deployment arithmetic: leave out --as-trained.")
    if as_trained:
        return "as-trained"
    if fixed_point:
        return "fixed-point" if target == "generic" else f"fixed-point-{target}"
    return target


def check_folder(options: dict[str, Any]) -> None:
    """Refuse options of graphs for what is none, all of them at once.

    Raises:
        UsageError: For these, and without --fixed-point.
    """
    kind, needs = options["format"], not options["fixed_point"]
    wrong = given(GRAPHS, options)
    are = "is" if len(wrong) == 1 else "are"
    if needs and wrong:
        raise UsageError(
            f"--format {kind} writes integers: it needs --fixed-point, and goes without "
            f"{' and '.join(wrong)}, which {are} for graphs."
        )
    if needs:
        raise UsageError(f"--format {kind} writes integers: it needs --fixed-point.")
    if wrong:
        them = "it" if len(wrong) == 1 else "them"
        raise UsageError(
            f"{' and '.join(wrong)} {are} for graphs: --format {kind} goes without {them}."
        )


def given(names: Sequence[str], options: dict[str, Any]) -> list[str]:
    """Those of the options `names` that were given, as they are typed."""
    changed = (name for name in names if options[name] != DEFAULTS[name])
    return [f"--{name.replace('_', '-')}" for name in changed]


def check_integers(options: dict[str, Any]) -> None:
    """Refuse graphs of integers that FINN cannot compute.

    Raises:
        UsageError: For its target, and one step or one threshold.
    """
    if options["target"] != "finn":
        return
    for name, value in (("form", "step"), ("arithmetic", "simple")):
        if options[name] == value:
            raise UsageError(
                f"FINN has no floor, which --{name} {value} of integers needs: leave it out, or "
                f"take --target generic."
            )
