"""What `export` is asked to write: options that exclude each other, and the name of the file."""

from __future__ import annotations

from typing import Any

from snntorch_stbp.errors import UsageError


def kind_of(options: dict[str, Any]) -> str:
    """What is written, as part of a file name.

    Raises:
        UsageError: If options exclude each other.
    """
    as_trained, fixed_point = options["as_trained"], options["fixed_point"]
    asked = [name for name in ("frozen", "as_trained", "fixed_point") if options[name]]
    if len(asked) > 1:
        first, second = (f"--{name.replace('_', '-')}" for name in asked[:2])
        raise UsageError(f"{first} and {second} exclude each other; choose one.")
    if options["arithmetic"] is not None and not fixed_point:
        raise UsageError("--arithmetic chooses how integers are made: it needs --fixed-point.")
    if options["act_bits"] is not None and (as_trained or fixed_point):
        other = "--as-trained" if as_trained else "--fixed-point"
        raise UsageError(f"--act-bits changes deployment arithmetic: {other} goes without it.")
    if fixed_point:
        check_integers(options)
    if as_trained:
        return "as-trained"
    target = str(options["target"])
    if fixed_point:
        return "fixed-point" if target == "generic" else f"fixed-point-{target}"
    return target


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
