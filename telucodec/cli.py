"""The command line. The only module that imports typer; it and its screen are the only ones that print.

Each command parses, calls one room, and shows the result. Results go to stdout, so they can be
piped; progress, remarks and errors go to stderr. Status 0: done; 1: an error the user can fix;
2: wrong usage; a traceback is a bug. torch is imported inside the commands, so ``--help`` answers
at once.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

import telucodec
from telucodec.errors import TelucodecError
from telucodec.screen import (
    TrainingScreen,
    cell,
    complain,
    progress,
    remark,
    show_facts,
    show_table,
    warn_of_damage,
)

if TYPE_CHECKING:
    from telucodec.pipeline import Failure, FileReport
    from telucodec.train.run import Outcome

T = TypeVar("T")


class FriendlyGroup(TyperGroup):
    """One line and status 1 for an error the user can fix; a bug keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TelucodecError as error:
            complain(error)
            raise typer.Exit(1) from error


class SweepCommand(TyperCommand):
    """``--kbps 1.5 3 6`` stands for ``--kbps 1.5 --kbps 3 --kbps 6``: numbers right after it are rates."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        spread: list[str] = []
        is_rate = False
        for argument in args:
            is_next = is_rate and _is_number(argument) and spread[-1] != "--kbps"
            spread += ["--kbps", argument] if is_next else [argument]
            is_rate = argument == "--kbps" or (is_rate and _is_number(argument))
        return super().parse_args(ctx, spread)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


app = typer.Typer(
    cls=FriendlyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Options shared by several commands are declared once, so they read and behave the same everywhere.
Model = Annotated[
    str, typer.Option("--model", help="Name of shipped weights, or a folder written by `train`.")
]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where the network runs.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that already exist.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per file instead of a table.")]

Strict = Annotated[bool, typer.Option("--strict", help="Refuse a damaged stream instead of bridging it.")]
Entropy = Annotated[
    Literal["none", "static"] | None,
    typer.Option("--entropy", help="How codes become bits. Default: static where the weights have tables."),
]
PacketFrames = Annotated[int, typer.Option(min=1, help="Frames to a packet; 1 for the lowest delay.")]
Raw = Annotated[bool, typer.Option("--raw", help="Bare 16-bit little-endian PCM instead of WAV in a pipe.")]

# The options of `train`.
TrainConfig = Annotated[
    Path | None, typer.Option("--config", help="TOML file of settings; what it leaves out has a default.")
]
TrainSet = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TABLE.NAME=VALUE", help="Change one setting; repeatable."),
]
TrainOut = Annotated[Path | None, typer.Option("--out", help="Run folder. Default: runs/NAME.")]
TrainName = Annotated[
    str | None, typer.Option("--name", help="Name of the run. Default: that of the config file.")
]
TrainResume = Annotated[
    Path | None,
    typer.Option("--resume", metavar="RUN", help="Continue this run folder under its own settings."),
]
TrainInit = Annotated[
    str | None, typer.Option("--init-from", metavar="WEIGHTS", help="Weights to start from.")
]
TrainMaxSteps = Annotated[
    int | None, typer.Option("--max-steps", min=1, help="Planned end of the run, in updates.")
]
TrainMaxMinutes = Annotated[
    float | None, typer.Option("--max-minutes", min=0, help="Stop, save and export after so long.")
]
TrainEpochs = Annotated[
    int | None, typer.Option("--epochs", min=1, help="Planned end of the run, in passes over the data.")
]

DEFAULT_EVAL_KBPS = 6.0
REPORT_COLUMNS = {  # title -> key of `FileReport.describe`
    "file": "target",
    "seconds": "seconds",
    "codebooks": "n_codebooks",
    "bytes": "file_bytes",
    "file kbps": "file_kbps",
    "payload kbps": "payload_kbps",
    "work s/s": "real_time_factor",
}


def show_version(is_wanted: bool) -> None:
    """Answer ``--version`` before any command is looked at."""
    if is_wanted:
        typer.echo(f"telucodec {telucodec.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Neural speech codec: wav to a few kilobits a second, and back."""


