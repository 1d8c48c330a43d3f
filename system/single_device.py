"""One device, whatever the backend: nothing is shared."""

import contextlib
from pathlib import Path


def devices_of_processes():
    return [["device"]]


def share_batches(names):
    pass


def shard_of_batch():
    return range


def check_last_batches(training, validation):
    pass


def feed(batches):
    return batches


@contextlib.contextmanager
def in_turns(folder):
    yield Path(folder)


def device_number():
    return 0


def sum_over_devices(values):
    return values


def moments_over_devices(mean, variance, count):
    return mean, variance
