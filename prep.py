"""Cut NIfTI scans into 2D axial slices, and deal the subjects out to folds.

Reads   paths.atlas and paths.brats17, or the one of them that is there
Writes  paths.prepared: slices, slices.csv (what is where), splits.json (who trains, who validates)

Scans on another grid than that of ATLAS v2.0 are brought to it. A bad scan, or one whose alignment is
doubtful, is named and left out, and the exit code is 1. Started again, it goes on with the scans
that are not done yet.

    python prep.py --set paths.atlas=/data/ATLAS_2 --set paths.brats17=/data/BraTS17
"""

import argparse
import re
from pathlib import Path

from config import parse_arguments
from system.console import run_script
from system.files import InputError, make_folder, refuse_foreign, save_csv, save_json


def add_arguments(parser):
    parser.add_argument("--strict", action="store_true", help="stop at the first bad scan")
    parser.add_argument(
        "--keep-doubtful",
        action="store_true",
        help="use scans whose alignment to the template is doubtful, too",
    )
    parser.add_argument(
        "--shard",
        type=every_nth,
        metavar="K/N",
        help="prepare only the Kth of N shards of the scans, as one of several machines; write no table",
    )


def every_nth(text):
    """Turn ``K/N`` into the Python slice of the scans that are shard K of N."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text}: write it as 3/8, the third of eight shards")
    return slice(int(match[1]) - 1, None, int(match[2]))


def main(argv=None):
    settings, arguments = parse_arguments(__doc__, argv, add_arguments)
    from scans.preparation import (
        DATASETS,
        find_datasets,
        group_near_duplicates,
        prepare_scans,
        print_problems,
        print_summary,
        split_datasets,
    )

    scans, problems = find_datasets(settings)
    if problems and arguments.strict:
        raise InputError(str(problems[0]))
    make_folder(settings.paths.prepared)
    ours = any(list(Path(settings.paths.prepared, name).glob("*.json")) for name in DATASETS)
    refuse_foreign(settings.paths.prepared, ("slices.csv", "splits.json"), ours, "prep.py")
    if arguments.shard:
        scans = scans[arguments.shard]
    prepared, failed = prepare_scans(scans, settings, arguments.strict, arguments.keep_doubtful)
    if arguments.shard:
        print(f"{len(prepared)} scans prepared; without --shard the tables are written")
        print_problems(failed)
        return 1 if failed else 0
    problems += failed
    if prepared:
        group_near_duplicates(prepared)
    # Before the split, for which those that are left out may be too many.
    print_problems(problems)
    if not prepared:
        raise InputError(f"no scan could be used; the first problem: {problems[0]}")
    rows = [row for facts in prepared for row in facts["slices"]]
    split = split_datasets(rows, settings)
    save_csv(Path(settings.paths.prepared, "slices.csv"), rows)
    save_json(Path(settings.paths.prepared, "splits.json"), split)
    print_summary(prepared)
    return 1 if problems else 0


if __name__ == "__main__":
    run_script(main)
