"""The preflight as a whole: every check in turn, findings and lines for a person, nothing left changed."""

import dataclasses
import os
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from telucodec.config import Config
from telucodec.train.assembly import Assembly, assemble, batches_of, initialize_codebooks
from telucodec.train.budget import Budget
from telucodec.train.data import Corpus
from telucodec.train.diagnostics.diagnosis import Diagnosis
from telucodec.train.preflight.heads import check_heads
from telucodec.train.preflight.network import check_network, weighted_terms
from telucodec.train.preflight.recordings import check_rates, check_recordings
from telucodec.train.preflight.size import GB, check_memory, check_parameters, memory_budget
from telucodec.train.preflight.trial import overfit, try_recipe

N_VECTORS, N_ITERATIONS = 4_000, 2  # of the rough k-means: enough for checks, not for a run
N_BATCHES = 3  # that the start is judged by


@dataclasses.dataclass(frozen=True)
class Preflight:
    """What was found before the first step."""

    findings: tuple[Diagnosis, ...]
    lines: tuple[str, ...]
    seconds: float

    @property
    def serious(self) -> list[Diagnosis]:
        return [finding for finding in self.findings if not finding.is_warning]

    @property
    def verdict(self) -> str:
        """One line: go, go but look, or do not."""
        if self.serious:
            return f"do not start: {', '.join(dict.fromkeys(f.id for f in self.serious))}"
        warned = ", ".join(dict.fromkeys(f.id for f in self.findings))
        return f"ready, but look at: {warned}" if warned else "ready"


def preflight(config: Config, data_dir: Path, corpus: Corpus, *, budget: Budget) -> Preflight:
    """Look at everything that can be known before the first step; leaves no trace in the run."""
    began = time.monotonic()
    findings: list[Diagnosis] = []
    lines: list[str] = []
    with torch.random.fork_rng():
        for found, told in _checks(config, data_dir, corpus, budget):
            findings += [_softened(finding, config) for finding in found]
            lines += told
    return Preflight(tuple(findings), tuple(lines), time.monotonic() - began)


def is_first_process() -> bool:
    """Processes that a launcher started beside the first one have nothing of their own to find."""
    return "LOCAL_RANK" not in os.environ


def _softened(finding: Diagnosis, config: Config) -> Diagnosis:
    is_ignored = finding.id in config.doctor.ignore or config.doctor.reaction == "warn"
    return dataclasses.replace(finding, is_warning=finding.is_warning or is_ignored)


Checked = tuple[list[Diagnosis], list[str]]


def _checks(config: Config, data_dir: Path, corpus: Corpus, budget: Budget) -> Iterable[Checked]:
    """Findings and lines, check by check; a model that is too large is not built."""
    yield check_recordings(corpus)
    yield check_rates(data_dir, config.model.sample_rate_hz)
    size = check_parameters(config)
    yield size
    if size[0]:
        return
    # Trials start from fresh weights; a fresh enhancer would let all pass as it is, and learn from nothing.
    plan = dataclasses.replace(config.train, n_devices=1, parts="all")
    single = dataclasses.replace(
        config, train=plan, model=dataclasses.replace(config.model, enhancer_width=0)
    )
    batches = batches_of(single, corpus)
    assembly = assemble(single)
    memory = check_memory(assembly, single)
    yield memory
    if memory[0]:
        return
    initialize_codebooks(assembly, batches, single, n_vectors=N_VECTORS, n_iterations=N_ITERATIONS)
    wavs = [batches[step] for step in range(single.doctor.n_trial_steps)]
    yield check_heads(
        assembly.trainee.codec,
        lambda: weighted_terms(assembly, single, wavs[0][:1].to(assembly.fabric.device)),
        n_items=single.train.batch_size,
        allowed_gb=memory_budget(single, assembly.fabric.device) / GB,
    )
    network = check_network(assembly, single, wavs[:N_BATCHES])
    yield network
    if any(not finding.is_warning for finding in network[0]):
        return  # trials could only repeat it in other words
    yield overfit(_again(assembly, single), single, wavs[0])
    found, lines, pace = try_recipe(_again(assembly, single), single, wavs)
    n_steps = config.train.n_steps
    hours = pace.hours(n_steps)
    price = budget.price_per_hour
    cost = "" if price is None else f", cost about {price * hours:.2f}"
    without = ", without the adversary" if config.adversary.share else ""
    yield found, [*lines, f"estimate: {n_steps} steps in {hours:.2f} h{cost}{without}"]


def _again(assembly: Assembly, config: Config) -> Assembly:
    """The same start with an optimizer that has seen nothing."""
    fresh = assemble(config, assembly.fabric)
    fresh.trainee.codec.load_state_dict(assembly.trainee.codec.state_dict())
    fresh.trainee.learner.load_state_dict(assembly.trainee.learner.state_dict())
    return fresh
