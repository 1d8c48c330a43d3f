"""A lock that only one process holds, and that no dead process keeps."""

import contextlib
import os
import socket
from datetime import datetime
from pathlib import Path

from system.files import InputError, OutputError, cannot_write

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None


def take_lock(file, folder, doing="training", setting="paths.runs", shared=False):
    """Let this process alone write to `folder` until it closes what this returns, or ends.

    Those that hold it `shared` keep out only those that do not.

    `doing` and `setting` are words of the refusal: what the other does, and how to get out of its way.

    The system itself lets go of the lock of a process that died, also on another machine that shares
    the disk. Where the disk knows no locks nothing is locked.

    Raises
    ------
    InputError
        If another process holds it; says which, and since when.
    OutputError
        If nothing can be written there.
    """
    path = Path(file)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise OutputError(cannot_write(folder, error)) from error
    try:
        if fcntl:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        lock.close()
        raise InputError(
            f"{folder}: {holder} is {doing} here; let it end or stop it, or choose another {setting}"
        ) from None
    except OSError:
        # No locks on this disk.
        return lock
    lock.truncate(0)
    started = datetime.now().isoformat(" ", timespec="seconds")
    lock.write(f"process {os.getpid()} on {socket.gethostname()}, since {started},")
    lock.flush()
    return lock


@contextlib.contextmanager
def waiting_for_lock(file):
    """Run the block while no other process does so; where the disk knows no locks, at once."""
    with contextlib.ExitStack() as opened:
        try:
            lock = opened.enter_context(Path(file).open("a+"))
        except OSError as error:
            raise OutputError(cannot_write(file, error)) from error
        if fcntl:
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield
