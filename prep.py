"""Cut NIfTI scans into 2D axial slices, and deal the subjects out to folds.

Reads   paths.atlas and paths.brats17, or the one of them that is there
Writes  paths.prepared: slices, slices.csv (what is where), splits.json (who trains, who validates)

A bad scan is named and left out, and the exit code is 1. Started again, it goes on with the scans
that are not done yet.

    python prep.py --set paths.atlas=/data/ATLAS_2 --set paths.prepared=prepared
"""

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from cli import read_settings, run
from files import InputError, save_csv, save_json

DATASETS = ("atlas", "brats17")


def main(argv=None):
    settings, arguments = read_settings(__doc__, argv, strict="stop at the first bad scan")
    scans, problems = find_all(settings)
    prepared, failed = prepare_all(scans, settings, arguments.strict)
    problems += failed
    if not prepared:
        raise InputError(f"no scan could be used; the first problem: {': '.join(problems[0])}")
    save_csv(
        Path(settings.paths.prepared, "slices.csv"),
        [row for facts in prepared for row in facts["slices"]],
    )
    save_json(Path(settings.paths.prepared, "splits.json"), split_all(settings))
    print_summary(prepared, problems)
    return 1 if problems else 0


def find_all(settings):
    """List the scans of each data set whose folder exists."""
    from volumes import find_scans

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
    from tqdm import tqdm

    from slices import prepare_scan

    prepared, problems = [], []
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        jobs = [
            pool.submit(
                prepare_scan, scan, settings.paths.prepared, getattr(settings, scan.dataset).labels,
                settings.slices.size, settings.slices.skip, settings.slices.format,
            )
            for scan in scans
        ]  # fmt: skip
        for scan, job in zip(scans, tqdm(jobs, "scans", unit="scan", disable=None), strict=True):
            try:
                prepared.append(job.result())
            except InputError as error:
                if strict:
                    pool.shutdown(cancel_futures=True)
                    raise
                file, _, reason = str(error).partition(": ")
                problems.append((file, reason or f"see {scan.image}"))
    return prepared, problems


def split_all(settings):
    """Draw, or take from split.table, the parts of each prepared data set."""
    from slices import load_manifest
    from splits import make_split, split_from_table

    parts, options = {}, settings.split
    for dataset in DATASETS:
        try:
            rows = load_manifest(settings.paths.prepared, dataset)
        except InputError:
            continue
        if options.table and dataset == "atlas":
            parts[dataset] = split_from_table(options.table, rows, options.folds)
        else:
            parts[dataset] = make_split(
                rows, options.by, options.folds, options.test_fraction, settings.seed
            )
    return parts


def print_summary(prepared, problems):
    """Print a table of what was prepared, then each bad scan with its reason."""
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
    if problems:
        print(f"\nleft out {len(problems)} bad scans:")
        for file, reason in problems:
            print(f"  {file}\n      {reason}")


if __name__ == "__main__":
    run(main)
