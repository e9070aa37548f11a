"""Markdown tables for the README and the model card from what `telucodec eval --json` printed.

    telucodec eval DEV/cv-te DEV/msc-ml ... --kbps 1.5 3 6 9 --json > rows.jsonl
    python benchmarks/quality_table.py rows.jsonl [--anchors anchors.csv] [--by-folder 6]

``--anchors`` adds other codecs measured on the same clips: one row per codec and clip with the columns
codec, clip, kbps, pesq, stoi, snr, sisdr, range_ratio. Clips that only one side has are refused.
"""

import argparse
import csv
import json
from collections.abc import Iterable
from pathlib import Path

from telucodec.evaluate.report import Interval, Table, mean_interval

COLUMNS = {  # title -> (key of a row of eval, key of a row of the anchors, format)
    "kbps": ("payload_kbps", "kbps", ".2f"),
    "PESQ-WB": ("pesq_wb", "pesq", ".2f"),
    "STOI": ("stoi", "stoi", ".3f"),
    "SNR dB": ("snr_db", "snr", ".2f"),
    "SI-SDR dB": ("si_sdr_db", "sisdr", ".2f"),
    "range ratio": ("range_ratio", "range_ratio", ".3f"),
}


def main() -> None:
    """Print the table of all clips, then that by folder if asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path)
    parser.add_argument("--anchors", type=Path)
    parser.add_argument("--by-folder", type=float, metavar="KBPS")
    arguments = parser.parse_args()
    lines = [json.loads(line) for line in arguments.rows.read_text().splitlines()]
    rows = [line for line in lines if "summary_of" not in line]
    systems = {}
    for rate in sorted({row["kbps_wanted"] for row in rows}):
        systems[f"telucodec {rate:g}"] = figures([row for row in rows if row["kbps_wanted"] == rate], 0)
    if arguments.anchors:
        systems |= anchors(arguments.anchors, {Path(row["clip"]).stem for row in rows})
    print(table("codec", systems).to_markdown())
    if arguments.by_folder is not None:
        chosen = [row for row in rows if row["kbps_wanted"] == arguments.by_folder]
        groups = {
            f"{folder} ({sum(row['folder'] == folder for row in chosen)})": figures(
                [row for row in chosen if row["folder"] == folder], 0
            )
            for folder in sorted({row["folder"] for row in chosen})
        }
        print()
        print(table("folder (clips)", groups).to_markdown())


def figures(rows: list[dict[str, float]], side: int) -> dict[str, Interval]:
    """Mean and interval of every column; ``side`` 0 reads rows of eval, 1 rows of the anchors."""
    found = {}
    for title, keys in COLUMNS.items():
        values = [row[str(keys[side])] for row in rows]
        found[title] = mean_interval([float(value) for value in values if value not in (None, "")])
    return found


def anchors(path: Path, clips: set[str]) -> dict[str, dict[str, Interval]]:
    """Means of each codec in the file over exactly ``clips``."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    codecs = dict.fromkeys(row["codec"] for row in rows)
    found = {}
    for codec in codecs:
        chosen = [row for row in rows if row["codec"] == codec]
        missing = clips ^ {row["clip"] for row in chosen}
        if missing:
            raise SystemExit(f"{codec}: {len(missing)} clips on one side only, such as {sorted(missing)[0]}")
        found[codec] = figures(chosen, 1)
    return found


def table(title: str, groups: dict[str, dict[str, Interval]]) -> Table:
    """One line per group; PESQ and SNR with their intervals."""
    return Table((title, *COLUMNS), tuple((name, *cells(found)) for name, found in groups.items()))


def cells(found: dict[str, Interval]) -> Iterable[str]:
    """Means as text, those of the headline figures with intervals."""
    for title, (_, _, form) in COLUMNS.items():
        interval = found[title]
        text = format(interval.mean, form)
        if title in ("PESQ-WB", "SNR dB"):
            text += f" [{interval.low:{form}}, {interval.high:{form}}]"
        yield text


if __name__ == "__main__":
    main()
