"""The plan against the model: deep stacks need warmup and clipping, and a limit must leave a gradient."""

import pytest
from torch import nn

from telucodec.config import Config, OptimConfig
from telucodec.model.codec import build_codec
from telucodec.train.preflight.plan import check_plan, deepest_part

HEALTHY = {"n_kernels": 25, "n_parameters": 4_700_000, "start_norm": 100.0, "epsilon": 1e-8}


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({"n_warmup_steps": 0}, "warmup (0 steps)"),
        ({"max_grad_norm": 1e9}, "clipping (limit 1e+09, norm 100)"),
        (
            {"n_warmup_steps": 5, "max_grad_norm": 2e3},
            "warmup (5 steps) and clipping (limit 2000, norm 100)",
        ),
    ],
)
def test_a_deep_stack_without_warmup_or_clipping_is_warned_of(settings, missing):
    found = check_plan(OptimConfig(**settings), **HEALTHY)
    assert [(d.id, d.is_warning) for d in found] == [("depth-unguarded", True)]
    assert found[0].evidence["missing"] == missing
    assert check_plan(OptimConfig(**settings), **(HEALTHY | {"n_kernels": 8})) == []


def test_the_default_plan_and_a_limit_that_only_cuts_peaks_pass():
    assert check_plan(OptimConfig(), **HEALTHY) == []
    assert check_plan(OptimConfig(max_grad_norm=500.0), **HEALTHY) == []


def test_a_limit_that_leaves_nothing_but_epsilon_is_refused():
    found = check_plan(OptimConfig(max_grad_norm=1e-5), **HEALTHY)
    assert [(d.id, d.is_warning) for d in found] == [("clipping-always", False)]
    assert found[0].evidence["clipped per parameter"] == pytest.approx(1e-5 / 4_700_000**0.5)
    quiet = HEALTHY | {"start_norm": 1e-6, "n_kernels": 8}  # the gradient itself is small: nothing is clipped
    assert check_plan(OptimConfig(max_grad_norm=1e-5), **quiet) == []


def test_layers_are_counted_by_their_kernels_in_the_deepest_part():
    shallow = nn.Sequential(nn.Conv1d(4, 4, 3), nn.LayerNorm(4))
    deep = nn.Sequential(nn.Conv1d(4, 8, 3), nn.Conv1d(8, 8, 1), nn.Linear(8, 3))
    assert deepest_part(nn.ModuleList([shallow, deep])) == 3
    assert deepest_part(build_codec(Config().model)) == 25
