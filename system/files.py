"""Input that is refused in one line, and outputs that appear whole or not at all."""

import contextlib
import csv
import errno
import hashlib
import json
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

try:
    import resource
except ImportError:  # Windows, which has no such limit
    resource = None

# What frameworks, pictures and pipes may need, and what they need at least.
OWN_FILES, FEWEST_OWN_FILES = 512, 64
NOT_PRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class InputError(Exception):
    """Something the user gave cannot be used; the message names it and says what to do.

    Scripts print it as one line on stderr and exit with code 2 (see `system.console.run_script`).
    """

    def __str__(self):
        return one_line(super().__str__())


class OutputError(Exception):
    """A result cannot be written: full disk, missing rights. Also one line and exit code 2.

    It is no `InputError`: a bad scan is left out and the others go on, but a full disk is the same
    for all of them.
    """


class ProgramError(Exception):
    """A program that is needed is missing or broken. Also one line, exit code 2, and for all scans."""


class Problem(NamedTuple):
    """A file that is left out, and the reason, which says what to do about it."""

    file: str
    reason: str

    def __str__(self):
        return one_line(f"{self.file}: {self.reason}")

    @classmethod
    def of(cls, error, file):
        """Make the error that leaves `file` out its reason; it may name the file, or one beside it."""
        return cls(str(file), str(error).removeprefix(one_line(f"{file}: ")))


def one_line(text):
    """Escape what is not printable in a file's name: line ends, control codes, broken bytes."""
    return NOT_PRINTABLE.sub(lambda odd: ascii(odd.group())[1:-1], str(text))


def first_few(names, most=5):
    """Write names on one line; of more than `most`, the first ones and how many there are besides."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


@contextlib.contextmanager
def whole_file(path):
    """Give a temporary name to write to, moved onto `path` when the block ends without an error.

    A reader, or a second start after a kill at any moment, sees the old file or the new one, never
    half of it. The name is in the same folder, so that the move is atomic, and has the same ending,
    by which writers choose their format. Missing folders are made. What cannot be written raises an
    `OutputError`.
    """
    path = Path(path)
    temporary = path.with_name(f".partial-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise OutputError(cannot_write(path, error)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def make_folder(folder):
    """Make a folder for outputs, or find out before hours of work that it cannot be written."""
    if NOT_PRINTABLE.search(str(folder)):
        raise InputError(f"{folder}: its name is not printable; choose another folder")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(cannot_write(folder, error)) from error


def is_full(error):
    """Say whether an OSError is for want of space: on the disk, of the quota, or in one file."""
    # numpy gives no number where only part of an array fits.
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "requested and" in str(error)


def cannot_write(path, error):
    """Say why a result cannot be written, and what to do."""
    mend = "free some space and the same command goes on, or " if is_full(error) else ""
    return (
        f"{path}: cannot be written ({error.strerror or error}); {mend}choose another folder "
        "(`paths` in config.yaml, or --output)"
    )


def save_text(path, text):
    """Write a text, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, "utf-8")


def save_json(path, content):
    """Write `content` as indented JSON, whole or not at all."""
    save_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def load_json(path, how_to_get_it):
    """Read a JSON file, or say in one line what is wrong with it and `how_to_get_it`."""
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: not found; {how_to_get_it}") from None
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {how_to_get_it}") from error


def refuse_foreign(folder, names, ours, script):
    """Refuse a folder where files of the user have the names of outputs; `ours` says whose they are."""
    found = [path for path in (Path(folder, name) for name in names) if path.exists()]
    if found and not ours:
        raise InputError(
            f"{found[0]}: {script} did not write it, so it stays; move it, or choose another folder"
        )


def require_file(path, how_to_get_it):
    """Refuse at once what a script would find missing only after its framework has started."""
    if not Path(path).is_file():
        raise InputError(f"{path}: not found; {how_to_get_it}")


def save_csv(path, rows):
    """Write a list of dictionaries as a table, whole or not at all.

    What a row lacks, and what is not a number, stays empty.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=columns)
        table.writeheader()
        table.writerows({k: "" if v != v else v for k, v in row.items()} for row in rows)


def allow_open_files(count):
    """Let this process hold so many files open beside its own; many systems begin with 1,024.

    Raises
    ------
    InputError
        If the system does not allow it; says how to ask for it.
    """
    if resource is None:
        return
    endless = resource.RLIM_INFINITY
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + OWN_FILES if hard == endless else min(count + OWN_FILES, hard)
    if soft != endless and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    if soft != endless and soft < count + FEWEST_OWN_FILES:
        raise InputError(
            f"{count} files are to be open at once beside some others, and the system allows {soft}; "
            f"raise that (ulimit -n {count + OWN_FILES}), or set slices.format to png and run prep.py again"
        )


def file_hash(path):
    """Return the SHA-256 of a file's bytes, shortened to 16 hex digits."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
