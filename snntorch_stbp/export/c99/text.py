"""The files beside this one as text, and words that are safe in C."""

from __future__ import annotations

import re
from importlib.resources import files

from ...lowering.layers import IntNetwork


def template(name: str, **words: str) -> str:
    """A file beside this one, `@WORD@` replaced."""
    text = files(__package__).joinpath(name).read_text("utf-8")
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text


def plain(text: str) -> str:
    """Text that is safe in comments and strings."""
    return re.sub(r"[^A-Za-z0-9_.,:;=()+ -]", "_", text)


def remark(text: str) -> str:
    """Text that is safe in comments, and stays what it is where it begins and ends none."""
    line = "".join(c if c.isprintable() else "_" for c in text)
    return re.sub(r"\*/|/\*|\?\?/|\\$", "_", line)


def comment(net: IntNetwork, metadata: dict[str, str]) -> str:
    """The comment at the head of a header: how to use it, and what is said of the network."""
    words = {"form": net.form, "input": f"{net.input_bits} bits, one unit is {net.input_scale!r}"}
    lines = [f"   {remark(key)}: {remark(value)}\n" for key, value in {**metadata, **words}.items()]
    return template("head.h", WORDS="".join(lines).rstrip())
