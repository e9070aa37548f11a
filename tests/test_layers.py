"""The architecture, as a test: who may import whom, and which library has which door.

Deferred imports (inside functions) count too: hiding an import does not remove a dependency.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "telucodec"

FLOOR = {  # a room may import rooms on a lower floor, and itself
    "errors": 0,
    "config": 1, "files": 1,
    "audio": 2, "pipes": 2, "frames": 2, "spectral": 2, "nn": 2, "bitstream": 2,
    "model": 3, "prior": 3,
    "backends": 4, "coders": 4, "ladders": 4,
    "allocation": 5, "refining": 5, "searching": 5, "truncate": 5,
    "decoding": 6,
    "streaming": 7,
    "pipeline": 8,
    "evaluate": 9,
    "train": 10, "screen": 10,
    "cli": 11, "__main__": 12, "__init__": 12,
}  # fmt: skip
CONFIG_FREE = {"audio", "pipes", "files", "frames", "spectral", "nn", "bitstream"}
TORCH_FREE = {
    "errors", "config", "files", "pipes", "bitstream", "coders", "ladders", "allocation", "truncate",
    "evaluate/report", "evaluate/listening",
}  # fmt: skip
PRINTERS = {"cli", "screen"}
DOORS = {  # third-party library -> the only places that may import it; numpy and torch are free
    "typer": {"cli"}, "rich": {"screen"},
    "soundfile": {"audio", "evaluate/listening/sound"}, "torchaudio": {"audio"},
    "librosa": {"spectral"},
    "safetensors": {"model/codec", "prior/network"},
    "auraloss": {"train/losses"},
    "tensorboard": {"train/runlog"}, "torch.utils.tensorboard": {"train/runlog"},
    "lightning": {"train/engine"}, "lightning_fabric": {"train/engine"},
    "pesq": {"evaluate/perceptual"}, "pystoi": {"evaluate/perceptual"}, "visqol": {"evaluate/perceptual"},
    "constriction": {"bitstream/rangecoder"},
    "jinja2": {"evaluate/listening/page"}, "markupsafe": {"evaluate/listening/page"},
    "PIL": {"evaluate/listening/pictures"},
    "onnxruntime": {"backends/onnx"},
}  # fmt: skip
FREE = {"numpy", "torch", "telucodec"} | sys.stdlib_module_names
FILES = sorted(PACKAGE.rglob("*.py"))
EVERY_FILE = pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())


def place_of(path: Path) -> tuple[str, str]:
    """``train/loop`` and its room ``train``."""
    place = path.relative_to(PACKAGE).with_suffix("").as_posix()
    return place, place.split("/")[0]


def imported(path: Path) -> set[str]:
    """Dotted names of everything the file imports, wherever in the file it does so."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction; write telucodec.<room>"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms_imported(path: Path) -> set[str]:
    """Rooms of the package that the file imports from; names of the package itself are none."""
    parts = [name.split(".") for name in imported(path)]
    return {rest[0] for top, *rest in parts if top == "telucodec" and rest and not rest[0].startswith("__")}


@EVERY_FILE
def test_imports_point_down(path):
    place, room = place_of(path)
    for other in rooms_imported(path) - {room}:
        assert FLOOR[other] < FLOOR[room], f"{place} (floor {FLOOR[room]}) must not import {other}"
        assert not (other == "config" and room in CONFIG_FREE), f"{place} takes plain values, not config"


@EVERY_FILE
def test_every_library_has_one_door(path):
    place, room = place_of(path)
    for name in imported(path):
        doors = [DOORS[library] for library in DOORS if f"{name}.".startswith(f"{library}.")]
        assert all({place, room} & door for door in doors), f"{name} belongs in {doors}, not in {place}"
        assert doors or name.split(".")[0] in FREE, f"{place} imports {name}, which has no door yet"


@EVERY_FILE
def test_what_must_start_fast_stays_free_of_torch(path):
    place, room = place_of(path)
    if {place, room, place.rsplit("/", 1)[0]} & TORCH_FREE:
        assert not [name for name in imported(path) if name.split(".")[0] == "torch"]


@EVERY_FILE
def test_only_the_command_line_prints(path):
    calls = [
        node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)
    ]
    printed = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert not printed or place_of(path)[0] in PRINTERS


@EVERY_FILE
def test_files_and_functions_stay_small(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            n_lines = (node.end_lineno or 0) - node.lineno + 1
            assert n_lines <= 60, f"{node.name} takes {n_lines} lines"


@EVERY_FILE
def test_every_module_says_what_it_owns(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_the_tables_name_every_room_there_is():
    rooms = {place_of(path)[1] for path in FILES}
    assert rooms <= FLOOR.keys()


def test_describing_a_stream_needs_no_torch():
    probe = "import sys, telucodec.bitstream.container, telucodec.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
