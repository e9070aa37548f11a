"""A run from configuration to weights folder: set-up, the loop, the end."""

import dataclasses
from pathlib import Path

from telucodec.config import Config, config_from_dict
from telucodec.errors import ConfigError, DataError, ModelError
from telucodec.model.codec import Codec, linear_codec, load_codec, save_codec
from telucodec.train.budget import NO_LIMITS, Budget, Meter
from telucodec.train.card import model_card
from telucodec.train.checkpoint import checkpoints, load_checkpoint
from telucodec.train.data import Corpus, load_corpus, split_speakers
from telucodec.train.diagnostics.diagnosis import Diagnosis
from telucodec.train.doctor import Doomed, write_down
from telucodec.train.entropy import write_entropy
from telucodec.train.facts import data_line, size_line, write_facts
from telucodec.train.faults import spoil_corpus
from telucodec.train.loop import train
from telucodec.train.preflight.examination import Preflight, is_first_process, preflight
from telucodec.train.runlog import RunLog
from telucodec.train.signals import signals_caught
from telucodec.train.state import Run, Watcher

STOPPED_BY_DOCTOR = "the doctor"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    weights: Path | None  # folder that ``--model`` takes; None if the doctor ended the run
    step: int
    n_steps: int
    stopped_by: str  # empty: the planned end; else the budget, signal or doctor that ended it
    figures: dict[str, float]  # the last validation
    diagnoses: tuple[Diagnosis, ...] = ()  # why the doctor ended it


def train_run(
    config: Config,
    data_dir: Path,
    out: Path,
    watcher: Watcher,
    *,
    resume: bool = False,
    init_from: Path | None = None,
    budget: Budget = NO_LIMITS,
    skip_preflight: bool = False,
) -> Outcome:
    """Train in the run folder ``out``; ends by writing ``out/weights``, unless the doctor ends it.

    Args:
        resume: continue from the newest checkpoint of ``out``.
        init_from: weights folder to start from instead of random weights and k-means codebooks.
        skip_preflight: start at once. A resumed run has passed it already.

    Raises:
        DataError: no usable audio, a run folder that exists without ``resume``, or nothing to resume.
        ModelError: weights or a checkpoint that do not fit the configuration.
    """
    out.mkdir(parents=True, exist_ok=True)
    if config.train.parts == "tables":
        return _fitted(config, data_dir, out, watcher)
    found = _found_checkpoints(config, out, resume=resume, has_weights=init_from is not None)
    meter = Meter(budget, out)
    given = None if init_from is None or resume else load_codec(init_from)
    config = with_enhancer_of(given, config)
    corpora = load_data(config, data_dir)
    config, steps_per_epoch = with_planned_steps(config, corpora[0])
    is_skipped = skip_preflight or resume
    passed, refused = _preflight(config, data_dir, corpora[0], watcher, budget, is_skipped=is_skipped)
    if refused:
        reaction = "Refused before the first step"
        write_down(out, refused, reaction)
        watcher.line(f"doctor: {reaction}; `--skip-preflight` starts all the same")
        return Outcome(None, 0, config.train.n_steps, STOPPED_BY_DOCTOR, {}, tuple(refused))
    run = Run(config, corpora, out, watcher, meter)
    if resume:
        _restore(run, found[-1])
    elif given is not None:
        _start_from(run, given)
    else:
        run.initialize_codebooks()
    watcher.line(size_line(run.codec))
    watcher.line(data_line(*corpora))
    if run.adversary is not None:
        if config.adversary.init_from and not resume:
            run.adversary.take_over(Path(config.adversary.init_from))
        watcher.line(run.adversary.line())
    write_facts(out, config, data_dir, run.fabric.device, passed)
    with RunLog(out) as run_log, signals_caught() as signals:
        diagnoses = _train(run, run_log, steps_per_epoch, signals)
    meter.save()
    end = run.trainee.step, config.train.n_steps
    if diagnoses:
        return Outcome(None, *end, STOPPED_BY_DOCTOR, run.figures, tuple(diagnoses))
    stopped_by = "" if end[0] >= end[1] else _limit(meter, signals)
    return Outcome(run.export(), *end, stopped_by, run.figures)


def _fitted(config: Config, data_dir: Path, out: Path, watcher: Watcher) -> Outcome:
    """Weights that are the linear path alone, and entropy tables fitted to them; no gradient is computed."""
    corpora = load_data(config, data_dir)
    codec = linear_codec(config.model)
    watcher.line(size_line(codec))
    watcher.line(data_line(*corpora))
    folder = out / "weights"
    save_codec(codec, folder)
    codec = load_codec(folder)  # in half precision, as it will be used
    (folder / "README.md").write_text(model_card(codec, config, corpora[0], 0, {}), encoding="utf-8")
    write_entropy(folder, codec, *corpora, max_minutes=config.train.entropy_minutes, seed=config.train.seed)
    write_facts(out, config, data_dir, codec.decoder.output_scale.device, "skipped")
    return Outcome(folder, 0, 0, "", {})


