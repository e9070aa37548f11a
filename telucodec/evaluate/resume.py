"""Rows on the disk as they are measured, so that a run that was interrupted goes on where it stopped.

The file is JSON lines: first what the rows depend on, then every row as `report.row_object` gives it, with
the recording it belongs to. A line that was cut off is dropped; rows of other settings are refused.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from telucodec.errors import TelucodecError
from telucodec.evaluate.report import Row, row_from_object, row_object
from telucodec.files import read_bytes

Key = tuple[str, int, str]
"""Recording, its size in bytes, system: what a row is found by."""


class RowsFile:
    """The rows of one set of settings; those that were there already are in ``done``."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        """Open or begin ``path``; `TelucodecError` if it holds something else or cannot be written."""
        self.path = path
        self.done: dict[Key, Row] = {}
        data = read_bytes(path) if path.exists() else b""
        n_whole = data.rfind(b"\n") + 1
        try:
            lines = [json.loads(line) for line in data[:n_whole].splitlines()]
            if lines and lines[0].get("settings") != settings:
                raise TelucodecError(
                    f"{path} holds rows of other settings ({json.dumps(lines[0].get('settings'))}, now "
                    f"{json.dumps(settings)}); name another file"
                )
            for line in lines[1:]:
                key = (line.pop("source"), line.pop("source_bytes"), line["system"])
                self.done[key] = row_from_object(line)
        except (ValueError, KeyError, AttributeError) as error:
            raise TelucodecError(f"{path} is not a file of rows to go on with; name another file") from error
        self._write(data[:n_whole] or _line({"settings": settings}), mode="wb")

    def find(self, source: Path, system: str) -> Row | None:
        """The row that was measured already."""
        return self.done.get((*_identity(source), system))

    def add(self, source: Path, rows: Iterable[Row]) -> None:
        """Write rows of a recording to the disk."""
        name, n_bytes = _identity(source)
        objects = [row_object(row) | {"source": name, "source_bytes": n_bytes} for row in rows]
        self._write(b"".join(map(_line, objects)), mode="ab")

    def _write(self, data: bytes, *, mode: str) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open(mode) as file:
                file.write(data)
        except OSError as error:
            raise TelucodecError(
                f"cannot write {self.path}: {error.strerror}; choose another place"
            ) from error


def _identity(source: Path) -> tuple[str, int]:
    return str(source.resolve()), source.stat().st_size if source.exists() else 0


def _line(item: dict[str, Any]) -> bytes:
    return json.dumps(item, allow_nan=False).encode() + b"\n"
