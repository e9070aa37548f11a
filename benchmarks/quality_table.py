"""The tables of the README and the model cards, from figures that lie in the repository.

After new weights, with DEV a folder of clips that the weights never heard (keep what the files are named):

    telucodec eval DEV/cv-te DEV/librispeech DEV/mfa-tests DEV/msc-ml DEV/speechocean762 \\
        --kbps 1.6 3.2 6 9.2 --metrics all --resume rows.jsonl --json > eval.jsonl
    make tables ROWS=eval.jsonl

The second command stores the means of the rows as `telucodec/pretrained/speech-16k/figures.json`, with the
id of the weights they belong to, and rewrites every block between `<!-- table: NAME -->` and `<!-- end -->`
in README.md and in the model card. `make tables` alone rewrites the blocks from what is stored.

Other codecs are stored once, as `benchmarks/anchors.json`, over the same clips:

    python benchmarks/quality_table.py --rows eval.jsonl --anchors anchors.csv --origin "how they were made"

Tables: `quality` has a line for every system, `folder SYSTEM` and `language SYSTEM` one for every group.
"""

import argparse
import hashlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from telucodec.errors import TelucodecError
from telucodec.evaluate.anchors import read_stored
from telucodec.evaluate.report import Column, Row, Table, row_from_object, summarize
from telucodec.files import replacing

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "telucodec" / "pretrained" / "speech-16k"
FIGURES = MODEL / "figures.json"
ANCHORS = ROOT / "benchmarks" / "anchors.json"
PAGES = (ROOT / "README.md", MODEL / "README.md")
COLUMNS = (
    Column("payload_kbps", "kbps", ".2f"),
    Column("pesq_wb", "PESQ-WB", ".2f"),
    Column("stoi", "STOI", ".3f"),
    Column("visqol", "ViSQOL", ".2f"),
    Column("snr_db", "SNR dB", ".2f"),
    Column("si_sdr_db", "SI-SDR dB", ".2f"),
    Column("range_ratio", "range ratio", ".3f"),
)
WITH_INTERVAL = ("pesq_wb", "snr_db")
BLOCK = re.compile(r"(<!-- table: (?P<name>[^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)

Stored = dict[str, Any]
"""As in the files: ``groups`` of clips, each with ``by``, ``name``, ``system``, ``n_clips``, ``figures``."""


def main() -> None:
    """Store what is given, then rewrite the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path, help="what `telucodec eval --json` printed")
    parser.add_argument("--anchors", type=Path, help="CSV file of other codecs, as for --against-csv")
    parser.add_argument("--origin", help="of the anchors: who made them, when, how")
    arguments = parser.parse_args()
    try:
        rows = read_rows(arguments.rows) if arguments.rows else []
        if arguments.anchors:
            if not (rows and arguments.origin):
                parser.error("--anchors needs --rows, for the clips, and --origin")
            wanted = {column.name for column in COLUMNS}
            asked = [replace(row, missing=dict.fromkeys(wanted - row.metrics.keys(), "")) for row in rows]
            anchors = store(read_stored(arguments.anchors, (Path(row.clip) for row in rows)).rows_for(asked))
            write(ANCHORS, {"origin": arguments.origin, **anchors})
        if rows:
            write(FIGURES, {"model_id": model_id_of(rows), **store(rows)})
        for page in PAGES:
            write_text(page, render(page.read_text(encoding="utf-8"), *read_figures()))
    except TelucodecError as error:
        raise SystemExit(f"error: {error}") from error


def read_rows(path: Path) -> list[Row]:
    """The rows of our codec, without the summaries that stand behind them."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row_from_object(line) for line in lines if "summary_of" not in line and "settings" not in line]
    return [row for row in rows if row.n_codebooks]


def model_id_of(rows: Iterable[Row]) -> str:
    """The weights that made all rows; `TelucodecError` unless they are the shipped ones."""
    shipped = shipped_model_id()
    for row in rows:
        if row.model_id != shipped:
            raise TelucodecError(
                f"{row.clip} was measured with the weights {row.model_id or 'of an unknown id'}; "
                f"the shipped ones are {shipped}: run eval again"
            )
    return shipped


def shipped_model_id() -> str:
    """As the streams carry it: the first 8 bytes of the hash of the weights' file."""
    return hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest()[:16]


def store(rows: Iterable[Row]) -> Stored:
    """Means and intervals of the figures that the tables show, of every group of clips."""
    groups = []
    for summary in summarize(rows):
        known = {column.name: summary.figures.get(column.name) for column in COLUMNS}
        figures = {
            name: [round(value, 6) for value in (i.mean, i.low, i.high) if not math.isnan(value)]
            for name, i in known.items()
            if i is not None and i.n
        }
        groups.append(
            {
                "by": summary.by,
                "name": summary.folder,
                "system": summary.system,
                "n_clips": summary.n_clips,
                "figures": figures,
            }
        )
    return {"groups": groups}


def read_figures() -> tuple[Stored, Stored]:
    """What is stored of our codec and of others."""
    ours, others = (json.loads(path.read_text(encoding="utf-8")) for path in (FIGURES, ANCHORS))
    return ours, others


def render(text: str, ours: Stored, others: Stored) -> str:
    """``text`` with every block filled in; `TelucodecError` for a block that no figures are stored for."""
    return BLOCK.sub(lambda found: f"{found[1]}{table_of(found['name'], ours, others)}\n{found[3]}", text)


def table_of(name: str, ours: Stored, others: Stored) -> str:
    """A table in Markdown."""
    by, _, system = name.partition(" ")
    if by == "quality":
        groups = [group for group in ours["groups"] + others["groups"] if group["by"] == "all"]
        titled = {group["system"]: group for group in groups}
        head = "codec"
    else:
        groups = [group for group in ours["groups"] if (group["by"], group["system"]) == (by, system)]
        titled = {f"{group['name']} ({group['n_clips']})": group for group in groups}
        head = f"{by} (clips)"
    if not titled:
        raise TelucodecError(
            f"no figures are stored for the table {name!r}: run eval and `make tables ROWS=...`"
        )
    columns = [column for column in COLUMNS if any(column.name in g["figures"] for g in ours["groups"])]
    lines = [
        (title, *(cell(column, group["figures"].get(column.name)) for column in columns))
        for title, group in titled.items()
    ]
    return Table((head, *(column.title for column in columns)), tuple(lines)).to_markdown()


def cell(column: Column, values: list[float] | None) -> str:
    """A mean, that of the headline figures with its interval (one clip has none)."""
    mean, *interval = values or [math.nan]
    text = column.show(mean)
    if interval and column.name in WITH_INTERVAL:
        text += f" [{', '.join(map(column.show, interval))}]"
    return text


def write(path: Path, stored: Stored) -> None:
    """One line to a group, so that a change of figures reads as one."""
    groups = ",\n  ".join(json.dumps(group) for group in stored["groups"])
    head = "".join(
        f" {json.dumps(name)}: {json.dumps(value)},\n" for name, value in stored.items() if name != "groups"
    )
    write_text(path, f'{{\n{head} "groups": [\n  {groups}\n ]\n}}\n')


def write_text(path: Path, text: str) -> None:
    """Replace the whole file."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
