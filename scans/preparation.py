"""All scans of the data sets prepared, one process a core, and dealt out to folds."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas

from scans.find import find_scans
from scans.folds import make_other_folds, make_split, split_from_table
from scans.manifest import load_manifest
from scans.metadata import OTHER, Metadata
from scans.near_duplicates import find_near_duplicates
from scans.prepare import alignment_picture, prepare_scan
from scans.splits import SAME_SCAN
from system.files import InputError, Problem, first_few, one_line
from system.parallel import attempt, in_parallel

DATASETS = ("atlas", "brats17")


def find_datasets(settings):
    """List the scans of each data set whose folder exists, and the problems; print the notes."""
    scans, problems = [], []
    for dataset in DATASETS:
        folder, layout = getattr(settings.paths, dataset), getattr(settings, dataset)
        if not Path(folder).is_dir():
            _refuse_to_lose(dataset, folder, settings.paths.prepared)
            print(f"{dataset}: no folder {folder}, left out")
            continue
        found = find_scans(folder, dataset, layout.image_suffix, layout.mask_suffixes)
        described, notes = _with_metadata(found.scans, folder)
        scans += described
        problems += found.problems
        for note in (*found.notes, *notes):
            print(one_line(f"{dataset}: {note}"))
    if not scans and not problems:
        folders = " nor ".join(getattr(settings.paths, dataset) for dataset in DATASETS)
        raise InputError(f"neither {folders} is a folder; set paths.atlas or paths.brats17")
    return scans, problems


def _refuse_to_lose(dataset, folder, prepared):
    """Refuse to leave out a data set that is prepared: its disk may not be mounted."""
    try:
        before = load_manifest(prepared, dataset)
    except InputError:
        return
    raise InputError(
        f"paths.{dataset}: {folder} is not there, but {before.subject.nunique()} of its subjects are "
        f"prepared in {prepared}; give its folder, or to leave it out another paths.prepared"
    )


def _with_metadata(scans, folder):
    """Add to scans what tables in their folder know of them; return them, and notes."""
    metadata, described, counts = Metadata(folder), [], {}
    for scan in scans:
        known = metadata.of(scan.image, scan.subject, scan.session)
        for name in known:
            counts[name] = counts.get(name, 0) + 1
        site = known.pop("site", scan.site)
        described.append(replace(scan, site=site, metadata=known))
    notes = [str(problem) for problem in metadata.problems]
    if counts:
        columns = (f"{n.removeprefix(OTHER)} of {count} scans" for n, count in counts.items())
        notes.append(f"known from participants.tsv or *_metadata.csv: {', '.join(columns)}")
    return described, notes


def prepare_scans(scans, settings, strict, keep_doubtful):
    """Prepare scans; return the facts of those that could be used, and the problems of the others.

    A scan whose alignment is doubtful is a problem, unless `keep_doubtful`. With `strict` the first
    problem is raised as an `InputError`.
    """
    task = partial(attempt, partial(_prepare, settings=settings))
    prepared, problems = [], []
    try:
        for scan, outcome in zip(scans, in_parallel(task, scans, "scans"), strict=True):
            facts = outcome.result
            if outcome.error:
                problem = Problem.of(outcome.error, scan.image)
            elif keep_doubtful or not (problem := _doubtful(scan, facts, settings.paths.prepared)):
                # What is known of a person may have changed since the slices were cut.
                for row in facts["slices"]:
                    row |= {"site": scan.site} | scan.metadata
                prepared.append(facts)
                continue
            if strict:
                raise InputError(str(problem))
            problems.append(problem)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"after {len(prepared)} of {len(scans)} scans, kept in {settings.paths.prepared}"
        ) from None
    return prepared, problems


def _doubtful(scan, facts, folder):
    """Return what is doubtful about the alignment of a scan as a problem, or None."""
    doubts = (facts["alignment"] or {}).get("doubts")
    if not doubts:
        return None
    picture = alignment_picture(folder, scan)
    reason = f"alignment is doubtful: {'; '.join(doubts)}; look at {picture}"
    return Problem(str(scan.image), reason)


def _prepare(scan, settings):
    """Prepare one scan by the settings of its data set."""
    labels = getattr(settings, scan.dataset).labels
    return prepare_scan(scan, settings.paths.prepared, labels, settings.slices, settings.geometry)


def group_near_duplicates(prepared):
    """Give nearly identical scans one name in the rows of their slices, and print them."""
    first_rows = [facts["slices"][0] for facts in prepared]
    names = [f"{row['dataset']}/{row['subject']}_{row['session']}" for row in first_rows]
    first = find_near_duplicates([facts["thumbnail"] for facts in prepared])
    subjects_of = {}
    for facts, row, place in zip(prepared, first_rows, first, strict=True):
        for slice_row in facts["slices"]:
            slice_row["alike"] = names[place]
        # A dictionary, because a set has no order.
        subjects_of.setdefault(place, {}).setdefault(row["dataset"], {})[row["subject"]] = None
    for twins in subjects_of.values():
        for own in twins.values():
            if len(own) > 1:
                listed = ", ".join(own)
                print(f"nearly the same scan under {len(own)} names, kept in one subset: {listed}")
        if len(twins) > 1:
            listed = " and ".join(
                f"{', '.join(own)} of {dataset}" for dataset, own in twins.items()
            )
            print(
                f"warning: nearly the same scan in two data sets: {listed}; take it out of one, or "
                "transfer_learning.py may refuse weights that have learnt from it"
            )


def check_split(scans, settings):
    """Refuse before hours of work a split that these scans cannot have, whatever is in them."""
    rows = [
        {"dataset": scan.dataset, "subject": scan.subject, "site": scan.site, "lesion_pixels": 0}
        | dict.fromkeys(SAME_SCAN, str(scan.image))
        for scan in scans
    ]
    if rows:
        split_datasets(rows, settings)


def split_datasets(rows, settings):
    """Draw the split of each data set, or take that of ATLAS from `split.table`.

    Returns
    -------
    dict
        By data set ``{"test": [subject, ...], "folds": {"subject": folds, "site": folds}}``, each of
        the folds a list of subjects: the content of splits.json.
    """
    content, options = {}, settings.split
    for dataset, own in pandas.DataFrame(rows).groupby("dataset"):
        by = options.by_of(dataset)
        if options.table and dataset == "atlas":
            split = split_from_table(options.table, own, by, options.folds)
        else:
            split = make_split(own, by, options.folds, options.test_fraction, settings.seed)
        folds = {by: split["folds"]}
        if dataset == "atlas":
            folds |= make_other_folds(own, split, by, settings.seed)
        content[dataset] = {"test": split["test"], "folds": folds}
    return content


def print_summary(prepared):
    """Print a table of what was prepared."""
    print(
        f"\n{'data set':10}{'scans':>7}{'slices':>9}{'with lesion':>13}"
        f"{'lesion ml, median (range)':>30}"
    )
    for dataset in DATASETS:
        own = [facts for facts in prepared if facts["slices"][0]["dataset"] == dataset]
        if own:
            rows = [row for facts in own for row in facts["slices"]]
            lesion = sum(row["lesion_pixels"] > 0 for row in rows)
            ml = [facts["lesion_ml"] for facts in own]
            volume = f"{np.median(ml):.1f} ({min(ml):.1f} to {max(ml):.1f})"
            print(f"{dataset:10}{len(own):7}{len(rows):9}{lesion:13}{volume:>30}")
    total_ml = sum(facts["lesion_ml"] for facts in prepared)
    outside, below = (
        sum(facts[f"lesion_{place}_ml"] for facts in prepared) / max(total_ml, 1e-9)
        for place in ("outside", "below")
    )
    print(
        f"{outside:.1%} of the lesion volume lies in the slices left out, {below:.1%} at the bottom "
        f"and {outside - below:.1%} at the top"
    )
    hidden_ml = sum(facts["lesion_hidden_ml"] for facts in prepared)
    if hidden_ml >= 0.0005 * total_ml > 0:
        print(
            f"{hidden_ml / total_ml:.1%} of the lesion volume lies outside the template's brain, and is "
            "hidden with the skull (geometry.brain)"
        )
    warned = {}
    for facts in prepared:
        for warning in facts["warnings"]:
            warned.setdefault(warning, set()).add(facts["slices"][0]["subject"])
    for warning, subjects in warned.items():
        print(f"warning: {warning}: {', '.join(sorted(subjects))}")
    empty = [facts["slices"][0] for facts in prepared if facts["lesion_ml"] == 0]
    if empty:
        names = first_few(sorted({row["subject"] for row in empty}))
        scans = f"{len(empty)} scan{'s' * (len(empty) > 1)}"
        print(f"{scans} with an empty mask, taken as free of lesions: {names}")


def print_problems(problems):
    """Print each bad scan with its reason."""
    if problems:
        print("\nleft out:")
        for problem in problems:
            print(f"  {problem}")
