"""Subjects dealt out to a test subset and to folds: by subject or by site, never by slice."""

import numpy as np
import pandas
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split

from scans.names import UNKNOWN_SITE
from scans.splits import SAME_SCAN, find_leak
from scans.spreadsheet import read_spreadsheet
from system.files import InputError


def make_split(rows, by, folds, test_fraction, seed):
    """Deal the subjects of one data set out to a test subset and `folds` validation folds.

    Subjects are stratified by lesion volume. All sessions of a subject, and (nearly) identical
    scans under two names, stay together, and with ``by="site"`` all subjects of a site; the folds are
    then as alike in their number of subjects as sites, large and small, allow.

    Returns
    -------
    dict
        ``{"test": [subject, ...], "folds": [[subject, ...], ...]}``

    Raises
    ------
    InputError
        If there are too few subjects or sites.
    """
    subjects = _grouped(rows, by)
    groups = _groups(subjects)
    if by == "site" and (rows.site == UNKNOWN_SITE).any():
        strangers = sorted(rows.subject[rows.site == UNKNOWN_SITE].unique())
        raise InputError(
            f"split.by = site: the site of {len(strangers)} subjects is not known, as of {strangers[0]}; "
            "tell it in participants.tsv, or set split.by to subject"
        )
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

    def members(groups):
        return sorted(subject for own in groups.subjects for subject in own)

    if by == "site":
        people = subjects[subjects.group.isin(rest.index)]
        deck = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        strata = _strata(people, len(people) // folds)
        dealt = [sorted(people.index[i]) for _, i in deck.split(people, strata, people.group)]
    else:
        deck = StratifiedKFold(folds, shuffle=True, random_state=seed)
        dealt = [
            members(rest.iloc[i]) for _, i in deck.split(rest, _strata(rest, len(rest) // folds))
        ]
    return {"test": members(groups.iloc[test]), "folds": dealt}


def make_other_folds(rows, split, by, seed):
    """Deal those who are not held back out to folds by site where `split` is by subject, and vice versa.

    As many folds as those of `split`, or as there are sites.

    Returns
    -------
    dict
        ``{"site": [[subject, ...], ...]}`` or ``"subject"``; empty where all are of one site, or it is
        not known of all.
    """
    other = "site" if by == "subject" else "subject"
    if other == "site" and (rows.site == UNKNOWN_SITE).any():
        return {}
    rest = rows[~rows.subject.isin(split["test"])]
    folds = min(len(split["folds"]), len(_groups(_grouped(rest, other))))
    return {other: make_split(rest, other, folds, 0, seed)["folds"]} if folds > 1 else {}


def _strata(groups, most):
    """Number each group by lesion volume, from small to large, in 4 strata or `most` if fewer."""
    order = groups.lesion.rank(method="first")
    return pandas.qcut(order, max(1, min(4, most)), labels=False)


def _grouped(rows, by):
    """List the subjects with their lesion size in voxels, and the group that must stay together."""
    subjects = rows.groupby("subject").agg(lesion=("lesion_pixels", "sum"))
    subjects["group"] = subjects.index
    for column in (*SAME_SCAN, *(["site"] if by == "site" else [])):
        for twins in rows.groupby(column).subject.unique():
            same = subjects.group.isin(subjects.group[twins])
            subjects.loc[same, "group"] = subjects.group[twins[0]]
    return subjects


def _groups(subjects):
    """List the groups of subjects with their mean lesion size."""
    return (
        subjects.reset_index()
        .groupby("group")
        .agg(subjects=("subject", list), lesion=("lesion", "mean"))
    )


def split_from_table(path, rows, by, folds):
    """Take over a published split: a csv with the columns `subject` and `fold`.

    `fold` is 0, 1, ... or ``test``. Each subject of `rows` must be in the table, which may be as
    spreadsheets save it. The result is that of `make_split`.
    """
    try:
        table = read_spreadsheet(path)
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
    fold = rows.subject.map(fold_of)
    if leak := find_leak(rows, fold):
        raise InputError(f"{path}: {leak}; give them one fold")
    if by == "site" and (spread := fold.groupby(rows.site).nunique().gt(1)).any():
        raise InputError(
            f"{path}: site {spread.idxmax()} stands in several folds; give it one, or set split.by to "
            "subject"
        )
    test, *dealt = (
        [s for s in subjects if fold_of[s] == name] for name in [names[-1], *names[:-1]]
    )
    if not all(dealt):
        raise InputError(
            f"{path}: no subject here has fold {dealt.index([])}; set split.folds to the number of folds"
        )
    return {"test": test, "folds": dealt}
