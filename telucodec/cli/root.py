"""The application itself: how errors end, and what is answered before any command."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import telucodec
from telucodec.errors import TelucodecError
from telucodec.screen import complain


class FriendlyGroup(TyperGroup):
    """One line and status 1 for an error the user can fix; a bug keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TelucodecError as error:
            complain(error)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=FriendlyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
