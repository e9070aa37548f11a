"""Commands on streams: encode, decode, truncate, info."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from telucodec.cli.options import (
    AsJson,
    Device,
    Entropy,
    Model,
    Overwrite,
    PacketFrames,
    Raw,
    SearchWidth,
    Strict,
)
from telucodec.cli.results import show_reports
from telucodec.cli.root import app
from telucodec.screen import show_facts, warn_of_damage


@app.command()
def encode(
    source: Annotated[
        Path, typer.Argument(help="Audio file, a folder searched recursively, or - for stdin.")
    ],
    target: Annotated[
        Path, typer.Argument(help="The .codes file, the folder for the same tree of them, or - for stdout.")
    ],
    kbps: Annotated[float | None, typer.Option(help="Payload rate that the file keeps to.")] = None,
    codebooks: Annotated[int | None, typer.Option(help="Keep the first N codebooks; default: all.")] = None,
    entropy: Entropy = None,
    packet_frames: PacketFrames = 25,
    search_width: SearchWidth = None,
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
    codec = pipeline.open_codec(model, device=device, search_width=search_width)
    options = pipeline.EncodeOptions(
        n_codebooks=codebooks,
        kbps=kbps,
        frames_per_packet=packet_frames,
        entropy=entropy,
        has_seek_table=seek_table,
    )
    pipeline.check_options(codec, options)
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
