"""Stopping a run from outside without losing the step it is at."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LISTENED = [signal.SIGINT, signal.SIGTERM, *filter(None, [getattr(signal, "SIGBREAK", None)])]
"""What asks a run to stop."""

SENT = getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM)
"""What asks a run in a process group of its own, which on Windows SIGTERM would kill."""


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second SIGINT does kill."""
    asked: list[int] = []

    def note(number: int, frame: Any) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    alone = threading.current_thread() is threading.main_thread()  # no other may listen
    before = {s: signal.signal(s, note) for s in LISTENED} if alone else {}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
