"""One process a core, in order, with a progress bar, ended cleanly by Ctrl-C and by a kill."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from system.files import InputError

# What this process may use, where the system tells: a container or a batch job has less than all.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
# Enough to keep up with a network on a GPU; on a processor one is mostly at work.
WRITERS = min(CORES, 4)
AHEAD = 4  # so many items of a list a process wait or are done: a long one holds up no other


def in_parallel(function, items, label, processes=CORES, count=None):
    """Call a function on each item in processes of their own.

    Items may be computed here, one after the other, while the processes work on earlier ones; of
    such no more than one a process waits.

    Parameters
    ----------
    function : callable
        Of one item; must be importable, as must the items be picklable.
    items : list or iterator
    label : str
        Of the progress bar.
    processes : int
        1 calls it in this process.
    count : int, optional
        Of items, if they are no list.

    Yields
    ------
    callable
        For each item, in order, what returns the function's result or raises its exception.

    Raises
    ------
    InputError
        If a process died, as the operating system makes it where memory is short.
    """
    from tqdm import tqdm

    count = len(items) if count is None else count
    bar = tqdm(total=count, desc=label, disable=None)
    if processes == 1:
        for item in items:
            yield lambda item=item: function(item)
            bar.update()
        bar.close()
        return
    # Forking a process that has threads, as TensorFlow's, may hang.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(processes, count) or 1, spawn, initializer=_start)
    begun, most = deque(), processes * (AHEAD if isinstance(items, list) else 1)

    def first_result():
        job = begun.popleft()
        if isinstance(job.exception(), BrokenProcessPool):
            raise job.exception()
        bar.update()
        return job.result

    try:
        for item in items:
            # Not before `_start` could a process leave Ctrl-C to this one: it imports first.
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
    # The mask is what a new process inherits. Another thread may still take the signal, and Python
    # then calls the handler here.
    handler = signal.signal(signal.SIGINT, lambda *_: noted.append("Ctrl-C"))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if noted:
        signal.raise_signal(signal.SIGINT)


def _start():
    """Leave Ctrl-C to the parent, and the other cores to the other processes; die with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    use_one_thread()


def use_one_thread():
    """Keep OpenCV and numpy's linear algebra to one core; their threads wait by computing."""
    import cv2
    from threadpoolctl import threadpool_limits

    cv2.setNumThreads(1)
    threadpool_limits(1)


def _end_with_parent():
    """End at once when the parent is gone, however it ended.

    Left alone, a process would finish its item while a second start is writing the same files,
    and then wait for ever.
    """
    multiprocessing.parent_process().join()
    os._exit(1)
