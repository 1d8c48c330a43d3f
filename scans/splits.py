"""Which subjects train, validate and test, as splits.json of a prepared folder says."""

import contextlib
import hashlib
import json
from pathlib import Path

import numpy as np
import pandas

from system.files import InputError, load_json

# Columns of slices.csv that find one scan under two names.
SAME_SCAN = {"content": "the same scan", "alike": "nearly the same scan"}


def load_split(folder, dataset, fold, by="subject"):
    """Read from splits.json of a prepared folder which subjects train, validate (`fold`) and test.

    `by` says of which folds: ``"subject"`` or ``"site"``.

    Raises
    ------
    InputError
        If the file is missing, does not hold this fold, or a subject stands in two subsets.
    """
    path = Path(folder) / "splits.json"
    content = load_json(path, "run prep.py first")
    try:
        test, folds = content[dataset]["test"], content[dataset]["folds"][by]
        if not all(isinstance(names, list) for names in (folds, test, *folds)):
            raise TypeError("a subset is not a list")
        if not all(isinstance(subject, str) for names in (test, *folds) for subject in names):
            raise TypeError("a subject is not a name")
        split = {
            "training": [s for i, names in enumerate(folds) if i != fold for s in names],
            "validation": folds[fold],
            "test": test,
        }
    except (TypeError, KeyError, IndexError) as error:
        of, advice = f"of {dataset}", "run prep.py again"
        if by == "site":
            of = f"by site {of}"
        if isinstance(error, IndexError) and folds:
            advice = f"set fold to less than {len(folds)}, or {advice}"
        elif by == "site":
            some = "look in slices.csv whether all are of one site, or some of site unknown"
            advice = f"{some}; {advice}"
        raise InputError(f"{path}: has no fold {fold} {of}; {advice}") from None
    for subject, count in pandas.Series([*test, *np.concatenate(folds)]).value_counts().items():
        if count > 1:
            raise InputError(f"{path}: {subject} stands in {count} subsets; run prep.py again")
    return split


def find_split(folder, dataset, fold, identity):
    """Find the split of a fold that has this `fingerprint`; return its kind and itself, or None.

    The kind is ``"subject"`` or ``"site"``.
    """
    by_subject = load_split(folder, dataset, fold)
    if fingerprint(by_subject) == identity:
        return "subject", by_subject
    with contextlib.suppress(InputError):
        by_site = load_split(folder, dataset, fold, "site")
        if fingerprint(by_site) == identity:
            return "site", by_site
    return None


def count_folds(folder, dataset, by):
    """Count the folds of a kind in splits.json of a prepared folder."""
    load_split(folder, dataset, 0, by)
    return len(load_json(Path(folder) / "splits.json", "")[dataset]["folds"][by])


def check_folds(folder, dataset, wanted):
    """Refuse another number of folds than `split.folds` was when prep.py drew them."""
    path = Path(folder) / "splits.json"
    content = load_json(path, "run prep.py first")
    # The other kind may have fewer: as many as there are sites.
    drawn = max(len(own) for own in content[dataset]["folds"].values() if isinstance(own, list))
    if drawn != wanted:
        raise InputError(
            f"{path}: has {drawn} folds of {dataset}, and split.folds is {wanted}; set split.folds to "
            f"{drawn}, or run prep.py again"
        )


def rows_of(rows, split):
    """Find the row numbers of a manifest that belong to each subset of a split.

    Raises
    ------
    InputError
        If split and manifest name different subjects, if training or validation is without lesion,
        or if (nearly) the same scan stands in two subsets under two names.
    """
    subset_of = {subject: subset for subset, subjects in split.items() for subject in subjects}
    known = set(rows.subject)
    if strangers := sorted(known.symmetric_difference(subset_of)):
        where = "splits.json" if strangers[0] in known else "slices.csv"
        raise InputError(f"{where}: {strangers[0]} is missing from it; run prep.py again")
    subset = rows.subject.map(subset_of)
    if leak := find_leak(rows, subset):
        raise InputError(f"splits.json: {leak}; run prep.py again")
    numbers = {name: np.flatnonzero(subset == name) for name in split}
    for name in ("training", "validation"):
        if not rows.lesion_pixels.to_numpy()[numbers[name]].any():
            raise InputError(
                f"splits.json: no slice with a lesion in {name}; give more scans, another fold, or fewer "
                "of them (split.folds) and run prep.py again"
            )
    return numbers


def find_leak(rows, subset):
    """Name the subjects whose scan stands in two subsets, one a row, or return None."""
    for column, what in SAME_SCAN.items():
        counts = subset.groupby(rows[column]).nunique()
        if (counts > 1).any():
            twins = sorted(rows.subject[rows[column] == counts.idxmax()].unique())
            return f"{' and '.join(twins)} are {what} in two subsets"
    return None


def fingerprint(content):
    """Hash a split, or anything else that JSON can hold, for the record of a run."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
