"""Processes of one core each: in order, and out of the way of Ctrl-C."""

import os
import signal
import threading
import time

import pytest
from conftest import refused

from system.files import InputError
from system.parallel import _without_interrupts, in_parallel


def halve(number):
    if number % 2:
        raise InputError(f"{number}: is odd")
    return number // 2


def blocked_signals(_):
    return signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.parametrize("processes", [1, 2])
def test_results_and_errors_come_in_the_order_of_the_items(processes):
    results = list(in_parallel(halve, [8, 3, 2], "numbers", processes))
    assert (results[0](), results[2]()) == (4, 1)
    with refused("3: is odd"):
        results[1]()
    assert list(in_parallel(halve, [], "numbers", processes)) == []


def test_a_process_never_gets_ctrl_c_not_even_while_it_imports():
    (result,) = in_parallel(blocked_signals, [0], "processes", 2)
    assert signal.SIGINT in result()
    assert signal.SIGINT not in blocked_signals(0)


def test_ctrl_c_is_put_off_though_another_thread_takes_it():
    finished, reached = threading.Event(), []
    other = threading.Thread(target=finished.wait)
    other.start()
    # Whoever started the tests may have made them deaf to it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), _without_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
            reached.append("the end of the block")
    finally:
        signal.signal(signal.SIGINT, before)
        finished.set()
        other.join()
    assert reached


def threads(_):
    import cv2
    from threadpoolctl import threadpool_info

    # Of numpy alone: scipy brings a library of its own, with which the processes compute nothing.
    numpys = (found for found in threadpool_info() if "numpy" in found["filepath"])
    return [cv2.getNumThreads(), *(found["num_threads"] for found in numpys)]


def test_each_process_computes_with_one_thread():
    (found,) = (result() for result in in_parallel(threads, [0], "threads", processes=2))
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
    assert [result() for result in results] == [True, True]


def test_items_are_computed_no_faster_than_the_processes_keep_up():
    computed = []

    def items():
        for number in range(100):
            computed.append(number)
            yield 2 * number

    for place, result in enumerate(in_parallel(halve, items(), "numbers", 2, count=100)):
        assert result() == place
        # This one, and one waiting for each of the two processes.
        assert len(computed) <= place + 3


def die(_):
    os._exit(1)


@pytest.mark.parametrize("count", [1, 50])
def test_a_process_that_dies_is_told_in_one_line(count):
    with refused("numbers: a process died, perhaps for lack of memory; the same command goes on"):
        list(in_parallel(die, iter(range(count)), "numbers", 2, count=count))
