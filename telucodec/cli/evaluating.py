"""Commands that measure: eval, compare, simulate-loss."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from telucodec.cli.options import AsJson, Device, Model, Overwrite, SearchWidth
from telucodec.cli.results import conclude, part
from telucodec.cli.root import app
from telucodec.screen import progress, remark, show_facts, show_table

if TYPE_CHECKING:
    from telucodec.evaluate.anchors import StoredAnchors
    from telucodec.evaluate.report import Row
    from telucodec.evaluate.runner import Clip, Plan
    from telucodec.model.codec import Codec

DEFAULT_EVAL_KBPS = 6.0
Metrics = Annotated[
    str,
    typer.Option("--metrics", metavar="NAME,...", help="fast, all, or names such as pesq_wb,visqol."),
]
Against = Annotated[
    str,
    typer.Option(
        "--against", metavar="CODEC,...", help="Other codecs to run: opus:8,opus:12,codec2:3200 and such."
    ),
]
AgainstCsv = Annotated[
    Path | None, typer.Option("--against-csv", help="Table of figures of other codecs on the same clips.")
]
Keep = Annotated[
    Path | None, typer.Option("--keep", help="Folder for the coded files and what was decoded from them.")
]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", min=1, help="Clips at once. Default: one on every core, from 16 clips on."),
]
Report = Annotated[
    Path | None,
    typer.Option("--report", metavar="OUT.html", help="Write a page to listen and look, with every table."),
]
ReportClips = Annotated[int, typer.Option("--report-clips", min=1, help="Clips to hear on that page.")]
Resume = Annotated[
    Path | None,
    typer.Option(
        "--resume", metavar="ROWS.jsonl", help="Write rows there as they come; skip those already there."
    ),
]


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
    metrics: Metrics = "fast",
    snr: Annotated[
        bool, typer.Option("--snr", help="Show every figure, not only the most telling ones.")
    ] = False,
    against: Against = "",
    against_csv: AgainstCsv = None,
    keep: Keep = None,
    jobs: Jobs = None,
    resume: Resume = None,
    report: Report = None,
    report_clips: ReportClips = 10,
    search_width: SearchWidth = None,
    model: Model = "speech-16k",
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Encode, decode and measure recordings; rates are counted from the bytes of real files.

    Per file, then as means with 95 % bootstrap intervals over the files: all of them, by folder, and by
    language where a languages.csv names it.
    """
    sources = [*(files or []), *([data_dir] if data_dir else [])]
    if not sources:
        raise typer.BadParameter("name audio files or folders, or give --data-dir")

    from telucodec.evaluate import anchors, runner
    from telucodec.evaluate.jobs import default_jobs
    from telucodec.evaluate.metrics import choose_metrics
    from telucodec.files import check_writable
    from telucodec.pipeline import choose_device, open_codec

    if report is not None:
        check_writable(report, overwrite=overwrite)
    clips = runner.find_clips(sources)
    plan = runner.Plan(
        rates=tuple(dict.fromkeys(kbps or [DEFAULT_EVAL_KBPS])),
        anchors=tuple(anchors.parse_anchors(against)),
        metrics=choose_metrics(metrics.split(",")),
        keep=keep,
        n_jobs=jobs or (default_jobs(len(clips)) if choose_device(device) == "cpu" else 1),
    )
    stored = anchors.read_stored(against_csv, (clip.name for clip in clips)) if against_csv else None
    codec = open_codec(model, device=device, search_width=search_width)
    results = runner.evaluate(codec, clips, plan, overwrite=overwrite, resume=resume)
    rows, failures = part(progress(results, len(clips) * len(plan.systems), "measuring"))
    rows += stored_rows(stored, rows) if stored else []
    show_rows(rows, as_json=as_json, is_full=snr or metrics != "fast")
    if report is not None and rows:
        heard = [clip for clip in clips if clip.path not in {failure.source for failure in failures}]
        write_page(report, codec, heard, plan, rows, report_clips)
    conclude(len(failures), len(clips))


def stored_rows(anchors: "StoredAnchors", rows: "list[Row]") -> "list[Row]":
    """Figures of other codecs from a table, and a line for each that lacks clips."""
    from telucodec.evaluate.anchors import unmatched

    found = anchors.rows_for(rows)
    for system, n_clips in unmatched(rows, found).items():
        remark(f"{anchors.path} lacks {n_clips} of the clips for {system}")
    return found


def show_rows(rows: "list[Row]", *, as_json: bool, is_full: bool) -> None:
    """Rows and their means on stdout; on stderr why figures are missing and what the times are worth."""
    from telucodec.evaluate import report

    summaries = report.summarize(rows)
    if as_json:
        typer.echo(report.to_json_lines(rows, summaries), nl=False)
    elif rows:
        columns = report.columns_of(rows, report.FULL if is_full else report.BRIEF)
        table = report.clip_table(rows, columns)
        show_table(table.header, table.cells, n_left=1 + ("system" in table.header))
        typer.echo()
        means = report.summary_table(summaries, columns)
        show_table(means.header, means.cells, n_left=2)
    for reason in report.reasons(rows):
        remark(reason)
    n_jobs = max((row.n_jobs for row in rows), default=1)
    if n_jobs > 1:
        remark(f"times were taken with {n_jobs} clips at once; --jobs 1 gives those of one clip alone")


def write_page(
    path: Path, codec: "Codec", clips: "list[Clip]", plan: "Plan", rows: "list[Row]", n_clips: int
) -> None:
    """The listening report, of clips from every folder."""
    from telucodec.evaluate.audition import audition, choose_clips
    from telucodec.evaluate.listening import write_report

    chosen = choose_clips(clips, n_clips)
    sounds = list(progress(audition(codec, chosen, plan), len(chosen), "coding for the report"))
    folders = ", ".join(dict.fromkeys(clip.folder for clip in clips))
    title = f"telucodec: {len(clips)} recordings from {folders}"
    write_report(path, sounds, rows, title=title, model=codec.model_id.hex())
    remark(f"report  {path}")


@app.command()
def compare(
    reference: Annotated[Path, typer.Argument(metavar="A.wav", help="The original.")],
    estimate: Annotated[Path, typer.Argument(metavar="B.wav", help="What any codec made of it.")],
    metrics: Metrics = "all",
    as_json: AsJson = False,
) -> None:
    """Measure an audio file against another, whatever made it.

    B is resampled to the rate of A; its delay is found, told and taken back before the other figures.
    """
    from telucodec.evaluate.compare import compare as compare_files
    from telucodec.evaluate.metrics import choose_metrics
    from telucodec.evaluate.report import plain

    found = compare_files(reference, estimate, choose_metrics(metrics.split(",")))
    for change in found.changes:
        remark(change)
    facts = found.describe()
    if as_json:
        facts = {name: plain(value) for name, value in facts.items()} | {"missing": found.measured.missing}
    show_facts(facts, as_json)
    for name, reason in found.measured.missing.items():
        remark(f"{name} is missing: {reason}")


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
