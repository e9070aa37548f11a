"""A run from configuration to weights folder: set-up, what happens every so many steps, and the end."""

import dataclasses
import json
import logging
import math
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

import telucodec
from telucodec.config import Config, config_from_dict, config_to_dict
from telucodec.errors import ConfigError, DataError, ModelError, TrainingError
from telucodec.model.codebooks import CodebookLearner
from telucodec.model.codec import (
    Codec,
    build_codec,
    count_gmacs_per_s,
    count_parameters,
    load_codec,
    save_codec,
)
from telucodec.train.card import model_card
from telucodec.train.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from telucodec.train.data import Batches, Corpus, batches_from, load_corpus, split_speakers
from telucodec.train.diagnostics import RunLog, step_scalars
from telucodec.train.engine import Fabric, build_fabric
from telucodec.train.entropy import write_entropy
from telucodec.train.loop import StepResult, Trainee, train, train_step
from telucodec.train.losses import MelLoss, ReconstructionLoss
from telucodec.train.optim import WeightAverage, build_optimizer
from telucodec.train.validate import stages_for, validate, validation_clips

log = logging.getLogger(__name__)

N_INIT_VECTORS = 24_000  # latents that the codebooks' k-means starts from
LOWER_IS_BETTER = ("mel", "l1")


class Watcher(Protocol):
    """Where a run tells a person how it goes; the command line shows it."""

    def line(self, text: str) -> None: ...
    def progress(self, step: int, n_steps: int, values: dict[str, float]) -> None: ...


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    weights: Path  # folder that ``--model`` takes
    step: int
    n_steps: int
    stopped_by: str  # empty: the planned end; else the budget or signal that ended it
    figures: dict[str, float]  # the last validation


