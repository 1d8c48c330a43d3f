"""Scans divided into strata: by lesion, by site, by scanner, by what else is known of the person."""

from typing import NamedTuple

import numpy as np
import pandas

from scans.metadata import NAMES, OTHER
from scans.names import UNKNOWN_SITE
from system.files import InputError

NOT_KNOWN, NO_LESION = "not known", "no lesion"
VOLUME_STRATA = ("<1 ml", "1–10 ml", "10–50 ml", ">50 ml")
COUNTS = (NO_LESION, "1", "2–4", "5 or more")
VOXELS = ("<0.95 mm", "0.95–1.05 mm", "1.05–2 mm", ">2 mm")
TIMES = ("to 7 days", "8–179 days", "below 180 days", "from 180 days")
# What ``chronicity`` says where the days are not known.
CHRONIC = dict.fromkeys(("1", "1.0", "chronic", "yes", "true"), TIMES[3])
CHRONIC |= dict.fromkeys(("0", "0.0", "not chronic", "no", "false"), TIMES[2])
# A column of more different numbers is divided at its quartiles.
MOST_VALUES = 6


class Strata(NamedTuple):
    """One way to divide scans: the stratum of each scan, and the strata in their order."""

    of_scan: pandas.Series
    names: list


def strata_of(table, columns=()):
    """Divide the scans of metrics.csv in each way that its columns allow.

    `table` has a row for each scan, whatever the run and the seed, with index (subject, session);
    `columns` are those of the user's own tables (`evaluation.strata`).

    Returns
    -------
    dict of str to Strata
        By what they are divided by, in words.
    """
    volumes = table.lesion_volume_ml.map(volume_stratum)
    healthy = [NO_LESION] if NO_LESION in set(volumes) else []
    found = {"lesion volume": Strata(volumes, [*healthy, *VOLUME_STRATA])}
    if "lesion_count" in table:
        found["number of lesions"] = _present(table.lesion_count.map(_count), COUNTS)
    if {"days_post_stroke", "chronicity"} & set(table):
        found["time since stroke"] = _by_time(table)
    found["site"] = _present(_words(table.site.replace(UNKNOWN_SITE, "")))
    if "longest_voxel_side_mm" in table:
        sides = table.longest_voxel_side_mm.map(_voxel)
        found["longest side of a voxel"] = _present(sides, VOXELS)
    return found | {name: _by_own(table[OTHER + name]) for name in columns if name not in NAMES}


def check_strata(columns, cases):
    """Refuse a column of `evaluation.strata` that no table beside the scans has; name those there."""
    known = {name: None for case in cases for name in case.metadata if name not in NAMES}
    known = [name.removeprefix(OTHER) for name in known]
    for column in columns:
        if column not in (*known, *NAMES):
            raise InputError(
                f"evaluation.strata: no participants.tsv or *_metadata.csv has a column {column}; "
                f"there are {', '.join(known) or 'no others'}"
            )


def volume_stratum(lesion_volume_ml):
    """Name the stratum of a lesion volume: no lesion, or one of `VOLUME_STRATA`.

    1 ml belongs to 1–10 ml, and 10 and 50 ml to 10–50 ml.
    """
    if lesion_volume_ml == 0:
        return NO_LESION
    if lesion_volume_ml > 50:
        return VOLUME_STRATA[3]
    return VOLUME_STRATA[(lesion_volume_ml >= 1) + (lesion_volume_ml >= 10)]


def _count(lesions):
    return COUNTS[(lesions >= 1) + (lesions >= 2) + (lesions >= 5)]


def _voxel(side_mm):
    return VOXELS[(side_mm >= 0.95) + (side_mm > 1.05) + (side_mm > 2)]


def _present(of_scan, names=()):
    """Keep of the names those that occur, and what has no name of these before what is not known."""
    occurring = set(of_scan)
    others = sorted(occurring.difference(names, [NOT_KNOWN]))
    return Strata(of_scan, [n for n in (*names, *others, NOT_KNOWN) if n in occurring])


def _words(column):
    return column.fillna("").astype(str).replace("", NOT_KNOWN)


def _by_time(table):
    """Divide by the days since the stroke, or by the word for it where the days are not known."""
    nothing = pandas.Series("", table.index)
    days = pandas.to_numeric(table.get("days_post_stroke", nothing), errors="coerce")
    words = _words(table.get("chronicity", nothing)).str.lower()
    words = words.replace(CHRONIC)
    by_days = days.fillna(0).map(lambda day: TIMES[3] if day >= 180 else TIMES[int(day > 7)])
    return _present(words.where(days.isna(), by_days), TIMES)


def _by_own(column):
    """Divide by the values of a column; numbers of many values at their quartiles."""
    words = _words(column)
    known = words[words != NOT_KNOWN]
    numbers = pandas.to_numeric(known, errors="coerce")
    if not np.isfinite(numbers).all() or numbers.nunique() <= MOST_VALUES:
        return _present(words)
    quarters = pandas.qcut(numbers, 4, labels=False, duplicates="drop")
    names = numbers.groupby(quarters).agg(lambda own: f"{own.min():.10g} to {own.max():.10g}")
    words.loc[known.index] = quarters.map(names)
    return _present(words, tuple(names))
