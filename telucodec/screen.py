"""The console: what is printed where. Opened by the command line, and like it allowed to print.

Results go to stdout, at their own width, so that they can be piped; progress, remarks and errors go to
stderr.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self, TypeVar

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from telucodec.bitstream.parser import Summary
from telucodec.errors import TelucodecError

T = TypeVar("T")
err = Console(stderr=True)
MAX_WARNINGS = 5  # about one stream
WIDEST = 10_000  # characters; long lines are for the terminal to wrap


class TrainingScreen:
    """What a person sees of a run, on stderr: lines that stay, and one progress line at the bottom."""

    def __init__(self) -> None:
        columns = (
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        self._bar = Progress(*columns, console=err, disable=not err.is_terminal)
        self._task: TaskID | None = None
        self._warnings = RichHandler(console=err, show_time=False, show_level=False, show_path=False)

    def __enter__(self) -> Self:
        logging.getLogger("telucodec").addHandler(self._warnings)
        self._bar.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._bar.stop()
        logging.getLogger("telucodec").removeHandler(self._warnings)

    def line(self, text: str) -> None:
        """A line that stays."""
        remark(text)

    def progress(self, step: int, n_steps: int, values: dict[str, float]) -> None:
        """Move the bar; ``values`` are the figures of the last batch and the last validation."""
        shown = {"loss": "train/total", "SNR": "train/snr_db", "range ratio": "train/range_ratio"}
        text = "  ".join(f"{title} {values[key]:.3g}" for title, key in shown.items() if key in values)
        if self._task is None:  # made here, so that a resumed run's ETA counts its own steps only
            self._task = self._bar.add_task(text, total=n_steps, completed=step)
        self._bar.update(self._task, total=n_steps, completed=step, description=text)


def complain(error: TelucodecError) -> None:
    """One line on stderr, in red: something was not done."""
    err.print(f"[bold red]error:[/] {escape(' '.join(str(error).split()))}", soft_wrap=True, highlight=False)


def remark(text: str) -> None:
    """One line on stderr: something worth knowing about what was done."""
    err.print(escape(text), soft_wrap=True, highlight=False)


def progress(items: Iterable[T], n_items: int, verb: str) -> Iterator[T]:
    """A bar on stderr while ``items`` are made; nothing where no person is watching."""
    with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
        yield from bar.track(items, total=n_items, description=verb)


def warn_of_damage(name: str, summary: Summary) -> None:
    """One line for each place that was bridged, the first few by themselves."""
    for damage in summary.damages[:MAX_WARNINGS]:
        remark(f"warning: {name}: {damage}; bridged" if damage.n_packets else f"warning: {name}: {damage}")
    if len(summary.damages) > MAX_WARNINGS:
        remark(f"warning: {name}: {len(summary.damages) - MAX_WARNINGS} more damaged places; see `info`")


def show_facts(facts: dict[str, Any], as_json: bool) -> None:
    """Named figures on stdout, for a program or for a person."""
    if as_json:
        print(json.dumps(facts))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {cell(value)}")


def show_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, n_left: int = 1) -> None:
    """A table on stdout at its own width, no figure folded: ``n_left`` columns of text, the others right."""
    table = Table(box=None, pad_edge=False)
    for index, title in enumerate(header):
        table.add_column(escape(title), justify="left" if index < n_left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    console = Console(width=WIDEST)
    console.print(table, highlight=False, crop=False)


def cell(value: Any) -> str:
    """A figure as a person reads it; "-" for one that is not defined."""
    if value is None or value == []:
        return "-"
    if isinstance(value, list):
        return "; ".join(map(str, value))
    return f"{value:.3f}" if isinstance(value, float) else str(value)
