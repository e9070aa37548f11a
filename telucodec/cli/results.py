"""How the results of many files are shown, and what they mean for the exit status."""

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

import typer

from telucodec.screen import cell, complain, progress, remark, show_table, warn_of_damage

if TYPE_CHECKING:
    from telucodec.pipeline import Failure, FileReport

T = TypeVar("T")

REPORT_COLUMNS = {  # title -> key of `FileReport.describe`
    "file": "target",
    "seconds": "seconds",
    "codebooks": "n_codebooks",
    "bytes": "file_bytes",
    "file kbps": "file_kbps",
    "payload kbps": "payload_kbps",
    "work s/s": "real_time_factor",
}


def conclude(n_failed: int, n_files: int) -> None:
    """Status 1 if any file could not be used."""
    if n_failed:
        if n_files > 1:
            remark(f"{n_failed} of {n_files} files could not be used")
        raise typer.Exit(1)


def part(results: "Iterable[T | Failure]") -> "tuple[list[T], list[Failure]]":
    """Collect results; failures are complained about as they come and collected apart."""
    from telucodec.pipeline import Failure

    done: list[T] = []
    failures: list[Failure] = []
    for result in results:
        if isinstance(result, Failure):
            complain(result.error)
            failures.append(result)
        else:
            done.append(result)
    return done, failures


def show_reports(reports: "Iterable[FileReport | Failure]", n_files: int, verb: str, as_json: bool) -> None:
    """Show files as they are done; status 1 at the end if any of them could not be used."""
    done, failures = part(shown(progress(reports, n_files, verb), as_json))
    if done and not as_json:
        facts = [report.describe() for report in done]
        show_table(list(REPORT_COLUMNS), [[cell(f[key]) for key in REPORT_COLUMNS.values()] for f in facts])
    conclude(len(failures), n_files)


def shown(reports: "Iterable[FileReport | Failure]", as_json: bool) -> "Iterator[FileReport | Failure]":
    """Say what was done to each recording, and print its line at once where a program is reading."""
    from telucodec.pipeline import FileReport

    for report in reports:
        if isinstance(report, FileReport):
            if report.changes:
                remark(f"{report.source}: {report.changes}")
            warn_of_damage(str(report.source), report.summary)
            if as_json:
                typer.echo(json.dumps(report.describe()))
        yield report
