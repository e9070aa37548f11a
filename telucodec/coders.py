"""Which coder a stream's packets need: the one place that knows them all. Free of torch.

Shapes: Q codebooks, L frames.
"""

from pathlib import Path

from telucodec.bitstream.coder import ENTROPY_MODES, FixedWidthCoder, PacketCoder
from telucodec.bitstream.container import check_coder
from telucodec.bitstream.header import Header
from telucodec.errors import BitstreamError

DEFAULT_ENTROPY = "none"


def build_coder(mode: int, codeword_bits: int, model_folder: Path | None) -> PacketCoder:
    """The coder of entropy mode ``mode``, with the tables that lie beside the weights in ``model_folder``.

    Raises:
        BitstreamError: this build has no such mode.
    """
    if mode == ENTROPY_MODES["none"]:
        return FixedWidthCoder(codeword_bits)
    known = {number: name for name, number in ENTROPY_MODES.items()}
    name = known.get(mode, "unknown")
    raise BitstreamError(f"entropy mode {mode} ({name}) is not in this build; expected 0 (none)")


def coder_for(header: Header, model_folder: Path | None) -> PacketCoder:
    """The coder that reads the packets after ``header``, its tables compared with those of the stream.

    Raises:
        BitstreamError: there is no such coder, or its tables are others.
    """
    coder = build_coder(header.entropy_mode, header.codeword_bits, model_folder)
    check_coder(header, coder)
    return coder
