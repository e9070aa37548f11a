"""Which language a recording is in, from a table that lies with the recordings.

``languages.csv`` in a data folder, or in the folder above it, has the columns ``path`` and ``language``.
A path is that of a folder or file below the folder of the table; the longest one that fits a recording
counts. Without such a table nothing is said about languages.
"""

import csv
from functools import lru_cache
from pathlib import Path

from telucodec.errors import TelucodecError
from telucodec.files import read_bytes

TABLE = "languages.csv"


def language_of(path: Path, source: Path) -> str:
    """The language of the recording ``path`` found in ``source``, itself or a folder; empty if unknown.

    The nearest table counts, from the folder of the recording up to the one above ``source`` (above the
    folder it lies in, if it is a file).

    Raises:
        TelucodecError: a table lacks a column.
    """
    path, source = path.absolute(), source.absolute()
    above = source.parent if source.is_dir() else source.parent.parent
    for folder in path.parents:
        if (folder / TABLE).is_file():
            known = _read(folder / TABLE)
            below = path.relative_to(folder)
            return next((known[item] for item in (below, *below.parents) if item in known), "")
        if folder == above:
            break
    return ""


@lru_cache(maxsize=16)
def _read(table: Path) -> dict[Path, str]:
    lines = list(csv.DictReader(read_bytes(table).decode("utf-8-sig").splitlines()))
    if lines and not {"path", "language"} <= lines[0].keys():
        raise TelucodecError(
            f"{table} has the columns {', '.join(map(str, lines[0]))}; expected path, language"
        )
    return {Path(line["path"].strip()): line["language"].strip() for line in lines}
