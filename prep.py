"""Cut NIfTI scans into 2D axial slices, and deal the subjects out to folds.

Reads   paths.atlas and paths.brats17, or the one of them that is there
Writes  paths.prepared: slices, slices.csv (what is where), splits.json (who trains, who validates)

A bad scan is named and left out, and the exit code is 1. Started again, it goes on with the scans
that are not done yet.

    python prep.py --set paths.atlas=/data/ATLAS_2 --set paths.prepared=prepared
"""

import argparse
import re
from functools import partial
from pathlib import Path

from system.console import read_settings, run
from system.files import InputError, make_folder, one_line, save_csv, save_json
from system.parallel import in_parallel

DATASETS = ("atlas", "brats17")


def main(argv=None):
    settings, arguments = read_settings(
        __doc__, argv, add_arguments, strict="stop at the first bad scan"
    )
    scans, problems = find_all(settings)
    if problems and arguments.strict:
        raise InputError(": ".join(problems[0]))
    make_folder(settings.paths.prepared)
    if arguments.part:
        scans = scans[arguments.part]
        _, problems = prepare_all(scans, settings, arguments.strict)
        print(f"{len(scans) - len(problems)} scans prepared; without --part the tables are written")
        print_problems(problems)
        return 1 if problems else 0
    prepared, failed = prepare_all(scans, settings, arguments.strict)
    problems += failed
    if not prepared:
        raise InputError(f"no scan could be used; the first problem: {': '.join(problems[0])}")
    mark_alike(prepared)
    rows = [row for facts in prepared for row in facts["slices"]]
    split = split_all(rows, settings)
    save_csv(Path(settings.paths.prepared, "slices.csv"), rows)
    save_json(Path(settings.paths.prepared, "splits.json"), split)
    print_summary(prepared)
    print_problems(problems)
    return 1 if problems else 0


def add_arguments(parser):
    """What is more than a flag."""
    parser.add_argument(
        "--part", type=every_nth, metavar="K/N",
        help="prepare only the Kth of N parts of the scans, as one of several machines; write no table",
    )  # fmt: skip


def every_nth(part):
    """Turn ``K/N`` into the slice of the scans that are part K of N."""
    match = re.fullmatch(r"(\d+)/(\d+)", part)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{part}: write it as 3/8, the third of eight parts")
    return slice(int(match[1]) - 1, None, int(match[2]))


def find_all(settings):
    """List the scans of each data set whose folder exists."""
    from scans.find import find_scans

    scans, problems = [], []
    for dataset in DATASETS:
        folder, layout = getattr(settings.paths, dataset), getattr(settings, dataset)
        if not Path(folder).is_dir():
            print(f"{dataset}: no folder {folder}, left out")
            continue
        found, unusable = find_scans(folder, dataset, layout.image_suffix, layout.mask_suffix)
        scans += found
        problems += unusable
    if not scans and not problems:
        folders = " nor ".join(getattr(settings.paths, dataset) for dataset in DATASETS)
        raise InputError(f"neither {folders} is a folder; set paths.atlas or paths.brats17")
    return scans, problems


def prepare_all(scans, settings, strict):
    """Cut the scans, one process a core; return their facts and the problems of the others."""
    task = partial(prepare, settings=settings)
    prepared, problems = [], []
    try:
        for scan, result in zip(scans, in_parallel(task, scans, "scans"), strict=True):
            try:
                prepared.append(result())
            except InputError as error:
                if strict:
                    raise
                file, _, reason = str(error).partition(": ")
                problems.append((file, reason or f"see {scan.image}"))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"after {len(prepared)} of {len(scans)} scans, kept in {settings.paths.prepared}"
        ) from None
    return prepared, problems


def prepare(scan, settings):
    """Cut one scan by the settings of its data set."""
    from scans.slices import prepare_scan

    options = settings.slices
    labels = getattr(settings, scan.dataset).labels
    return prepare_scan(
        scan, settings.paths.prepared, labels, options.size, options.skip, options.format
    )


def mark_alike(prepared):
    """Give nearly identical scans one name in the rows of their slices, and say which they are."""
    from scans.near_duplicates import find_alike

    whose = [facts["slices"][0] for facts in prepared]
    names = [f"{row['dataset']}/{row['subject']}_{row['session']}" for row in whose]
    subjects_of = {}
    first = find_alike([facts["thumbnail"] for facts in prepared])
    for facts, row, place in zip(prepared, whose, first, strict=True):
        for slice_ in facts["slices"]:
            slice_["alike"] = names[place]
        # As a dictionary, for a set has no order.
        subjects_of.setdefault(place, {})[row["dataset"], row["subject"]] = None
    for subjects in subjects_of.values():
        if len(subjects) > 1:
            listed = ", ".join(subject for _, subject in subjects)
            print(f"nearly the same scan under {len(subjects)} names, kept in one part: {listed}")


def split_all(rows, settings):
    """Draw, or take from split.table, the parts of each data set."""
    import pandas

    from scans.splits import make_split, split_from_table

    parts, options = {}, settings.split
    for dataset, slices_ in pandas.DataFrame(rows).groupby("dataset"):
        if options.table and dataset == "atlas":
            parts[dataset] = split_from_table(options.table, slices_, options.folds)
        else:
            # The names of BraTS17 tell no more than three institutions.
            by = options.by if dataset == "atlas" else "subject"
            parts[dataset] = make_split(
                slices_, by, options.folds, options.test_fraction, settings.seed
            )
    return parts


def print_summary(prepared):
    """Print a table of what was prepared."""
    import numpy as np

    print(
        f"\n{'data set':10}{'scans':>7}{'slices':>9}{'with lesion':>13}{'lesion ml, median (range)':>30}"
    )
    for dataset in DATASETS:
        facts = [f for f in prepared if f["slices"][0]["dataset"] == dataset]
        if facts:
            rows = [row for f in facts for row in f["slices"]]
            lesion = sum(row["lesion_pixels"] > 0 for row in rows)
            ml = [f["lesion_ml"] for f in facts]
            volume = f"{np.median(ml):.1f} ({min(ml):.1f} to {max(ml):.1f})"
            print(f"{dataset:10}{len(facts):7}{len(rows):9}{lesion:13}{volume:>30}")
    outside = sum(f["lesion_outside_ml"] for f in prepared) / max(
        sum(f["lesion_ml"] for f in prepared), 1e-9
    )
    print(f"{outside:.1%} of the lesion volume lies in the slices left out at bottom and top")
    empty = [f["slices"][0] for f in prepared if f["lesion_ml"] == 0]
    if empty:
        names = ", ".join(sorted({row["subject"] for row in empty}))
        print(f"{len(empty)} scans have an empty mask and count as free of lesions: {names}")


def print_problems(problems):
    """Print each bad scan with its reason."""
    if problems:
        print(f"\nleft out {len(problems)} bad scans:")
        for file, reason in problems:
            print(one_line(f"  {file}: {reason}"))


if __name__ == "__main__":
    run(main)
