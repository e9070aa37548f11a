"""Options shared by several commands, declared once so that they read and behave the same everywhere."""

from typing import Annotated, Literal

import typer

Model = Annotated[
    str, typer.Option("--model", help="Name of shipped weights, or a folder written by `train`.")
]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where the network runs.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that already exist.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per file instead of a table.")]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse a damaged stream instead of bridging it.")]
Entropy = Annotated[
    Literal["none", "static", "variable", "refined"] | None,
    typer.Option(
        "--entropy",
        help="How codes become bits. Default, where the weights have tables: variable (frames take as many "
        "codebooks as pay for themselves) with --kbps, for files at high rates refined (and the rest codes "
        "the waveform of the low band); else static.",
    ),
]
SearchWidth = Annotated[
    int | None,
    typer.Option(
        "--search-width",
        min=1,
        max=64,
        help="Paths that the search for codes keeps open. More sound better and take longer to encode: "
        "16 about twice as long as the shipped model's own 4.",
    ),
]
PacketFrames = Annotated[int, typer.Option(min=1, help="Frames to a packet; 1 for the lowest delay.")]
Raw = Annotated[bool, typer.Option("--raw", help="Bare 16-bit little-endian PCM instead of WAV in a pipe.")]
