"""What is known of the people scanned: participants.tsv of BIDS, and *_metadata.csv of ATLAS R3.0."""

import re
from pathlib import Path

from scans.names import stem_of
from scans.spreadsheet import read_spreadsheet
from system.files import InputError, Problem

# The columns that mean something here, with the names that data sets give them.
NAMES = {
    "site": ("site", "center", "centre"),
    "days_post_stroke": ("days_post_stroke",),
    "chronicity": ("chronicity",),
}
GAPS = {"", "n/a", "na", "nan", "none", "null"}
# Goes before the name of any other column, so that it takes the place of none of ours.
OTHER = "participant_"


class Metadata:
    """The tables with metadata in the folder of a data set, each read once.

    `problems` has those that could not be used: no scan needs them.
    """

    def __init__(self, folder):
        self.folder, self.problems, self._tables = Path(folder), [], {}

    def of(self, image, subject, session):
        """Return what is known of a scan, by column: those of `NAMES`, and others after `OTHER`.

        A ``*_metadata.csv`` beside the image, whose name the image's begins with, goes before
        participants.tsv in the nearest folder above it.
        """
        found = {}
        for folder in (image.parent, *image.parent.parents):
            if (folder / "participants.tsv").is_file():
                rows = self._read(folder / "participants.tsv", _by_participant)
                subject = subject.removeprefix("sub-")
                found = rows.get((subject, _label(session)), rows.get((subject, ""), {}))
                break
            if folder == self.folder:
                break
        for path in sorted(image.parent.glob("*_metadata.csv"), key=lambda path: len(path.name)):
            if stem_of(image).startswith(path.name.removesuffix("metadata.csv")):
                found = found | self._read(path, _only_row)
        return dict(found)

    def _read(self, path, rows_of):
        if path not in self._tables:
            self._tables[path] = {}
            try:
                self._tables[path] = rows_of(read_spreadsheet(path))
            except InputError as error:
                self.problems.append(Problem(str(path), f"{error}; its columns are not used"))
            except (OSError, ValueError) as error:
                reason = " ".join(str(error).split())
                self.problems.append(Problem(str(path), f"not a table ({reason}); not used"))
        return self._tables[path]


def _by_participant(table):
    """Map subject and session, "" where the table has none, to the columns of a row."""
    if "participant_id" not in table:
        raise InputError("has no column participant_id")
    rows = {}
    for row in table.to_dict("records"):
        subject = row.pop("participant_id")
        if not subject:
            continue
        whose = subject.removeprefix("sub-"), _label(row.pop("session_id", ""))
        if whose in rows:
            raise InputError(f"{subject} is listed twice")
        rows[whose] = _named(row)
    return rows


def _only_row(table):
    if len(table) != 1:
        raise InputError(f"has {len(table)} rows, and belongs to one scan")
    return _named(table.to_dict("records")[0])


def _named(row):
    """Give columns our names, and leave out what is not known."""
    row = {re.sub(r"\s+", "_", name): value for name, value in row.items() if name}
    row = {name: value for name, value in row.items() if value.lower() not in GAPS}
    named = {}
    for name, others in NAMES.items():
        values = [row.pop(other) for other in others if other in row]
        named |= {name: values[0]} if values else {}
    return named | {OTHER + name: value for name, value in row.items()}


def _label(session):
    """Return the label of a session, without what tells several scans of it apart."""
    return session.removeprefix("ses-").partition("_")[0]
