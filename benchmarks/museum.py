"""The museum of failures: re-create each one on the real trainer, and see whether the doctor names it.

    python benchmarks/museum.py [--data-dir data/clips] [--only NAME ...] [--live] [--healthy SEEDS --steps N]

Each exhibit of configs/faults/museum.toml is a run of `telucodec train` on a small model, with the preflight,
or with --live without it, where the rules have to find the fault in the run. Prints a Markdown table; status
1 if an exhibit was missed or a healthy run raised an alarm.
"""

import argparse
import logging
import sys
import tempfile
import time
import tomllib
import warnings
from pathlib import Path
from typing import Any

from telucodec.config import Config, config_from_dict
from telucodec.train.diagnostics.diagnosis import Diagnosis, shown
from telucodec.train.run import Outcome, train_run

ROOT = Path(__file__).parents[1]
EXHIBITS = ROOT / "configs" / "faults" / "museum.toml"
MAX_STEPS = 300  # within which a failure must be named
SMALL: dict[str, Any] = {
    "model": {
        "width": 48, "fine_width": 24, "n_encoder_units": 1, "n_decoder_units": 2, "n_fine_units": 1,
        "latent_dim": 64, "quantizer": {"n_codebooks": 6, "codebook_size": 128},
    },
    "data": {"crop_s": 0.5, "validation_share": 0.3, "speed_chance": 0.0, "reverb_chance": 0.0},
    "optim": {"n_warmup_steps": 30},
    "train": {
        "n_steps": MAX_STEPS, "batch_size": 4, "device": "cpu", "precision": "32-true", "log_every": 5,
        "validate_every": 1000, "save_every": 50, "n_validation_clips": 2, "validation_kbps": [1.5],
        "best_metric": "mel@1.5", "entropy_minutes": 0.1,
    },
    "doctor": {"reaction": "stop"},
}  # fmt: skip


class Silence:
    """Shows nothing: the table says it all."""

    def line(self, text: str) -> None: ...
    def progress(self, step: int, n_steps: int, values: dict[str, float]) -> None: ...


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """``change`` over ``base``, table by table."""
    both = dict(base)
    for name, value in change.items():
        is_table = isinstance(value, dict) and isinstance(both.get(name), dict)
        both[name] = merged(both[name], value) if is_table else value
    return both


def exhibits(path: Path = EXHIBITS) -> dict[str, tuple[list[str], dict[str, Any]]]:
    """Expected ids and settings by name."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    return {name: (table.pop("expect"), table) for name, table in tables.items()}


def show(settings: dict[str, Any], data_dir: Path, *, skip_preflight: bool) -> Outcome:
    """One run of the small model with ``settings`` over the healthy ones."""
    config = config_from_dict(Config, merged(SMALL, settings))
    with tempfile.TemporaryDirectory() as folder:
        return train_run(config, data_dir, Path(folder) / "run", Silence(), skip_preflight=skip_preflight)


def row(name: str, outcome: Outcome, expected: list[str], seconds: float) -> tuple[bool, str]:
    """Whether the first diagnosis is an expected one, and the line of the table."""
    first: Diagnosis | None = outcome.diagnoses[0] if outcome.diagnoses else None
    if first is None:
        return False, f"| {name} | none | {outcome.step} | {seconds:.0f} | |"
    is_right = first.id in expected and first.step <= MAX_STEPS
    when = str(first.step) if first.step else "preflight"
    facts = ", ".join(f"{key} {shown(value)}" for key, value in first.evidence.items())
    return (
        is_right,
        f"| {name} | {'' if is_right else 'wrong: '}{first.id} | {when} | {seconds:.0f} | {facts} |",
    )


def visit(data_dir: Path, chosen: list[str], *, is_live: bool) -> bool:
    """Print the table of all exhibits; False if one was missed."""
    print("| fault | diagnosis | step | seconds | evidence |\n|---|---|---|---|---|", flush=True)
    results = []
    for name, (expected, settings) in exhibits().items():
        if chosen and name not in chosen:
            continue
        began = time.monotonic()
        outcome = show(settings, data_dir, skip_preflight=is_live)
        is_right, line = row(name, outcome, expected, time.monotonic() - began)
        results.append(is_right)
        print(line, flush=True)
    print(f"\n{sum(results)} of {len(results)} named rightly within {MAX_STEPS} steps.\n", flush=True)
    return all(results)


def healthy(data_dir: Path, n_seeds: int, n_steps: int) -> bool:
    """Print the alarms of healthy runs, one line per seed; False if there is one."""
    print("| seed | steps | alarms |\n|---|---|---|", flush=True)
    alarms = 0
    for seed in range(n_seeds):
        outcome = show({"train": {"seed": seed, "n_steps": n_steps}}, data_dir, skip_preflight=False)
        alarms += len(outcome.diagnoses)
        told = "; ".join(diagnosis.line() for diagnosis in outcome.diagnoses) or "none"
        print(f"| {seed} | {outcome.step} | {told} |", flush=True)
    return not alarms


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, default=ROOT / "data" / "clips")
    parser.add_argument("--only", nargs="*", default=[], help="exhibits to visit")
    parser.add_argument(
        "--live", action="store_true", help="skip the preflight: the run's rules must find it"
    )
    parser.add_argument("--healthy", type=int, default=0, metavar="SEEDS", help="healthy runs instead")
    parser.add_argument("--steps", type=int, default=1000, help="length of the healthy runs")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    if options.healthy:
        return 0 if healthy(options.data_dir, options.healthy, options.steps) else 1
    return 0 if visit(options.data_dir, options.only, is_live=options.live) else 1


if __name__ == "__main__":
    sys.exit(main())
