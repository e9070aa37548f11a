"""Checkpoints: whole or absent, few, and never a way to run code."""

import os
import pickle

import pytest
import torch

from telucodec.errors import ModelError
from telucodec.train.checkpoint import checkpoints, load_checkpoint, save_checkpoint


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def state(value=1.0):
    return {
        "step": 3,
        "codec": {"a": torch.full((2, 2), value)},
        "config": {"rates": (1.5, 3.0), "name": "x"},
        "best": float("inf"),
    }


def test_what_is_saved_comes_back(tmp_path):
    path = save_checkpoint(tmp_path, 3, state(), keep_last=2, is_best=False)
    loaded = load_checkpoint(path)
    assert path.name == "step-00000003.pt"
    assert torch.equal(loaded.pop("codec")["a"], torch.ones(2, 2))
    assert loaded == {key: value for key, value in state().items() if key != "codec"}


def test_the_last_few_and_the_best_are_kept(tmp_path):
    for step in range(1, 12):
        save_checkpoint(tmp_path, step, state(step), keep_last=3, is_best=step == 4)
    assert names(tmp_path) == ["best.pt", "step-00000009.pt", "step-00000010.pt", "step-00000011.pt"]
    assert load_checkpoint(tmp_path / "best.pt")["codec"]["a"][0, 0] == 4


def test_they_are_listed_by_step_without_the_best(tmp_path):
    for step in (2, 10, 1):
        save_checkpoint(tmp_path, step, state(), keep_last=9, is_best=True)
    assert [path.name for path in checkpoints(tmp_path)] == [f"step-{n:08d}.pt" for n in (1, 2, 10)]
    assert checkpoints(tmp_path / "absent") == []


def test_a_failed_save_leaves_the_old_checkpoint_and_nothing_half_written(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, state(1.0), keep_last=1, is_best=True)

    def fail(_state, target):
        target.write_bytes(b"half")
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(torch, "save", fail)
    for step in (1, 2):
        with pytest.raises(RuntimeError, match="disk is full"):
            save_checkpoint(tmp_path, step, state(2.0), keep_last=1, is_best=True)
    assert names(tmp_path) == ["best.pt", "step-00000001.pt"]
    assert load_checkpoint(tmp_path / "step-00000001.pt")["codec"]["a"][0, 0] == 1.0


@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"], ids=["empty", "text", "cut"]
)
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, content):
    path = tmp_path / "step-00000001.pt"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=f"cannot read the checkpoint {path}"):
        load_checkpoint(path)


def test_a_truncated_checkpoint_is_refused(tmp_path):
    path = save_checkpoint(tmp_path, 1, state(), keep_last=1, is_best=False)
    whole = path.read_bytes()
    for keep in (10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        with pytest.raises(ModelError):
            load_checkpoint(path)


def test_a_missing_checkpoint_is_refused(tmp_path):
    with pytest.raises(ModelError, match="cannot read the checkpoint"):
        load_checkpoint(tmp_path / "step-00000001.pt")


class Attack:
    def __reduce__(self):
        return os.mkdir, ("attacked",)


@pytest.mark.parametrize("write", [torch.save, lambda what, path: path.write_bytes(pickle.dumps(what))])
def test_a_checkpoint_cannot_run_code(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "step-00000001.pt"
    write({"codec": Attack()}, path)
    with pytest.raises(ModelError):
        load_checkpoint(path)
    assert not (tmp_path / "attacked").exists()
