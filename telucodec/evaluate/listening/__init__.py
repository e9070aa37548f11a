"""A page in which people hear and see a codec: one HTML file, no network. Torch-free.

`ReportClip` is what the page needs of a clip, `write_report` writes the page.
"""

from telucodec.evaluate.listening.clip import ReportClip
from telucodec.evaluate.listening.writing import write_report

__all__ = ["ReportClip", "write_report"]
