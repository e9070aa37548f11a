"""One run: what it holds, and what happens to it every so many steps."""

import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch

from telucodec.config import Config, config_to_dict
from telucodec.model.codec import Codec, build_codec, save_codec
from telucodec.train.adversary import build_adversary
from telucodec.train.assembly import assemble, batches_of, fresh_average, initialize_codebooks
from telucodec.train.budget import Meter
from telucodec.train.card import model_card
from telucodec.train.checkpoint import checkpoint_of, checkpoints, load_checkpoint, save_checkpoint
from telucodec.train.culprit import find_culprit
from telucodec.train.data import Corpus, batches_from
from telucodec.train.doctor import Doctor, Doomed, write_down
from telucodec.train.engine import loss_scale
from telucodec.train.entropy import write_entropy
from telucodec.train.epoch import EpochMeter
from telucodec.train.loop import StepResult, train_step
from telucodec.train.losses import MelLoss
from telucodec.train.origin import copy_tables, keep_origin, origin_id
from telucodec.train.passage import gradient_gain
from telucodec.train.recorder import Movement, Recorder
from telucodec.train.runlog import RunLog, step_scalars
from telucodec.train.validate import stages_for, validate, validation_clips

log = logging.getLogger(__name__)

LOWER_IS_BETTER = ("mel", "l1")


class Watcher(Protocol):
    """Where a run tells a person how it goes; the command line shows it."""

    def line(self, text: str) -> None: ...
    def progress(self, step: int, n_steps: int, values: dict[str, float]) -> None: ...


