"""SIGTERM and SIGINT while a run is on: remembered, so that the loop can save first."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def signals_caught() -> Iterator[list[str]]:
    """Collect SIGTERM and SIGINT by name, so that the loop saves first; a second one acts at once."""
    caught: list[str] = []
    previous: dict[signal.Signals, Callable[..., Any] | int | None] = {}

    def remember(number: int, frame: object) -> None:
        caught.append(signal.Signals(number).name)
        signal.signal(number, previous[signal.Signals(number)])

    for number in (signal.SIGTERM, signal.SIGINT):
        previous[number] = signal.signal(number, remember)
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
