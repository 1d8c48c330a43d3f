"""Processes of one core each: in order, and out of the way of Ctrl-C."""

import os
import signal
import threading
import time
from concurrent.futures import Future
from functools import partial

import pytest
from conftest import refused

from system.cores import count_cores
from system.files import InputError
from system.parallel import Outcome, attempt, in_parallel


def halve(number):
    if number % 2:
        raise InputError(f"{number}: is odd")
    return number // 2


def blocked_signals(_):
    return signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 8), ("150000 100000", 2), ("20000 100000", 1), (None, 8)]
)
def test_no_more_cores_are_counted_than_a_container_has_time_for(
    tmp_path, monkeypatch, quota, cores
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    if quota:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert count_cores(tmp_path / "cpu.max") == cores


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_the_order_of_the_items_and_a_refused_one_ends_them(processes):
    results = in_parallel(halve, [8, 2, 3, 4], "numbers", processes)
    assert [next(results), next(results)] == [4, 1]
    with refused("3: is odd"):
        next(results)
    assert list(in_parallel(halve, [], "numbers", processes)) == []


@pytest.mark.parametrize("processes", [1, 2])
def test_a_refused_item_is_an_outcome_and_the_others_go_on(processes):
    one, refusal, other = in_parallel(partial(attempt, halve), [8, 3, 2], "numbers", processes)
    assert (one, other) == (Outcome(4), Outcome(1))
    assert refusal.result is None
    with refused("3: is odd"):
        raise refusal.error


def test_a_mistake_in_the_program_is_no_outcome():
    with pytest.raises(TypeError):
        attempt(halve, "three")


def test_a_process_never_gets_ctrl_c_not_even_while_it_imports():
    (blocked,) = in_parallel(blocked_signals, [0], "processes", 2)
    assert signal.SIGINT in blocked
    assert signal.SIGINT not in blocked_signals(0)


def test_ctrl_c_waits_for_a_process_to_start_though_another_thread_takes_it(monkeypatch):
    finished, started = threading.Event(), []

    class Pool:
        """Gets a Ctrl-C while it starts a process."""

        def __init__(self, *_, **options):
            pass

        def submit(self, function, item):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
            started.append(item)
            return Future()

        def shutdown(self, cancel_futures):
            assert cancel_futures

    monkeypatch.setattr("system.parallel.ProcessPoolExecutor", Pool)
    other = threading.Thread(target=finished.wait)
    other.start()
    # Whoever started the tests may have made them deaf to it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(in_parallel(halve, [8, 2], "numbers", 2))
    finally:
        signal.signal(signal.SIGINT, before)
        finished.set()
        other.join()
    assert started == [8]


def threads(_):
    import cv2
    from threadpoolctl import threadpool_info

    import synthetic.heads  # noqa: F401 - what computes by OpenCV in processes

    # Of numpy alone: scipy brings a library of its own, with which the processes compute nothing.
    numpys = (found for found in threadpool_info() if "numpy" in found["filepath"])
    return [cv2.getNumThreads(), *(found["num_threads"] for found in numpys)]


def test_each_process_computes_with_one_thread():
    (found,) = in_parallel(threads, [0], "threads", processes=2)
    assert set(found) == {1}


def wait_for(path):
    """Wait until a file is there, a minute at most."""
    for _ in range(1200):
        if path.exists():
            return True
        time.sleep(0.05)
    return False


def test_an_item_is_computed_while_a_process_works_on_an_earlier_one(tmp_path):
    later = tmp_path / "later"

    def items():
        yield later
        later.touch()
        yield later

    results = in_parallel(wait_for, items(), "files", processes=2, count=2)
    assert list(results) == [True, True]


def test_items_are_computed_no_faster_than_the_processes_keep_up():
    computed = []

    def items():
        for number in range(100):
            computed.append(number)
            yield 2 * number

    for place, result in enumerate(in_parallel(halve, items(), "numbers", 2, count=100)):
        assert result == place
        # This one, and one waiting for each of the two processes.
        assert len(computed) <= place + 3


def die(_):
    os._exit(1)


@pytest.mark.parametrize("count", [1, 50])
def test_a_process_that_dies_is_told_in_one_line(count):
    with refused("numbers: a process died, perhaps for lack of memory; the same command goes on"):
        list(in_parallel(die, iter(range(count)), "numbers", 2, count=count))
