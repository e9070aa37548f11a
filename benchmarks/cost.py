"""What training costs: what a codec has learned after so many minutes of one core; JSON lines, table, plot.

    pip install 'transformers>=4.45'  # no dependency of telucodec; nothing is downloaded
    python benchmarks/cost.py usual --data-dir DATA --dev DEV --minutes 10 30 120
    python benchmarks/cost.py ours --data-dir DATA --dev DEV --minutes 10 30 120
    python benchmarks/cost.py "another name" --set TABLE.NAME=VALUE --data-dir DATA --dev DEV --minutes 10
    python benchmarks/cost.py --plot docs/cost.svg

`usual` is benchmarks/usual_stack.py; every other name is the configuration with what `--set` changes, from
random weights and k-means codebooks, as `telucodec train --skip-preflight`. All see the same batches.

A budget is processor time of the training process on one thread: batches, start of the codebooks, updates
and checkpoints count; reading the corpus and scoring do not. Each budget is a run of its own, whose learning
rate falls to the end of that budget: every few updates their planned number is set anew to what the rest
pays for. The averaged weights are scored, at 6 and 12 stages of 0.5 kbps (nominal: nothing is entropy-coded,
every frame has the same stages). A run goes on from its last checkpoint; a row that exists is not made again.
"""

import argparse
import dataclasses
import json
import math
import re
import sys
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from bitstream import machine
from cost_plot import drawing, table
from torch import Tensor

from telucodec.audio import find_audio, read_audio
from telucodec.config import Config, load_config
from telucodec.evaluate.metrics import measure
from telucodec.model.codec import Codec, count_gmacs_per_s, count_parameters
from telucodec.train.budget import NO_LIMITS, Meter
from telucodec.train.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from telucodec.train.data import Corpus
from telucodec.train.run import load_data
from telucodec.train.state import Run

ROOT = Path(__file__).parents[1]
USUAL = "usual"
ROWS = "cost.jsonl"
SHOWN = ("pesq_wb", "stoi", "snr_db", "range_ratio", "mel_distance_db")
KBPS = (3.0, 6.0)
STAGE_KBPS = 0.5
SPEECH = ("cv-te", "msc-ml", "librispeech", "speechocean762", "mfa-tests")
PLAN_EVERY = 10  # updates after which their number is planned anew
SAVE_EVERY_S = 120.0
UNPLANNED = 1_000_000  # updates, until the first few tell how long one takes


class Scored(Protocol):
    """Weights that are asked for what they make of a clip."""

    def reconstruct(self, wav: Tensor, n_stages: int) -> Tensor: ...


class Learner(Protocol):
    """A codec in training, whatever it is made of."""

    n_done: int

    def begin(self) -> None: ...
    def step(self, n_steps: int) -> float: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any]) -> None: ...
    def evaluated(self) -> Scored: ...
    def size(self) -> tuple[float, float]: ...


class Shipped:
    """Our codec as something to score."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec

    def reconstruct(self, wav: Tensor, n_stages: int) -> Tensor:
        """``[1, 1, T]`` through the first ``n_stages`` and back to ``[T]``."""
        codes = self.codec.encode(wav, n_codebooks=n_stages)
        return self.codec.decode(codes, n_samples=wav.shape[-1])[0, 0]


class Lines:
    """Remarks of a run, to stderr."""

    def line(self, text: str) -> None:
        print(text, file=sys.stderr)

    def progress(self, step: int, n_steps: int, values: dict[str, float]) -> None:
        """Nothing: the loop below tells how far it is."""


class Ours:
    """`telucodec.train.state.Run`, without its log, its validations and its doctor."""

    def __init__(self, config: Config, corpora: tuple[Corpus, Corpus], folder: Path) -> None:
        self.run = Run(config, corpora, folder, Lines(), Meter(NO_LIMITS, folder))

    @property
    def n_done(self) -> int:
        return self.run.trainee.step

    def begin(self) -> None:
        """K-means."""
        self.run.initialize_codebooks()

    def step(self, n_steps: int) -> float:
        """One update of ``n_steps``; returns the loss."""
        run = self.run
        if run.upcoming is None:  # the run's own would end with the plan of the moment
            run.upcoming = map(run.batches.__getitem__, count(self.n_done))
        run.config = dataclasses.replace(
            run.config, train=dataclasses.replace(run.config.train, n_steps=n_steps)
        )
        return run.step().terms["total"].item()

    def state(self) -> dict[str, Any]:
        """Everything the next step depends on."""
        return self.run.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.run.restore(state)

    def evaluated(self) -> Shipped:
        """The averaged weights."""
        return Shipped(self.run.evaluated())

    def size(self) -> tuple[float, float]:
        """Millions of parameters, and billions of multiply-accumulates for a second of audio."""
        codec = self.run.evaluated()
        return sum(count_parameters(codec).values()) / 1e6, count_gmacs_per_s(codec)


def train(learner: Learner, budget_s: float, folder: Path) -> float:
    """Updates until ``budget_s`` of processor time are spent, over all starts; returns what was spent."""
    spent_s = begun_s = saved_s = 0.0
    found = checkpoints(folder)
    if found:
        state = load_checkpoint(found[-1])
        learner.restore(state["learner"])
        spent_s = saved_s = state["spent_s"]
        begun_s = state["begun_s"]
    origin_s = time.process_time() - spent_s
    if not found:
        learner.begin()
        begun_s = time.process_time() - origin_s
    n_steps = UNPLANNED
    while (spent_s := time.process_time() - origin_s) < budget_s:
        if learner.n_done and (learner.n_done % PLAN_EVERY == 0 or n_steps == UNPLANNED):
            n_steps = planned(learner.n_done, spent_s - begun_s, budget_s - spent_s)
        loss = learner.step(n_steps)
        if spent_s - saved_s > SAVE_EVERY_S:
            saved_s = spent_s
            state = {
                "learner": learner.state(),
                "spent_s": time.process_time() - origin_s,
                "begun_s": begun_s,
            }
            save_checkpoint(folder, learner.n_done, state, keep_last=1, is_best=False)
            print(
                f"{spent_s / 60:6.1f} min  step {learner.n_done} of {n_steps}  loss {loss:.4g}",
                file=sys.stderr,
            )
    return spent_s


def planned(n_done: int, taken_s: float, left_s: float) -> int:
    """Updates in all, if those to come take as long as those that were done."""
    return n_done + max(1, math.ceil(left_s * n_done / taken_s))


@torch.inference_mode()
def score(scored: Scored, files: Sequence[Path], rate_hz: int) -> dict[str, dict[str, float]]:
    """Means by rate over the clips that have the metric; PESQ could be told of ``n_pesq_wb`` clips."""
    found: dict[str, dict[str, list[float]]] = {f"{kbps:g}": {name: [] for name in SHOWN} for kbps in KBPS}
    for path in files:
        wav = read_audio(path, rate_hz)[0]  # [1, T]
        for kbps in KBPS:
            estimate = scored.reconstruct(wav[None], round(kbps / STAGE_KBPS)).numpy()
            for name, value in measure(wav[0].numpy(), estimate, rate_hz, SHOWN).values.items():
                if math.isfinite(value):
                    found[f"{kbps:g}"][name].append(value)
    return {
        rate: {name: float(np.mean(values)) for name, values in by_name.items() if values}
        | {"n_pesq_wb": len(by_name["pesq_wb"])}
        for rate, by_name in found.items()
    }


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows made so far; none if there is no file."""
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    )


