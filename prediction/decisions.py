"""What a person decided about masks: decisions.tsv, a row a mask."""

import csv
import getpass
from datetime import datetime
from pathlib import Path

from system.files import InputError, whole_file

FILE = "decisions.tsv"
WORDS = ("accept", "mend", "reject")
ENCODING = {"encoding": "utf-8", "errors": "surrogateescape"}  # names of files are bytes
COLUMNS = ("mask", "decision", "by", "when")


def read_decisions(folder):
    """Read the decisions in a folder: rows by mask; a table of the page has two columns alone.

    Raises
    ------
    InputError
        If the file is no such table; names the line.
    """
    path = Path(folder, FILE)
    if not path.exists():
        return {}
    try:
        with path.open(newline="", **ENCODING) as file:
            rows = list(csv.reader(file, csv.excel_tab))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); repair or delete it") from None
    if not rows or not {"mask", "decision"} <= set(rows[0]):
        raise InputError(f"{path}: has no columns mask and decision; repair or delete it")
    decisions = {}
    for number, cells in enumerate(rows[1:], 2):
        row = dict(zip(rows[0], cells, strict=False))
        if row.get("decision") not in WORDS:
            raise InputError(
                f"{path}: line {number}: the decision must be {', '.join(WORDS)}; repair the line"
            )
        decisions[row["mask"]] = {name: row.get(name, "") for name in COLUMNS}
    return decisions


def words_of(decisions):
    """Return the decision by mask."""
    return {mask: row["decision"] for mask, row in decisions.items()}


def decide(folder, mask, word):
    """Write down a decision, or take it back where `word` is empty."""
    decisions = read_decisions(folder)
    decisions.pop(mask, None)
    if word:
        decisions[mask] = dict(zip(COLUMNS, (mask, word, *signature()), strict=True))
    with (
        whole_file(Path(folder, FILE)) as temporary,
        temporary.open("w", newline="", **ENCODING) as file,
    ):
        table = csv.DictWriter(file, COLUMNS, dialect=csv.excel_tab, lineterminator="\n")
        table.writeheader()
        table.writerows(decisions.values())


def signature():
    """Return who sits here, and when."""
    try:
        who = getpass.getuser()
    except (KeyError, OSError):
        who = "unknown"
    return who, datetime.now().isoformat(timespec="seconds")
