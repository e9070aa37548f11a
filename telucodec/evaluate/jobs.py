"""Work on many items in several processes: results in the order of the items, whatever the number.

Each worker is a fresh process that sets itself up once, uses one thread, and works on one item at a time:
so many workers need so many times the memory of one item, and a figure does not depend on how many there are.
"""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, TypeVar

from telucodec.errors import TelucodecError

Item = TypeVar("Item")
Result = TypeVar("Result")

MIN_ITEMS_PER_JOB = 8  # below, starting a process takes longer than it saves
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

_work: Callable[[Any], Any]  # of this worker process


def default_jobs(n_items: int) -> int:
    """As many as there are cores to use, as far as every one has a few items to work on."""
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(n_cores, n_items // MIN_ITEMS_PER_JOB))


def in_order(
    setup: Callable[[], Callable[[Item], Result]], items: Sequence[Item], n_jobs: int
) -> Iterator[Result]:
    """``work(item)`` for every item, where ``setup()`` gives ``work``; in this process if ``n_jobs`` is 1.

    For more jobs ``setup``, items and results are sent between processes and must be picklable.

    Raises:
        TelucodecError: a worker process died.
    """
    if n_jobs == 1:
        with one_thread():
            work = setup()
            for item in items:
                yield work(item)
        return
    with _environment(dict.fromkeys(THREADS, "1")):
        pool = ProcessPoolExecutor(n_jobs, get_context("spawn"), _set_up, (setup,))
        try:
            yield from pool.map(_call, items)
        except BrokenProcessPool as error:
            raise TelucodecError(
                "a worker process died, perhaps for want of memory; try fewer --jobs"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread, as in the workers, so that sums come out the same."""
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def _set_up(setup: Callable[[], Callable[[Any], Any]]) -> None:
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the first one ends the rest
    _work = setup()


def _call(item: Any) -> Any:
    return _work(item)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Variables that processes started meanwhile inherit: read when a library is loaded, so not set later."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