class Run:
    """One run folder and the state of its training."""

    def __init__(
        self, config: Config, corpora: tuple[Corpus, Corpus], folder: Path, watcher: Watcher
    ) -> None:
        self.config, self.folder, self.watcher = config, folder, watcher
        self.corpus, self.held_out = corpora
        self.fabric: Fabric = build_fabric(config.train)
        rank, plan = self.fabric.global_rank, config.train
        self.batches = Batches(self.corpus, plan.batch_size, config.data, plan.seed, rank)
        self.upcoming: Iterator[torch.Tensor] | None = None
        torch.manual_seed(config.train.seed)
        codec = build_codec(config.model)
        quantizer = config.model.quantizer
        self.learner = CodebookLearner(
            codec.quantizer, decay=quantizer.ema_decay, revive_below=quantizer.revive_below
        ).to(self.fabric.device)
        optimizer = build_optimizer(codec, config.optim)
        wrapped, optimizer = self.fabric.setup(codec, optimizer)
        decay = config.optim.weight_ema_decay
        average = WeightAverage(codec, decay) if decay else None
        self.codec = codec
        self.trainee = Trainee(codec, wrapped, optimizer, self.learner, average)
        self.loss = ReconstructionLoss(config.loss, config.model.sample_rate_hz).to(self.fabric.device)
        self.mel = MelLoss(config.model.sample_rate_hz).to(self.fabric.device)
        self.clips = validation_clips(self.held_out, config.train.n_validation_clips)
        self.best = math.inf
        self.figures: dict[str, float] = {}
        self.validated_step = -1  # of `figures`
        self.started = self.marked = time.monotonic()
        self.marked_step = 0
        self.epoch = EpochMeter()

    def initialize_codebooks(self) -> None:
        """K-means on the latents of the first batches, before any update."""
        found: list[torch.Tensor] = []
        while sum(len(latents) for latents in found) < N_INIT_VECTORS:
            wav = self.batches[len(found)].to(self.fabric.device)
            with torch.no_grad():
                latents = self.codec.encoder(
                    torch.nn.functional.pad(wav, (0, -wav.shape[-1] % self.config.model.hop))
                )
            found.append(latents.transpose(1, 2).flatten(0, 1))
        self.learner.initialize(self.codec.quantizer, torch.cat(found), seed=self.config.train.seed)
        if self.trainee.average is not None:
            self.trainee.average = WeightAverage(self.codec, self.config.optim.weight_ema_decay)

    def step(self) -> StepResult:
        """One update on the batch of its number."""
        if self.upcoming is None:
            n_workers, n_steps = self.config.data.n_workers, self.config.train.n_steps
            self.upcoming = batches_from(self.batches, self.trainee.step, n_steps, n_workers=n_workers)
        wav = next(self.upcoming).to(self.fabric.device)
        result = train_step(self.fabric, self.trainee, self.loss, self.config, wav)
        self.epoch.add(result)
        return result

    def evaluated(self) -> Codec:
        """A copy of the codec with the averaged weights, if they are kept, else the current ones."""
        codec = build_codec(self.config.model)
        average = self.trainee.average
        codec.load_state_dict(average.weights if average is not None else self.codec.state_dict())
        return codec.to(self.fabric.device).eval()

    def state(self) -> dict[str, Any]:
        """Everything the next step depends on, and what the run has found so far."""
        return {
            "step": self.trainee.step,
            "config": config_to_dict(self.config),
            "codec": self.codec.state_dict(),
            "learner": self.learner.state_dict(),
            "optimizer": self.trainee.optimizer.state_dict(),
            "average": self.trainee.average.state_dict() if self.trainee.average is not None else {},
            "best": self.best,
            "figures": self.figures,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.codec.load_state_dict(state["codec"])
        self.learner.load_state_dict(state["learner"])
        self.trainee.optimizer.load_state_dict(state["optimizer"])
        if self.trainee.average is not None:
            self.trainee.average.load_state_dict(state["average"])
        self.trainee.step = self.marked_step = state["step"]
        self.best, self.figures = state["best"], state["figures"]

    # What happens every so many steps; see `train`.

    def log_step(self, run_log: RunLog, step: int, result: StepResult) -> None:
        now = time.monotonic()
        steps_per_s = max(1, step - self.marked_step) / max(1e-9, now - self.marked)
        self.marked, self.marked_step = now, step
        audio_per_s = steps_per_s * self.config.train.batch_size * self.config.data.crop_s
        values = step_scalars(result, steps_per_s, audio_per_s)
        self.check_finite(step, result)
        run_log.scalars(step, values)
        self.watcher.progress(step, self.config.train.n_steps, values | self.figures)

    def check_finite(self, step: int, result: StepResult) -> None:
        """Raises `TrainingError` for a poisoned step, so that none is ever logged as sound, or saved."""
        bad = [name for name, value in result.terms.items() if not math.isfinite(value.item())]
        if bad:
            raise TrainingError(
                f"step {step}: {', '.join(bad)} not finite; the last checkpoint is kept: "
                f"resume it with --set optim.lr={self.config.optim.lr / 2:g}"
            )

    def validate(self, run_log: RunLog, step: int) -> None:
        codec = self.evaluated()
        self.validated_step = step
        self.figures = validate(codec, self.clips, self.config.train.validation_kbps, self.mel)
        run_log.scalars(step, self.figures)
        rate_hz, kbps = self.config.model.sample_rate_hz, self.config.train.validation_kbps[-1]
        for number, clip in enumerate(self.clips[:3]):
            wav = clip.to(self.fabric.device)[None, None]
            codes = codec.encode(wav, n_codebooks=stages_for(codec, kbps))
            estimate = codec.decode(codes, n_samples=len(clip))[0, 0].cpu()
            run_log.sound(step, f"clip{number}/at_{kbps:g}_kbps", estimate, rate_hz)

    def validate_and_keep_best(self, run_log: RunLog, step: int, result: StepResult) -> None:
        """Validate; the best checkpoint so far is written at once, whatever the rhythm of saving."""
        self.validate(run_log, step)
        if self.score() < self.best:
            self.save(step, result)

    def score(self) -> float:
        """The best metric of the last validation, lower is better."""
        metric = self.config.train.best_metric
        return self.figures[f"valid/{metric}"] * (1 if metric.split("@")[0] in LOWER_IS_BETTER else -1)

    def save(self, step: int, result: StepResult) -> None:
        self.check_finite(step, result)
        is_best = (
            self.validated_step == step and self.score() < self.best
        )  # not by figures of an earlier step
        self.best = self.score() if is_best else self.best
        if self.fabric.is_global_zero:
            keep = self.config.train.keep_last
            save_checkpoint(self.folder / "checkpoints", step, self.state(), keep_last=keep, is_best=is_best)

    def end_epoch(self, steps_per_epoch: int, step: int) -> None:
        for text in self.epoch.lines(step, steps_per_epoch, self.figures):
            self.watcher.line(text)
        self.epoch = EpochMeter()

    def export(self) -> Path:
        """Write the weights folder: averaged weights, configuration, card, entropy tables."""
        folder = self.folder / "weights"
        codec = self.evaluated()
        save_codec(codec, folder)
        text = model_card(codec, self.config, self.corpus, self.trainee.step, self.figures)
        (folder / "README.md").write_text(text, encoding="utf-8")
        write_entropy(
            folder, codec, self.corpus, self.held_out, max_minutes=self.config.train.entropy_minutes
        )
        return folder


class EpochMeter:
    """Running figures of an epoch: means of the terms, extremes of the output."""

    def __init__(self) -> None:
        self.n_steps = 0
        self.sums: dict[str, torch.Tensor] = {}
        self.low = self.high = torch.zeros(())

    def add(self, result: StepResult) -> None:
        self.n_steps += 1
        for name, value in result.terms.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value
        self.low = torch.minimum(self.low, result.terms["output_min"].cpu())
        self.high = torch.maximum(self.high, result.terms["output_max"].cpu())

    def lines(self, step: int, steps_per_epoch: int, figures: dict[str, float]) -> list[str]:
        """What the person in front of the run reads at the end of an epoch."""
        mean = {name: value.item() / max(1, self.n_steps) for name, value in self.sums.items()}
        terms = "  ".join(
            f"{name} {mean[name]:.4f}"
            for name in (
                "l1",
                "mse",
                "rms",
                "stft",
                "mel",
                "spectrum",
                "disturbance",
                "envelope",
                "average_spectrum",
            )
            if name in mean
        )
        lines = [
            f"epoch {-(-step // steps_per_epoch) - 1} (step {step})  loss {mean['total']:.4f}  {terms}",
            f"  output [{self.low.item():.3f}, {self.high.item():.3f}]  DC mean {mean['output_dc']:+.5f}  "
            f"range ratio {mean['range_ratio']:.3f}  output_scale {mean['output_scale']:.4f}",
            f"  VQ loss {mean['vq']:.4f} (codebook {mean['codebook']:.4f}, "
            f"commitment {mean['commitment']:.4f})  "
            f"SNR {mean['snr_db']:.2f} dB  grad norm {mean['grad_norm']:.2f}",
        ]
        rates = [name.partition("@")[2] for name in figures if name.startswith("valid/snr_db@")]
        if rates:
            shown = (
                f"{r} kbps {figures[f'valid/snr_db@{r}']:.2f} dB {figures[f'valid/range_ratio@{r}']:.2f}"
                for r in rates
            )
            lines.append(f"  validation SNR and range ratio: {'  '.join(shown)}")
        return lines


def train_run(
    config: Config,
    data_dir: Path,
    out: Path,
    watcher: Watcher,
    *,
    resume: bool = False,
    init_from: Path | None = None,
    max_minutes: float | None = None,
) -> Outcome:
    """Train in the run folder ``out``; ends by writing ``out/weights``.

    Args:
        resume: continue from the newest checkpoint of ``out``.
        init_from: weights folder to start from instead of random weights and k-means codebooks.

    Raises:
        DataError: no usable audio, a run folder that exists without ``resume``, or nothing to resume.
        ModelError: weights or a checkpoint that do not fit the configuration.
    """
    out.mkdir(parents=True, exist_ok=True)
    found = checkpoints(out / "checkpoints")
    if found and not resume:
        raise DataError(f"{out} holds a run already; pass --resume {out} to continue it, or another --out")
    if resume and not found:
        raise DataError(f"{out} holds no checkpoint to resume; expected {out}/checkpoints/step-*.pt")
    corpora = _load_data(config, data_dir)
    config, steps_per_epoch = _with_planned_steps(config, corpora[0])
    run = Run(config, corpora, out, watcher)
    if resume:
        _restore(run, found[-1])
    elif init_from is not None:
        _start_from(run, load_codec(init_from), init_from)
    else:
        run.initialize_codebooks()
    _describe(run, data_dir)
    with RunLog(out) as run_log, _signals_caught() as signals:
        stopped_by = _train(run, run_log, steps_per_epoch, max_minutes, signals)
    return Outcome(run.export(), run.trainee.step, config.train.n_steps, stopped_by, run.figures)


def _train(
    run: Run, run_log: RunLog, steps_per_epoch: int, max_minutes: float | None, signals: list[str]
) -> str:
    train_config = run.config.train

    def stopped_by() -> str:
        if signals:
            return signals[0]
        is_late = max_minutes is not None and time.monotonic() - run.started > 60 * max_minutes
        return f"--max-minutes {max_minutes:g}" if is_late else ""

    if run.trainee.step == 0:
        run.validate(run_log, 0)  # what the start is worth, before anything is learned
    if run.trainee.step < train_config.n_steps:
        train(
            run.step,
            start=run.trainee.step,
            n_steps=train_config.n_steps,
            every={
                "log": train_config.log_every,
                "validate": train_config.validate_every,
                "epoch": steps_per_epoch,
                "save": train_config.save_every,
            },
            actions={
                "log": lambda step, result: run.log_step(run_log, step, result),
                "validate": lambda step, result: run.validate_and_keep_best(run_log, step, result),
                "epoch": lambda step, result: run.end_epoch(steps_per_epoch, step),
                "save": run.save,
            },
            is_over=lambda: bool(stopped_by()),
        )
    return "" if run.trainee.step >= train_config.n_steps else stopped_by()


def _load_data(config: Config, data_dir: Path) -> tuple[Corpus, Corpus]:
    corpus = load_corpus(data_dir, config.model.sample_rate_hz, config.data)
    if config.data.val_dir:
        return corpus, load_corpus(Path(config.data.val_dir), config.model.sample_rate_hz, config.data)
    return split_speakers(corpus, config.data.validation_share)


def _with_planned_steps(config: Config, corpus: Corpus) -> tuple[Config, int]:
    """Steps per epoch and, if epochs are set, the planned end in steps."""
    plan = config.train
    per_step_s = plan.batch_size * config.data.crop_s * plan.n_devices
    steps_per_epoch = plan.n_steps_per_epoch or max(1, round(corpus.minutes * 60 / per_step_s))
    if plan.n_epochs:
        plan = dataclasses.replace(plan, n_steps=plan.n_epochs * steps_per_epoch)
    return dataclasses.replace(config, train=plan), steps_per_epoch


def _restore(run: Run, path: Path) -> None:
    state = load_checkpoint(path)
    try:
        if config_from_dict(Config, state["config"]).model != run.config.model:
            raise ModelError(
                f"{path} was made with other model settings; resume with the run's own configuration"
            )
        run.restore(state)
    except (KeyError, RuntimeError, ConfigError) as error:
        raise ModelError(f"{path} is not a checkpoint of this version: {error}") from error


def _start_from(run: Run, codec: Codec, folder: Path) -> None:
    try:
        run.codec.load_state_dict(codec.state_dict())
    except RuntimeError as error:
        raise ModelError(f"{folder} does not fit the model settings of this run: {error}") from error
    run.learner.sums.copy_(run.codec.quantizer.codebooks)
    if run.trainee.average is not None:
        run.trainee.average = WeightAverage(run.codec, run.config.optim.weight_ema_decay)


def _describe(run: Run, data_dir: Path) -> None:
    """Show what is about to be trained, and leave the facts of the run in its folder."""
    parameters = count_parameters(run.codec)
    parts = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in parameters.items())
    model = run.config.model
    run.watcher.line(
        f"{sum(parameters.values()) / 1e6:.2f} M parameters ({parts}), "
        f"{count_gmacs_per_s(run.codec):.2f} GMAC per second of audio, latency {model.latency_ms:g} ms"
    )
    run.watcher.line(
        f"training on {run.corpus.minutes:.1f} min in {len(run.corpus.names)} clips, "
        f"validating on {run.held_out.minutes:.1f} min in {len(run.held_out.names)}; "
        f"{len(run.corpus.skipped)} files skipped"
    )
    facts = {
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": _git_commit(),
        "seed": run.config.train.seed,
        "data_dir": str(data_dir),
        "versions": {
            "telucodec": telucodec.__version__,
            "torch": torch.__version__,
            "python": sys.version.split()[0],
        },
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {run.fabric.device}",
        "config": config_to_dict(run.config),
    }
    with (run.folder / "run.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(facts) + "\n")


def _git_commit() -> str:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""


@contextmanager
def _signals_caught() -> Iterator[list[str]]:
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