class Run:
    """One run folder and the state of its training."""

    def __init__(
        self, config: Config, corpora: tuple[Corpus, Corpus], folder: Path, watcher: Watcher, meter: Meter
    ) -> None:
        self.config, self.folder, self.watcher = config, folder, watcher
        self.corpus, self.held_out = corpora
        self.assembly = assemble(config)
        self.fabric, self.trainee, self.loss = (
            self.assembly.fabric,
            self.assembly.trainee,
            self.assembly.loss,
        )
        self.codec, self.learner = self.trainee.codec, self.trainee.learner
        self.adversary = build_adversary(config, self.fabric)
        self.batches = batches_of(config, self.corpus, self.fabric.global_rank)
        self.upcoming: Iterator[torch.Tensor] | None = None
        self.mel = MelLoss(config.model.sample_rate_hz).to(self.fabric.device)
        self.clips = validation_clips(self.held_out, config.train.n_validation_clips)
        self.best = math.inf
        self.figures: dict[str, float] = {}
        self.validated_step = -1  # of `figures`
        self.meter = meter
        self.marked = time.monotonic()
        self.marked_step = 0
        self.waited_s = 0.0  # for batches, since `marked`
        self.epoch = EpochMeter()
        self.doctor = Doctor(config, watcher.line)
        self.recorder = Recorder()
        self.movement = Movement(self.codec)

    def initialize_codebooks(self) -> None:
        """K-means on the latents of the first batches, before any update."""
        initialize_codebooks(self.assembly, self.batches, self.config)
        self.movement = Movement(self.codec)

    def start_from(self, codec: Codec) -> None:
        """Take the weights of another run; its step, optimizer and schedule are not taken."""
        missing, unexpected = self.codec.load_state_dict(codec.state_dict(), strict=False)
        others = [name for name in missing if codec.enhancer is not None or not name.startswith("enhancer.")]
        if others or unexpected:
            raise RuntimeError(f"weights are missing or too many: {', '.join([*others, *unexpected][:4])}")
        if self.config.train.keeps_codes:
            keep_origin(self.folder, codec)
        self.learner.sums.copy_(self.codec.quantizer.codebooks)
        self.trainee.average = fresh_average(self.codec, self.config)
        self.movement = Movement(self.codec)

    def step(self) -> StepResult:
        """One update on the batch of its number."""
        if self.upcoming is None:
            n_workers, n_steps = self.config.data.n_workers, self.config.train.n_steps
            self.upcoming = batches_from(self.batches, self.trainee.step, n_steps, n_workers=n_workers)
        began = time.monotonic()
        wav = next(self.upcoming).to(self.fabric.device)
        self.waited_s += time.monotonic() - began
        has_started = self.trainee.step >= self.config.adversary.start_step
        adversary = self.adversary if has_started else None
        result = train_step(self.fabric, self.trainee, self.loss, self.config, wav, adversary=adversary)
        self.recorder.add(result)
        if result.is_skipped:
            self.note_skipped(wav, result)
        else:
            self.doctor.bad_in_a_row = 0
            self.epoch.add(result)
        return result

    def note_skipped(self, wav: torch.Tensor, result: StepResult) -> None:
        """Name where the value came from; a loss scaler's overflow is its daily work and only counted."""
        if loss_scale(self.fabric) is not None and torch.isfinite(result.terms["total"]):
            self.recorder.n_overflows += 1
            return
        self.doctor.bad_in_a_row += 1
        step, place = self.trainee.step, find_culprit(self.trainee, self.loss, wav)
        log.warning("step %d: update skipped, a value is not finite: %s", step, place)
        if self.doctor.has_lost_patience:
            self.doctor.examine(self.recorder.reading(step, self.n_codewords), culprit=place)

    @property
    def n_codewords(self) -> int:
        return self.learner.usage.numel()

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
            "adversary": self.adversary.state_dict() if self.adversary is not None else {},
            "best": self.best,
            "figures": self.figures,
            "lr_share": self.trainee.lr_share,
            "doctor": self.doctor.state_dict() | {"steps": self.recorder.state_dict()},
            "movement": self.movement.start,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.codec.load_state_dict(state["codec"])
        self.learner.load_state_dict(state["learner"])
        self.trainee.optimizer.load_state_dict(state["optimizer"])
        if self.trainee.average is not None:
            self.trainee.average.load_state_dict(state["average"])
        if self.adversary is not None and state.get("adversary"):
            self.adversary.load_state_dict(state["adversary"])
        elif self.adversary is not None:
            self.watcher.line("the checkpoint holds no discriminators: they start anew")
        self.trainee.step = self.marked_step = state["step"]
        self.best, self.figures = state["best"], state["figures"]
        self.trainee.lr_share = state.get("lr_share", 1.0)
        self.doctor.healthy_step = state["step"]
        if "doctor" in state:  # an older checkpoint has none
            self.doctor.load_state_dict(state["doctor"])
            self.movement.start = state["movement"]
            if state["config"]["loss"] == config_to_dict(self.config)["loss"]:
                self.recorder.load_state_dict(state["doctor"]["steps"], self.fabric.device)
            else:  # figures of another loss say nothing about this one
                self.doctor.history.forget()

    # What happens every so many steps; see `train`.

    def log_step(self, run_log: RunLog, step: int, result: StepResult) -> None:
        """Write the figures down and let the doctor look at them; raises `Doomed`."""
        now = time.monotonic()
        taken_s = max(1e-9, now - self.marked)
        steps_per_s = max(1, step - self.marked_step) / taken_s
        wait_share, self.waited_s = self.waited_s / taken_s, 0.0
        self.marked, self.marked_step = now, step
        audio_per_s = steps_per_s * self.config.train.batch_size * self.config.data.crop_s
        values = step_scalars(result, steps_per_s, audio_per_s)
        run_log.scalars(step, values)
        self.watcher.progress(step, self.config.train.n_steps, values | self.figures)
        if step % self.config.train.log_every == 0:  # not at a stop between: it would change later readings
            self.examine(run_log, step, wait_share)

    def examine(self, run_log: RunLog, step: int, wait_share: float) -> None:
        reading = self.recorder.reading(step, self.n_codewords) | self.movement.figures(self.codec)
        quantizer, scale = self.codec.quantizer, loss_scale(self.fabric)
        reading["gradient_gain"] = gradient_gain(quantizer, quantizer.n_codebooks)
        reading |= {"wait_share": wait_share} | ({} if scale is None else {"loss_scale": scale})
        for warning in self.doctor.examine(self.fabric.broadcast(reading)):
            run_log.note(warning)

    def react(self, run_log: RunLog, doomed: Doomed) -> bool:
        """Go back if that is allowed; False: the run ends here."""
        step, healthy_step = self.trainee.step, self.doctor.healthy_step
        goes_on = self.doctor.may_roll_back
        reaction = (
            f"Went back from step {step} to step {healthy_step} with half the learning rate"
            if goes_on
            else f"Stopped at step {step}; the last healthy checkpoint is that of step {healthy_step}"
        )
        if self.fabric.is_global_zero:
            write_down(self.folder, doomed.diagnoses, reaction)
        for diagnosis in doomed.diagnoses:
            run_log.note(diagnosis)
        first = doomed.diagnoses[0]
        self.watcher.line(f"doctor: {first.line()}. {first.cause} Try: {first.remedy}")
        self.watcher.line(f"doctor: {reaction}")
        if goes_on:
            self.roll_back()
        return goes_on

    def roll_back(self) -> None:
        """Continue from the last healthy checkpoint at half the rate; later checkpoints are dropped."""
        folder, n_rollbacks = self.folder / "checkpoints", self.doctor.n_rollbacks
        healthy = checkpoint_of(folder, self.doctor.healthy_step)
        self.fabric.barrier()
        self.restore(load_checkpoint(healthy))
        self.doctor.n_rollbacks = n_rollbacks + 1
        self.trainee.lr_share /= 2
        self.upcoming, self.epoch = None, EpochMeter()
        self.fabric.barrier()
        if self.fabric.is_global_zero:
            for later in checkpoints(folder):
                if later > healthy:
                    later.unlink()
            self.write_checkpoint(self.trainee.step, is_best=False)

    def validate(self, run_log: RunLog, step: int) -> None:
        codec = self.evaluated()
        self.validated_step = step
        self.figures = validate(codec, self.clips, self.config.train.validation_kbps, self.mel)
        run_log.scalars(step, self.figures)
        self.doctor.history.validations.append({"step": float(step), "metric": self.score()})
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
        """Write a checkpoint, unless the weights are no longer numbers."""
        if not all(torch.isfinite(tensor).all() for tensor in self.codec.state_dict().values()):
            log.warning("step %d: weights are not finite; no checkpoint is written", step)
            return
        is_best = (
            self.validated_step == step and self.score() < self.best
        )  # not by figures of an earlier step
        self.best = self.score() if is_best else self.best
        if self.doctor.is_healthy:
            self.doctor.healthy_step = step
        self.meter.save()
        if self.fabric.is_global_zero:
            self.write_checkpoint(step, is_best=is_best)

    def write_checkpoint(self, step: int, *, is_best: bool) -> None:
        save_checkpoint(
            self.folder / "checkpoints",
            step,
            self.state(),
            keep_last=self.config.train.keep_last,
            is_best=is_best,
            keep_step=self.doctor.healthy_step,
        )

    def end_epoch(self, steps_per_epoch: int, step: int) -> None:
        for text in self.epoch.lines(step, steps_per_epoch, self.figures):
            self.watcher.line(text)
        self.watcher.line(f"  {self.meter.line()}")
        self.epoch = EpochMeter()

    def export(self) -> Path:
        """Write the weights folder: averaged weights, configuration, card, entropy tables."""
        folder = self.folder / "weights"
        codec = self.evaluated()
        keeps_codes = self.config.train.keeps_codes
        save_codec(codec, folder, codes_of=origin_id(self.folder) if keeps_codes else None)
        text = model_card(codec, self.config, self.corpus, self.trainee.step, self.figures)
        (folder / "README.md").write_text(text, encoding="utf-8")
        if keeps_codes:
            copy_tables(self.folder, folder)
        else:
            minutes = self.config.train.entropy_minutes
            write_entropy(folder, codec, self.corpus, self.held_out, max_minutes=minutes)
        return folder
