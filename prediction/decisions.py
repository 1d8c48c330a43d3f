"""What a person decided about masks: decisions.tsv, a row a mask."""

import csv
import getpass
from datetime import datetime
from pathlib import Path

from system.files import InputError, whole_file
from system.locks import waiting_for_lock

FILE = "decisions.tsv"
DECISIONS = ("accept", "mend", "reject")
COLUMNS = ("mask", "decision", "content", "by", "when")
ENCODING = {"encoding": "utf-8", "errors": "surrogateescape"}  # names of files are bytes


def read_decisions(folder):
    """Read the decisions in a folder: rows by mask, with whatever columns a person added.

    ``content`` is the hash of the mask that the decision is about; empty where it is not known, as
    in a table that a person wrote.

    Raises
    ------
    InputError
        If the file is no such table; names the line.
    """
    path = Path(folder, FILE)
    if not path.exists():
        return {}
    try:
        # Excel begins a file by a mark of its encoding.
        with path.open(newline="", **ENCODING) as file:
            rows = list(csv.reader(file, csv.excel_tab))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); repair or delete it") from None
    head = [name.removeprefix("\ufeff") for name in rows[0]] if rows else []
    if not {"mask", "decision"} <= set(head):
        raise InputError(f"{path}: has no columns mask and decision; repair or delete it")
    decisions = {}
    for number, cells in enumerate(rows[1:], 2):
        row = dict.fromkeys(COLUMNS, "") | dict(zip(head, cells, strict=False))
        if not any(cells):
            continue
        if not row["mask"] or row["decision"] not in DECISIONS:
            raise InputError(
                f"{path}: line {number}: must have a mask, and as decision {', '.join(DECISIONS)}; "
                "repair the line"
            )
        decisions[row["mask"]] = row
    return decisions


def decisions_about(masks, decisions):
    """Return the decision by mask, of those masks that are still what was decided about."""
    return {
        judged.name: row["decision"]
        for judged in masks
        if (row := decisions.get(judged.name)) and row["content"] in ("", judged.content)
    }


def decide(folder, judged, decision):
    """Write down a decision about a mask, or take it back where `decision` is empty."""
    with waiting_for_lock(Path(folder, f".{FILE}.lock")):
        decisions = read_decisions(folder)
        earlier = decisions.pop(judged.name, {})
        if decision:
            values = (judged.name, decision, judged.content, *signature())
            decisions[judged.name] = earlier | dict(zip(COLUMNS, values, strict=True))
        columns = dict.fromkeys([*COLUMNS, *(name for row in decisions.values() for name in row)])
        with (
            whole_file(Path(folder, FILE)) as temporary,
            temporary.open("w", newline="", **ENCODING) as file,
        ):
            table = csv.DictWriter(file, columns, dialect=csv.excel_tab, lineterminator="\n")
            table.writeheader()
            table.writerows(decisions.values())


def signature():
    """Return who sits here, and when."""
    try:
        who = getpass.getuser()
    except (KeyError, OSError):
        who = "unknown"
    return who, datetime.now().isoformat(timespec="seconds")
