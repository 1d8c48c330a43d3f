"""Tables that people keep in spreadsheets."""

import csv
from io import StringIO
from pathlib import Path

import pandas


def read_spreadsheet(path):
    """Read a table as text, whichever separator, byte-order mark and capitals a spreadsheet chose.

    Names of columns are in small letters, and rows without any value are left out. A file that is
    no such table raises a `ValueError`.
    """
    text = Path(path).read_text("utf-8-sig")
    header = text.partition("\n")[0]
    tabs = Path(path).suffix == ".tsv"
    separator = "\t" if tabs else max(",;\t", key=header.count)
    try:
        rows = [
            [cell.strip() for cell in row]
            for row in csv.reader(StringIO(text), delimiter=separator)
        ]
    except csv.Error as error:
        raise ValueError(error) from None
    rows = [row for row in rows if any(row)]
    if not rows:
        raise ValueError("it is empty")
    names = [name.lower() for name in rows[0]]
    while not names[-1]:  # separators at the end of each line
        names.pop()
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two columns are called {min(twice)!r}")
    for number, row in enumerate(rows, start=1):
        if any(row[len(names) :]):
            raise ValueError(f"row {number} has more cells than there are columns")
    cells = [[*row, *[""] * len(names)][: len(names)] for row in rows[1:]]
    return pandas.DataFrame(cells, columns=names, dtype=str)
