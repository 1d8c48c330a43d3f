"""How many processor cores this process may use: a container or a batch job has less than all."""

import math
import os
from pathlib import Path


def count_cores(quota_file=Path("/sys/fs/cgroup/cpu.max")):
    """Count the cores that the system gives, or as many as a container's quota of time is worth."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = map(int, quota_file.read_text("ascii").split())
    except (OSError, ValueError):  # not Linux, or no quota: ``max 100000``
        return cores
    return max(1, min(cores, math.ceil(quota / period)))


CORES = count_cores()