def make_row(chosen: argparse.Namespace, minutes: float, files: Sequence[Path]) -> dict[str, Any]:
    """Train for a budget and score."""
    config = load_config(chosen.config, [*(chosen.overrides or []), "train.n_threads=1"])
    corpora = load_data(config, chosen.data_dir)
    folder = chosen.out / f"{re.sub(r'[^a-z0-9]+', '-', chosen.curve.lower())}-{minutes:g}"
    folder.mkdir(parents=True, exist_ok=True)
    learner: Learner
    if chosen.curve == USUAL:
        from usual_stack import UsualStack

        learner = UsualStack(config, corpora[0], chosen.lr) if chosen.lr else UsualStack(config, corpora[0])
    else:
        learner = Ours(config, corpora, folder)
    spent_s = train(learner, 60 * minutes, folder)
    m_parameters, gmacs_per_s = learner.size()
    return {
        "curve": chosen.curve,
        "minutes": minutes,
        "spent_minutes": spent_s / 60,
        "n_steps": learner.n_done,
        "m_parameters": m_parameters,
        "gmacs_per_s": gmacs_per_s,
        "figures": score(learner.evaluated(), files, config.model.sample_rate_hz),
        "n_clips": len(files),
        "overrides": chosen.overrides or [],
        "lr": chosen.lr,
        "machine": machine(),
    }


def main() -> None:
    """Make the rows that are missing, or draw those that are there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("curve", nargs="?", help='"usual", or any name for ours')
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--dev", type=Path)
    parser.add_argument("--folders", nargs="+", default=SPEECH, help="of --dev, that are scored")
    parser.add_argument("--every", type=int, default=1, help="score every so manieth clip")
    parser.add_argument("--minutes", type=float, nargs="+", default=[10.0, 30.0, 120.0])
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "speech-16k.toml")
    parser.add_argument("--set", dest="overrides", action="append", metavar="TABLE.NAME=VALUE")
    parser.add_argument("--lr", type=float, help="of the usual stack; default: its own")
    parser.add_argument("--out", type=Path, default=Path("out/cost"))
    parser.add_argument("--plot", type=Path, metavar="SVG")
    chosen = parser.parse_args()
    path = chosen.out / ROWS
    if chosen.plot:
        rows = read_rows(path)
        chosen.plot.write_text(drawing(rows), encoding="utf-8")
        print(table(rows).to_markdown())
        return
    if not (chosen.curve and chosen.data_dir and chosen.dev):
        parser.error("name a curve, --data-dir and --dev; or --plot")
    torch.set_num_threads(1)
    chosen.out.mkdir(parents=True, exist_ok=True)
    files = [file for name in chosen.folders for file in find_audio(chosen.dev / name)][:: chosen.every]
    for minutes in chosen.minutes:
        if any((row["curve"], row["minutes"]) == (chosen.curve, minutes) for row in read_rows(path)):
            continue
        row = make_row(chosen, minutes, files)
        with path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
