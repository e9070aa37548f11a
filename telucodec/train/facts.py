"""What a run is, told to the person who started it and left in its folder."""

import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

import telucodec
from telucodec.config import Config, config_to_dict
from telucodec.model.codec import Codec, count_gmacs_per_s, count_parameters
from telucodec.train.data import Corpus
from telucodec.train.resume import FACTS


def size_line(codec: Codec) -> str:
    """Parameters by part, work per second, latency."""
    parameters = count_parameters(codec)
    parts = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in parameters.items())
    return (
        f"{sum(parameters.values()) / 1e6:.2f} M parameters ({parts}), "
        f"{count_gmacs_per_s(codec):.2f} GMAC per second of audio, "
        f"latency of the network {codec.config.latency_ms:g} ms"
    )


def data_line(corpus: Corpus, held_out: Corpus) -> str:
    """Minutes and clips on both sides of the split."""
    return (
        f"training on {corpus.minutes:.1f} min in {len(corpus.names)} clips, "
        f"validating on {held_out.minutes:.1f} min in {len(held_out.names)}; "
        f"{len(corpus.skipped)} files skipped"
    )


def write_facts(folder: Path, config: Config, data_dir: Path, device: torch.device, preflight: str) -> None:
    """One line in ``run.jsonl`` for each start of the run.

    Args:
        preflight: how it ended, or why there was none.
    """
    facts = {
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": _git_commit(),
        "seed": config.train.seed,
        "data_dir": str(data_dir),
        "preflight": preflight,
        "versions": {
            "telucodec": telucodec.__version__,
            "torch": torch.__version__,
            "python": sys.version.split()[0],
        },
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {device}",
        "config": config_to_dict(config),
    }
    with (folder / FACTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(facts) + "\n")


def _git_commit() -> str:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""
