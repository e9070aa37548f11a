"""Commands that measure: eval, simulate-loss."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from telucodec.cli.options import AsJson, Device, Model, Overwrite
from telucodec.cli.results import conclude, part
from telucodec.cli.root import app
from telucodec.screen import progress, remark, show_facts, show_table

DEFAULT_EVAL_KBPS = 6.0


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
