"""One process a core: results in order, a progress bar, a clean end by Ctrl-C and by a kill."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import numpy  # noqa: F401 - only what is loaded can be kept to one thread
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from system.cores import CORES
from system.files import InputError

# Enough to keep up with a small network; beside a large one they are mostly idle.
WRITERS = min(CORES, 4)
# Items that wait or are done ahead of the next result, per process: a long one holds up no other.
AHEAD = 4


class Outcome(NamedTuple):
    """What a function returned for an item, or the `InputError` that it raised instead."""

    result: object = None
    error: InputError | None = None


def attempt(function, item):
    """Call a function; a refused input is an outcome, so that the other items go on."""
    try:
        return Outcome(function(item))
    except InputError as error:
        return Outcome(error=error)


def in_parallel(function, items, label, processes=CORES, count=None):
    """Call a function on each item, each in a process of its own, and yield the results in order.

    Function and items must be importable and picklable; with one process the function is called in
    this one. Items may be an iterator of `count` items, which computes them here while the
    processes work on earlier ones; at most one a process then waits. `label` is that of the
    progress bar.

    Raises
    ------
    InputError
        If a process died, as the operating system makes it when memory is short.
    """
    count = len(items) if count is None else count
    bar = tqdm(total=count, desc=label, disable=None)
    if processes == 1:
        for item in items:
            yield function(item)
            bar.update()
        bar.close()
        return
    # Forking a process that has threads, as OpenVINO has, may hang.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(processes, count) or 1, spawn, initializer=_start_worker)
    begun, most = deque(), processes * (AHEAD if isinstance(items, list) else 1)

    def first_result():
        result = begun.popleft().result()
        bar.update()
        return result

    try:
        for item in items:
            # A worker ignores Ctrl-C only once `_start_worker` runs, and it imports first.
            with _without_interrupts():
                begun.append(pool.submit(function, item))
            while begun and (begun[0].done() or len(begun) > most):
                yield first_result()
        while begun:
            yield first_result()
    except BrokenProcessPool:
        raise InputError(
            f"{label}: a process died, perhaps for lack of memory; the same command goes on"
        ) from None
    finally:
        # What has begun is finished, what has not is dropped: a start anew takes it up.
        pool.shutdown(cancel_futures=True)
        bar.close()


@contextlib.contextmanager
def _without_interrupts():
    """Put Ctrl-C off to the end of the block; a process started in it never gets one."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    noted = []
    # A new process inherits the mask. Another thread may still take the signal, and Python then calls
    # the handler here.
    handler = signal.signal(signal.SIGINT, lambda *_: noted.append("Ctrl-C"))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if noted:
        signal.raise_signal(signal.SIGINT)


def _start_worker():
    """Leave Ctrl-C to the parent and the other cores to the other workers; end with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    use_one_thread()


def use_one_thread():
    """Keep numpy's linear algebra to one core; its threads wait by computing."""
    threadpool_limits(1)


def _end_with_parent():
    """End at once when the parent is gone, however it ended.

    A worker left alone would finish its item while a second start writes the same files.
    """
    multiprocessing.parent_process().join()
    os._exit(1)
