"""A process that keeps its pages uses them again, and gives them back before it grows too large."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from snntorch_stbp import memory

needs_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="about glibc's allocator"
)


def printed(script: str, *arguments: str, **variables: str) -> str:
    """What `script` prints in a process of its own, whose allocator nobody else has tuned."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC", "GLIBC"))}
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(
        command, env=plain | variables, capture_output=True, text=True, check=True
    )
    return done.stdout


FAULTS = """
import os, resource, sys
import torch
from snntorch_stbp.memory import keep_pages

kept = sys.argv[1] == "keep" and keep_pages()

def faults() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()  # until it is settled where torch's own small objects lie
faults()
print(int(kept), faults())
"""


@needs_glibc
def test_kept_pages_are_used_again() -> None:
    def run(word: str, **variables: str) -> tuple[bool, int]:
        kept, faults = map(int, printed(FAULTS, word, **variables).split())
        return bool(kept), faults

    kept, few = run("keep")
    _, many = run("leave")
    assert kept
    assert few < many / 10
    tuned = "from snntorch_stbp.memory import keep_pages; print(keep_pages())"
    assert printed(tuned, MALLOC_ARENA_MAX="2") == "False\n"  # who tunes it is left alone


GROWTH = """
import torch
from snntorch_stbp.memory import KeptPages
from snntorch_stbp.memory.pages import resident

pages = KeptPages()
first = pages.settle(), resident()
large = [torch.ones(10_000_000) for _ in range(20)]
del large
grown = resident()
print(int(pages.kept), int(first[0]), int(pages.settle()), int(pages.settle()))
print(first[1] >> 20, grown >> 20, resident() >> 20)
"""


@needs_glibc
def test_kept_pages_go_back_where_the_process_has_grown() -> None:
    answers, sizes = printed(GROWTH).splitlines()
    assert answers == "1 0 1 0"
    before, grown, after = map(int, sizes.split())
    assert grown > before + 700
    assert after < before + 200


def test_other_allocators_keep_what_they_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snntorch_stbp.memory.pages.ctypes.CDLL", lambda _: object())
    assert not memory.keep_pages()
