"""Who trains, who validates and who is held back: by subject or by site, never by slice."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas

from system.files import InputError, load_json

# Columns of slices.csv that find one scan under two names, and what they say.
SAME_SCAN = {"content": "the same scan", "alike": "nearly the same scan"}


def make_split(rows, by, folds, test_fraction, seed):
    """Deal the subjects of one data set out to a test part and `folds` validation folds.

    Each part gets small and large lesions alike: subjects are stratified by lesion volume. All
    sessions of a subject, and (nearly) identical scans under two names, stay in one part.

    Parameters
    ----------
    rows : pandas.DataFrame
        One row a slice, from `scans.slices.load_manifest`.
    by : {"subject", "site"}
        What stays together.
    folds : int
    test_fraction : float
        Share of the subjects held back, 0 to 1.
    seed : int

    Returns
    -------
    dict
        ``{"test": [subject, ...], "folds": [[subject, ...], ...]}``

    Raises
    ------
    InputError
        If there are too few subjects or sites.
    """
    from sklearn.model_selection import StratifiedKFold, train_test_split

    groups = _groups(rows, by)
    held_back = max(1, round(test_fraction * len(groups))) if test_fraction else 0
    if len(groups) - held_back < folds:
        raise InputError(
            f"split: {len(groups)} separate {by}s of {rows.dataset.iloc[0]}, of which {held_back} "
            f"are held back, are too few for {folds} folds; give more scans, or set split.folds "
            "or split.test_fraction lower"
        )
    test, rest = [], groups
    if held_back:
        strata = _strata(groups, min(held_back, len(groups) - held_back))
        _, test = train_test_split(
            np.arange(len(groups)), test_size=held_back, stratify=strata, random_state=seed
        )
        rest = groups.drop(groups.index[test])

    def subjects(groups):
        return sorted(subject for members in groups.subjects for subject in members)

    deck = StratifiedKFold(folds, shuffle=True, random_state=seed)
    parts = [part for _, part in deck.split(rest, _strata(rest, len(rest) // folds))]
    return {
        "test": subjects(groups.iloc[test]),
        "folds": [subjects(rest.iloc[part]) for part in parts],
    }


def _strata(groups, most):
    """Number each group by lesion volume, from small to large, in 4 strata or `most` if fewer."""
    order = groups.lesion.rank(method="first")
    return pandas.qcut(order, max(1, min(4, most)), labels=False)


def _groups(rows, by):
    """List what must stay together, with its subjects and their mean lesion size in voxels."""
    subjects = rows.groupby("subject").agg(site=("site", "first"), lesion=("lesion_pixels", "sum"))
    subjects["group"] = subjects.site if by == "site" else subjects.index
    for column in SAME_SCAN:
        for twins in rows.groupby(column).subject.unique():
            same = subjects.group.isin(subjects.group[twins])
            subjects.loc[same, "group"] = subjects.group[twins[0]]
    return (
        subjects.reset_index()
        .groupby("group")
        .agg(subjects=("subject", list), lesion=("lesion", "mean"))
    )


def split_from_table(path, rows, folds):
    """Take over a published split: a csv with the columns `subject` and `fold`.

    Parameters
    ----------
    path : path-like
        `fold` is 0, 1, ... or ``test``.
    rows : pandas.DataFrame
        From `scans.slices.load_manifest`; each of its subjects must be in the table.
    folds : int

    Returns
    -------
    dict
        As `make_split`.
    """
    try:
        table = pandas.read_csv(path, dtype=str, keep_default_na=False)
        fold_of = dict(zip(table["subject"], table["fold"], strict=True))
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a csv with columns subject and fold ({reason})") from None
    if len(fold_of) < len(table):
        twice = table.subject[table.subject.duplicated()].iloc[0]
        raise InputError(f"{path}: subject {twice} is listed twice")
    subjects = sorted(rows.subject.unique())
    names = [*map(str, range(folds)), "test"]
    for subject in subjects:
        if fold_of.get(subject) not in names:
            found = f"fold {fold_of[subject]}" if subject in fold_of else "no fold"
            raise InputError(f"{path}: {subject} has {found}; give it one of {', '.join(names)}")
    if leak := _find_leak(rows, rows.subject.map(fold_of)):
        raise InputError(f"{path}: {leak}; give them one fold")
    parts = {name: [s for s in subjects if fold_of[s] == name] for name in names}
    return {"test": parts.pop("test"), "folds": list(parts.values())}


def load_split(folder, dataset, fold):
    """Read who trains and who validates from splits.json.

    Parameters
    ----------
    folder : path-like
        The prepared folder.
    dataset : {"atlas", "brats17"}
    fold : int
        The fold that validates.

    Returns
    -------
    dict
        Subject names under ``"training"``, ``"validation"`` and ``"test"``.

    Raises
    ------
    InputError
        If the file is missing, does not hold this fold, or a subject stands in two parts.
    """
    path = Path(folder) / "splits.json"
    content = load_json(path, "run prep.py first")
    try:
        parts = content[dataset]
        test, folds = parts["test"], parts["folds"]
        if not all(isinstance(part, list) for part in (folds, test, *folds)):
            raise TypeError("a part is no list")
        if not all(isinstance(subject, str) for part in (test, *folds) for subject in part):
            raise TypeError("a subject is no name")
        split = {
            "training": [s for i, part in enumerate(folds) if i != fold for s in part],
            "validation": folds[fold],
            "test": test,
        }
    except (TypeError, KeyError, IndexError):
        raise InputError(f"{path}: has no fold {fold} of {dataset}; run prep.py again") from None
    for subject, count in pandas.Series([*test, *np.concatenate(folds)]).value_counts().items():
        if count > 1:
            raise InputError(f"{path}: {subject} stands in {count} parts; run prep.py again")
    return split


def rows_of(rows, split):
    """Sort a manifest's slices into the parts of a split.

    Parameters
    ----------
    rows : pandas.DataFrame
    split : dict
        From `load_split`.

    Returns
    -------
    dict of ndarray of int
        Row numbers under ``"training"``, ``"validation"`` and ``"test"``.

    Raises
    ------
    InputError
        If split and manifest name different subjects, if a part that is needed is empty, or if
        (nearly) the same scan stands in two parts under two names.
    """
    part_of = {subject: part for part, subjects in split.items() for subject in subjects}
    known = set(rows.subject)
    if strangers := sorted(known.symmetric_difference(part_of)):
        where = "splits.json" if strangers[0] in known else "slices.csv"
        raise InputError(f"{where}: {strangers[0]} is missing from it; run prep.py again")
    part = rows.subject.map(part_of)
    if leak := _find_leak(rows, part):
        raise InputError(f"splits.json: {leak}; run prep.py again")
    numbers = {name: np.flatnonzero(part == name) for name in split}
    for name in ("training", "validation"):
        if not rows.lesion_pixels.to_numpy()[numbers[name]].any():
            raise InputError(f"splits.json: no slice with a lesion in {name}; run prep.py again")
    return numbers


def _find_leak(rows, part):
    """Name the subjects whose scan stands in two parts, or return None. `part` is one a row."""
    for column, what in SAME_SCAN.items():
        parts = part.groupby(rows[column]).nunique()
        if (parts > 1).any():
            twins = sorted(rows.subject[rows[column] == parts.idxmax()].unique())
            return f"{' and '.join(twins)} are {what} in two parts"
    return None


def fingerprint(split):
    """Hash a split, to tell in a run folder which one it used."""
    return hashlib.sha256(json.dumps(split, sort_keys=True).encode()).hexdigest()[:16]