def _found_checkpoints(config: Config, out: Path, *, resume: bool, has_weights: bool) -> list[Path]:
    """Checkpoints of the run folder, after what the settings and the folder do not allow was refused."""
    found = checkpoints(out / "checkpoints")
    if found and not resume:
        raise DataError(f"{out} holds a run already; pass --resume {out} to continue it, or another --out")
    if config.train.keeps_codes and not (resume or has_weights):
        raise ConfigError(
            f'train.parts is "{config.train.parts}", but there is nothing to keep: name the weights, '
            "--init-from WEIGHTS"
        )
    if resume and not found:
        raise DataError(f"{out} holds no checkpoint to resume; expected {out}/checkpoints/step-*.pt")
    return found


def examine_before(
    config: Config, data_dir: Path, watcher: Watcher, *, budget: Budget = NO_LIMITS
) -> Preflight:
    """The preflight alone, as ``telucodec doctor`` runs it; shows what it finds."""
    corpora = load_data(config, data_dir)
    config, _ = with_planned_steps(config, corpora[0])
    return _shown(preflight(config, data_dir, corpora[0], budget=budget), watcher)


def _preflight(
    config: Config, data_dir: Path, corpus: Corpus, watcher: Watcher, budget: Budget, *, is_skipped: bool
) -> tuple[str, list[Diagnosis]]:
    """How the preflight ended, for the run's record, and what forbids the run."""
    if is_skipped or not is_first_process():
        watcher.line("preflight skipped")
        return "skipped", []
    found = _shown(preflight(config, data_dir, corpus, budget=budget), watcher)
    return found.verdict, found.serious


def _shown(found: Preflight, watcher: Watcher) -> Preflight:
    for line in found.lines:
        watcher.line(line)
    for finding in found.findings:
        watcher.line(f"doctor: {finding.line()}. {finding.cause} Try: {finding.remedy}")
    watcher.line(f"preflight: {found.verdict} ({found.seconds:.0f} s)")
    return found


def _train(run: Run, run_log: RunLog, steps_per_epoch: int, signals: list[str]) -> list[Diagnosis]:
    """Run the loop to its end; returns why the doctor ended it, if it was the doctor."""
    plan = run.config.train
    if run.trainee.step == 0:
        run.validate(run_log, 0)  # what the start is worth, before anything is learned
        run.write_checkpoint(0, is_best=False)  # where a run that goes wrong early goes back to
    while run.trainee.step < plan.n_steps:
        try:
            train(
                run.step,
                start=run.trainee.step,
                n_steps=plan.n_steps,
                every={
                    "log": plan.log_every,
                    "validate": plan.validate_every,
                    "epoch": steps_per_epoch,
                    "save": plan.save_every,
                },
                actions={
                    "log": lambda step, result: run.log_step(run_log, step, result),
                    "validate": lambda step, result: run.validate_and_keep_best(run_log, step, result),
                    "epoch": lambda step, result: run.end_epoch(steps_per_epoch, step),
                    "save": run.save,
                },
                is_over=lambda: bool(_limit(run.meter, signals)),
            )
            break
        except Doomed as doomed:
            if not run.react(run_log, doomed):
                return doomed.diagnoses
    return []


def _limit(meter: Meter, signals: list[str]) -> str:
    """The signal or budget that ends the run; empty while none does."""
    return signals[0] if signals else meter.spent()


def load_data(config: Config, data_dir: Path) -> tuple[Corpus, Corpus]:
    """Clips to train on and clips to validate on."""
    corpus = load_corpus(data_dir, config.model.sample_rate_hz, config.data)
    corpus = spoil_corpus(config.fault.name, corpus)
    if config.data.val_dir:
        return corpus, load_corpus(Path(config.data.val_dir), config.model.sample_rate_hz, config.data)
    return split_speakers(corpus, config.data.validation_share)


def with_enhancer_of(codec: Codec | None, config: Config) -> Config:
    """``config`` with an enhancer of the shape of that of ``codec``, if only the latter has one.

    Raises:
        ConfigError: neither has one, and it is what is to be trained.
    """
    if config.model.enhancer_width:
        return config
    if codec is None or not codec.config.enhancer_width:
        if config.train.parts == "enhancer":
            raise ConfigError(
                'train.parts is "enhancer", but model.enhancer_width is 0; expected channels, such as '
                "--set model.enhancer_width=96"
            )
        return config
    shape = {name: getattr(codec.config, name) for name in ("enhancer_width", "n_enhancer_units")}
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **shape))


def with_planned_steps(config: Config, corpus: Corpus) -> tuple[Config, int]:
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


def _start_from(run: Run, codec: Codec) -> None:
    try:
        run.start_from(codec)
    except RuntimeError as error:
        raise ModelError(f"{codec.folder} does not fit the model settings of this run: {error}") from error
