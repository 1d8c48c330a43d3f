"""Tables that people keep in spreadsheets."""

import io
from pathlib import Path

import pandas


def read_spreadsheet(path):
    """Read a table as text, whichever separator, byte-order mark and capitals a spreadsheet chose.

    Names of columns are in small letters, and rows without any value are left out.
    """
    text = Path(path).read_text("utf-8-sig")
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)
    table = pandas.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False)
    table = table.rename(columns=lambda name: name.strip().lower())
    table = table.apply(lambda column: column.str.strip())
    return table[(table != "").any(axis=1)]
