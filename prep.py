"""Cut NIfTI scans into 2D axial slices, and deal the subjects out to folds.

Reads   paths.atlas and paths.brats17, or the one of them that is there
Writes  paths.prepared: slices, slices.csv (what is where), splits.json (who trains, who validates)

Scans on another grid than that of ATLAS v2.0 are brought to it. A bad scan, or one whose alignment is
doubtful, is named and left out, and the exit code is 1. Started again, it goes on with the scans
that are not done yet.

    python prep.py --set paths.atlas=/data/ATLAS_2 --set paths.brats17=/data/BraTS17
"""

import argparse
import contextlib
import re
from pathlib import Path

from config import parse_arguments
from system.console import run_script
from system.files import InputError, make_folder, refuse_foreign, save_csv, save_json
from system.locks import take_lock


def add_arguments(parser):
    parser.add_argument("--strict", action="store_true", help="stop at the first bad scan")
    parser.add_argument(
        "--keep-doubtful",
        action="store_true",
        help="use scans whose alignment to the template is doubtful, too",
    )
    parser.add_argument(
        "--shard",
        type=parse_shard,
        metavar="K/N",
        help="prepare only the Kth of N shards of the scans, as one of several machines; write no table",
    )


def parse_shard(text):
    """Turn ``K/N`` into the Python slice of the scans that are shard K of N."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text}: write it as 3/8, the third of eight shards")
    return slice(int(match[1]) - 1, None, int(match[2]))


@contextlib.contextmanager
def lock(folder, shard):
    """Let no other prep.py prepare the same scans in this folder while the block runs."""
    with contextlib.ExitStack() as held:

        def take(name, shared=False):
            file = take_lock(
                Path(folder, name), folder, "preparing scans", "paths.prepared", shared
            )
            # A folder that is made again is the same, to the last byte.
            held.enter_context(file)
            held.callback(file.truncate, 0)

        take(".prep.lock", shared=shard is not None)
        if shard:
            take(f".prep-{shard.start + 1}-of-{shard.step}.lock")
        yield


def main(argv=None):
    settings, arguments = parse_arguments(__doc__, argv, add_arguments)
    from scans.preparation import (
        DATASETS,
        check_split,
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
    try:
        check_split(scans, settings)
    except InputError:
        # Those that are left out may be why.
        print_problems(problems)
        raise
    make_folder(settings.paths.prepared)
    facts = (f for name in DATASETS for f in Path(settings.paths.prepared, name).glob("*.json"))
    ours = any('"made_from"' in file.read_text("utf-8", "replace") for file in facts)
    refuse_foreign(settings.paths.prepared, ("slices.csv", "splits.json"), ours, "prep.py")
    with lock(settings.paths.prepared, arguments.shard):
        scans = scans[arguments.shard] if arguments.shard else scans
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
