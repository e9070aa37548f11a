"""Precision follows the chip."""

import pytest
import torch

from telucodec.train.engine import best_precision


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx512_bf16": True}, "bf16-mixed"), ({"amx_bf16": True}, "bf16-mixed"), ({"avx2": True}, "32-true")],
    ids=["avx512", "amx", "neither"],
)
def test_a_cpu_trains_in_bfloat16_only_where_it_computes_in_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert best_precision("cpu") == expected
