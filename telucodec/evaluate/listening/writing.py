"""The page as a file. The template engine and the picture library are imported when it is written."""

from collections.abc import Sequence
from pathlib import Path

from telucodec.errors import TelucodecError
from telucodec.evaluate.listening.clip import ReportClip
from telucodec.evaluate.report import Row
from telucodec.files import replacing


def write_report(
    path: Path, clips: Sequence[ReportClip], rows: Sequence[Row], *, title: str, model: str
) -> None:
    """Write the page to ``path``: ``rows`` in tables and plots, ``clips`` to hear and see.

    Systems with rows but without sound, such as stored results of other codecs, appear in tables and plots.

    Raises:
        TelucodecError: the file cannot be written, or a package of the extra is missing; what was there
            before is then untouched.
    """
    try:
        from telucodec.evaluate.listening.page import render
    except ModuleNotFoundError as error:
        raise TelucodecError(f"the report needs {error.name}; pip install 'telucodec[eval]'") from error
    html = render(clips, rows, title=title, model=model)
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
