"""Run a script of the pipeline that kills itself in the middle of things, as `kill -9` would.

    python tests/scripts/kill_at.py train_model pathlib.Path.replace:3 --set train.epochs=2

dies just before the third call of that function; a `write_bytes` has written half by then. Last it
prints the process numbers of its workers. With `:3:SIGINT` it sends its whole group a Ctrl-C instead.
"""

import importlib
import itertools
import multiprocessing
import os
import pkgutil
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))


def kill_at(dotted, number, interrupt):
    """Replace a function by one that lives for `number` - 1 calls."""
    owner, _, name = dotted.rpartition(".")
    owner = pkgutil.resolve_name(owner)
    original, calls = getattr(owner, name), itertools.count(1)

    def deadly(*arguments, **options):
        if next(calls) == number:
            if name == "write_bytes":
                path, content = arguments
                original(path, content[: len(content) // 2])
            if interrupt:
                os.killpg(0, signal.SIGINT)
                return original(*arguments, **options)
            print(*[worker.pid for worker in multiprocessing.active_children()], flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(owner, name, deadly)


if __name__ == "__main__":
    from system.console import run_script

    script, moment, *sys.argv[1:] = sys.argv[1:]
    # A shell makes what it starts in the background deaf to Ctrl-C, and its children with it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    dotted, number, *interrupt = moment.split(":")
    kill_at(dotted, int(number), interrupt)
    run_script(importlib.import_module(script).main)