@app.command()
def encode(
    source: Annotated[
        Path, typer.Argument(help="Audio file, a folder searched recursively, or - for stdin.")
    ],
    target: Annotated[
        Path, typer.Argument(help="The .codes file, the folder for the same tree of them, or - for stdout.")
    ],
    kbps: Annotated[float | None, typer.Option(help="As many codebooks as fit in this payload rate.")] = None,
    codebooks: Annotated[int | None, typer.Option(help="Keep the first N codebooks; default: all.")] = None,
    entropy: Entropy = None,
    packet_frames: PacketFrames = 25,
    seek_table: Annotated[
        bool, typer.Option("--seek-table", help="End with a table of packet sizes.")
    ] = False,
    raw: Raw = False,
    rate: Annotated[int | None, typer.Option(min=1, help="With --raw: samples per second.")] = None,
    channels: Annotated[int, typer.Option(min=1, help="With --raw: channels, interleaved.")] = 1,
    model: Model = "speech-16k",
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Compress audio to .codes files. Any format, rate and channel count of libsndfile comes in."""
    if kbps is not None and codebooks is not None:
        raise typer.BadParameter("give --kbps or --codebooks, not both")
    is_pipe = check_pipe(source, target)
    if (raw or rate is not None) and not (is_pipe and raw and rate is not None):
        raise typer.BadParameter("--raw goes with --rate HZ and with - as source and target")

    from telucodec import pipeline
    from telucodec.pipes import PcmFormat

    jobs = [] if is_pipe else pipeline.encode_jobs(source, target, overwrite=overwrite)
    codec = pipeline.open_codec(model, device=device)
    n_codebooks = pipeline.choose_codebooks(codec, kbps=kbps, n_codebooks=codebooks, entropy=entropy)
    options = pipeline.EncodeOptions(
        n_codebooks=n_codebooks, frames_per_packet=packet_frames, entropy=entropy, has_seek_table=seek_table
    )
    if is_pipe:
        form = PcmFormat(rate_hz=rate, n_channels=channels) if rate is not None else None
        pipeline.encode_pipe(codec, sys.stdin.buffer, sys.stdout.buffer, raw=form, options=options)
        return
    reports = pipeline.encode_tree(codec, jobs, options=options, overwrite=overwrite)
    show_reports(reports, len(jobs), "encoding", as_json)


@app.command()
def decode(
    source: Annotated[
        Path, typer.Argument(help="A .codes file, a folder searched recursively, or - for stdin.")
    ],
    target: Annotated[
        Path, typer.Argument(help="The .wav or .flac file, the folder for the tree of .wav, or - for stdout.")
    ],
    strict: Strict = False,
    raw: Raw = False,
    model: Model = "speech-16k",
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Turn .codes files back into 16-bit audio, exactly as many samples as were encoded."""
    is_pipe = check_pipe(source, target)
    if raw and not is_pipe:
        raise typer.BadParameter("--raw goes with - as source and target")

    from telucodec.pipeline import decode_jobs, decode_pipe, decode_tree, open_codec

    jobs = [] if is_pipe else decode_jobs(source, target, overwrite=overwrite)
    codec = open_codec(model, device=device)
    if is_pipe:
        summary = decode_pipe(codec, sys.stdin.buffer, sys.stdout.buffer, is_raw=raw, is_strict=strict)
        warn_of_damage("standard input", summary)
        return
    reports = decode_tree(codec, jobs, overwrite=overwrite, is_strict=strict)
    show_reports(reports, len(jobs), "decoding", as_json)


@app.command()
def truncate(
    source: Annotated[Path, typer.Argument(metavar="IN.codes", help="The stream to shorten.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.codes", help="The stream with fewer codebooks.")],
    kbps: Annotated[float | None, typer.Option(help="As many codebooks as fit in this payload rate.")] = None,
    codebooks: Annotated[int | None, typer.Option(help="Keep the first N codebooks.")] = None,
    model: Model = "speech-16k",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Lower the rate of a .codes file without decoding it. The model is needed for entropy tables only."""
    if (kbps is None) == (codebooks is None):
        raise typer.BadParameter("give --kbps or --codebooks")

    from telucodec.truncate import header_of, truncate_file

    folder = None
    if header_of(source).entropy_mode:
        from telucodec.pipeline import find_model

        folder = find_model(model)
    done = truncate_file(
        source, target, kbps=kbps, n_codebooks=codebooks, model_folder=folder, overwrite=overwrite
    )
    names = {"source": str(source), "target": str(target)}
    show_facts(names | done.after.describe(), as_json)


@app.command(name="simulate-loss")
def simulate_loss(
    source: Annotated[Path, typer.Argument(metavar="IN.codes", help="The stream to lose packets of.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.wav", help="What is heard of it.")],
    gilbert: Annotated[
        str, typer.Option(metavar="P,R", help="Chances per packet: good to bad line, and bad to good.")
    ] = "0.05,0.5",
    seed: Annotated[int, typer.Option(min=0, help="Of the line.")] = 0,
    model: Model = "speech-16k",
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Decode as a line that loses packets would let it be heard, and measure against the intact stream."""
    try:
        to_bad, to_good = map(float, gilbert.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"--gilbert is {gilbert!r}; expected two numbers, such as 0.05,0.5"
        ) from None

    from telucodec.evaluate import loss
    from telucodec.pipeline import open_codec

    report = loss.simulate_loss(
        open_codec(model, device=device),
        source,
        target,
        lambda n_packets: loss.gilbert(n_packets, to_bad, to_good, seed),
        overwrite=overwrite,
    )
    facts = {"n_packets": report.n_packets, "n_lost": report.n_lost, "loss_rate": report.loss_rate}
    names = {"source": str(source), "target": str(target)}
    show_facts(names | facts | report.metrics, as_json)


@app.command(name="eval", cls=SweepCommand)
def evaluate(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Audio files, or folders searched recursively.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="One more folder of audio.")] = None,
    kbps: Annotated[
        list[float] | None, typer.Option(metavar="R ...", help="Payload rates, one or several. Default: 6.")
    ] = None,
    snr: Annotated[
        bool, typer.Option("--snr", help="Show every figure, not only the most telling ones.")
    ] = False,
    keep: Annotated[
        Path | None, typer.Option(help="Folder for the .codes and .wav files that were made.")
    ] = None,
    model: Model = "speech-16k",
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Encode, decode and measure recordings; rates are counted from the bytes of real files.

    Per file, then as means with 95 % bootstrap intervals over the files.
    """
    sources = [*(files or []), *([data_dir] if data_dir else [])]
    if not sources:
        raise typer.BadParameter("name audio files or folders, or give --data-dir")

    from telucodec.evaluate import report, runner
    from telucodec.pipeline import open_codec

    clips = runner.find_clips(sources)
    codec = open_codec(model, device=device)
    rates = list(dict.fromkeys(kbps or [DEFAULT_EVAL_KBPS]))
    results = runner.evaluate(codec, clips, rates, keep=keep, overwrite=overwrite)
    rows, failures = part(progress(results, len(clips) * len(rates), "measuring"))
    summaries = report.summarize(rows)
    if as_json:
        typer.echo(report.to_json_lines(rows, summaries), nl=False)
    elif rows:
        columns = report.FULL if snr else report.BRIEF
        table = report.clip_table(rows, columns)
        show_table(table.header, table.cells)
        typer.echo()
        means = report.summary_table(summaries, columns)
        show_table(means.header, means.cells, n_left=2)
    for reason in report.reasons(rows):
        remark(reason)
    conclude(len(failures), len(clips))


@app.command()
def train(
    data_dir: Annotated[Path, typer.Option(help="Folder of audio, searched recursively.")],
    config: TrainConfig = None,
    overrides: TrainSet = None,
    out: TrainOut = None,
    name: TrainName = None,
    resume: TrainResume = None,
    init_from: TrainInit = None,
    max_steps: TrainMaxSteps = None,
    max_minutes: TrainMaxMinutes = None,
    epochs: TrainEpochs = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Crops per update.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None, typer.Option(help="Where the network runs.")
    ] = None,
) -> None:
    """Train a codec on a folder of audio; ends with a weights folder that --model takes."""
    if epochs is not None and max_steps is not None:
        raise typer.BadParameter("give --epochs or --max-steps, not both")
    if resume is not None and (out or name or init_from):
        raise typer.BadParameter(
            "--resume continues a run where it lies; leave out --out, --name and --init-from"
        )
    shortcuts = {
        "train.n_steps": max_steps,
        "train.n_epochs": 0 if max_steps is not None else epochs,
        "train.batch_size": batch_size,
        "optim.lr": lr,
        "train.device": device,
    }
    settings = [
        *(overrides or []),
        *(f"{key}={value}" for key, value in shortcuts.items() if value is not None),
    ]

    from telucodec.config import load_config
    from telucodec.pipeline import find_model

    train_run = import_trainer()
    if resume is not None and config is None:
        from telucodec.train.resume import resumed_settings

        settings = resumed_settings(resume) + settings
    folder = resume or out or Path("runs") / (name or (config.stem if config else "default"))
    weights = find_model(init_from) if init_from is not None else None
    chosen, is_resumed = load_config(config, settings), resume is not None
    with TrainingScreen() as screen:
        outcome = train_run(
            chosen, data_dir, folder, screen, resume=is_resumed, init_from=weights, max_minutes=max_minutes
        )
    if outcome.stopped_by:
        remark(f"stopped by {outcome.stopped_by} at step {outcome.step} of {outcome.n_steps}")
    typer.echo(f"weights  {outcome.weights}")


@app.command(name="fit-entropy", hidden=True)
def fit_entropy(
    data_dir: Annotated[Path, typer.Option(help="Folder of audio, searched recursively.")],
    model: Annotated[str, typer.Option(help="Name of shipped weights, or a folder written by `train`.")],
    max_minutes: Annotated[float, typer.Option(help="Audio to encode, in minutes, at most.")] = 150.0,
    device: Device = "cpu",
) -> None:
    """Fit the entropy tables of given weights to a folder of audio, and write them beside the weights."""
    from telucodec.pipeline import choose_device, find_model
    from telucodec.prior.tables import TABLES
    from telucodec.train.entropy import fit_entropy as fit

    folder = find_model(model)
    tables = fit(folder, data_dir, max_minutes=max_minutes, device=choose_device(device))
    typer.echo(f"tables   {folder / TABLES}")
    typer.echo(f"hash     {tables.hash.hex()}")


@app.command()
def info(
    file: Annotated[Path, typer.Argument(metavar="FILE.codes", help="The stream to describe.")],
    as_json: AsJson = False,
) -> None:
    """Describe a .codes file, every checksum verified; status 1 if it is damaged. Needs no model."""
    from telucodec.errors import BitstreamError
    from telucodec.truncate import summary_of

    summary = summary_of(file)
    show_facts({"file": str(file)} | summary.describe(), as_json)
    if summary.damages:
        n_more = len(summary.damages) - 1
        more = f", and {n_more} more places" if n_more else ""
        raise BitstreamError(f"{file}: damaged stream: {summary.damages[0]}{more}")


def check_pipe(source: Path, target: Path) -> bool:
    """Whether ``- -`` was asked for; one of them alone is wrong usage."""
    is_in, is_out = str(source) == "-", str(target) == "-"
    if is_in != is_out:
        raise typer.BadParameter("- stands for a pipe on both sides; give it twice")
    return is_in


def import_trainer() -> "Callable[..., Outcome]":
    """`train_run`, or the name of the extra to install."""
    try:
        from telucodec.train.run import train_run
    except ModuleNotFoundError as error:
        raise TelucodecError(f"training needs {error.name}; pip install 'telucodec[train]'") from error
    return train_run


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
