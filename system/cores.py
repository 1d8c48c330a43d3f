"""How many processor cores this process may use: a container or a batch job has less than all."""

import os

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
