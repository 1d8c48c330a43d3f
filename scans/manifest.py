"""The manifest, slices.csv: which slices are prepared, and where they are.

`prep.py` writes it; the stages read nothing else. A row is one axial slice:

dataset, subject, session, site   of the scan
z, lesion_pixels                  its place in the scan (in RAS), and the lesion on it
image, mask, position             files below the prepared folder, and the place in a stack
skip_mm                           height that was left out at the bottom and at the top
align, brain                      the settings of section geometry
mean, std                         of the scan's intensities, for `scans.intensity.standardise`
content                           hash of all its scan's slices: finds a scan under two names
alike                             the same for scans that are nearly identical
mask_content                      hash of all its scan's masks: a mended one makes other data
days_post_stroke, ...             what else is known of the person, if anything: see `scans.metadata`
"""

import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas

from system.files import InputError

COLUMNS = {
    "dataset": str,
    "subject": str,
    "session": str,
    "site": str,
    "z": int,
    "lesion_pixels": int,
    "image": str,
    "mask": str,
    "position": int,
    "skip_mm": int,
    "align": str,
    "brain": str,
    "mean": float,
    "std": float,
    "content": str,
    "alike": str,
    "mask_content": str,
}
# Whoever edits the table must not point outside the prepared folder.
INSIDE = re.compile(r"(?!/)(?!(.*/)?\.\.(/|$))[^\\\0]+\.(npy|png)")


def load_manifest(folder, dataset):
    """Read the rows of one data set from slices.csv of a prepared folder, with the columns above.

    Those of `metadata_columns` are text.

    Raises
    ------
    InputError
        If the file is missing or not such a table, has no slice of `dataset`, or holds a row that
        prep.py cannot have written; names the line.
    """
    path = Path(folder) / "slices.csv"
    try:
        types = defaultdict(lambda: str, COLUMNS)
        table = pandas.read_csv(path, dtype=types, keep_default_na=False)
        table = table[[*COLUMNS, *metadata_columns(table)]]
    except FileNotFoundError:
        raise InputError(f"{path}: not found; run prep.py first") from None
    except (ValueError, KeyError, OSError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a table of slices ({reason}); run prep.py again") from None
    for reason, wrong in _impossible_rows(table).items():
        if wrong.any():
            line = int(np.flatnonzero(wrong)[0]) + 2
            raise InputError(f"{path}, line {line}: {reason}; run prep.py again")
    rows = table[table.dataset == dataset].reset_index(drop=True)
    if rows.empty:
        raise InputError(f"{path}: no slices of {dataset}; set paths.{dataset} and run prep.py")
    return rows


def metadata_columns(rows):
    """List the columns of a manifest that come from a data set's own tables."""
    return [name for name in rows.columns if name not in COLUMNS]


def _impossible_rows(table):
    """Find the rows that prep.py cannot have written: a boolean column for each reason."""
    scan, stacked = ["dataset", "subject", "session"], table.image.str.endswith(".npy")
    offset = (table.z - table.position).where(stacked, 0)
    reasons = {
        f"{name} is negative": table[name] < 0 for name in ("z", "lesion_pixels", "position")
    }
    reasons |= {
        f"{name} is not a file below this folder": ~_by_unique_value(table[name], INSIDE.fullmatch)
        for name in ("image", "mask")
    }
    reasons |= {
        f"{name} is not a name": _by_unique_value(table[name], re.compile(r"[/\\]|^\.").search)
        for name in scan
    }
    reasons["mean and std are not finite intensities"] = ~(
        np.isfinite(table["mean"]) & np.isfinite(table["std"]) & (table["std"] > 0)
    )
    reasons["the same slice stands there twice"] = table.duplicated([*scan, "z"])
    own = [table[name] for name in scan]
    # z minus the place in a stack is the number of slices left out below, the same for a whole scan.
    first = offset.groupby(own).transform("first")
    reasons["z and position do not fit the other slices of the scan"] = offset != first
    # A network sees the slices above and below by the rows that follow one another.
    reasons["the slices of its scan do not follow one another"] = table.z.groupby(own).diff().le(
        0
    ) | (table.duplicated(scan) & (table[scan] != table[scan].shift()).any(axis=1))
    return reasons


def _by_unique_value(column, holds):
    """Ask whether something holds of each value; once, though it stands in hundreds of rows."""
    return column.map({value: bool(holds(value)) for value in column.unique()}).astype(bool)
