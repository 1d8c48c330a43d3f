"""Make the split of the comparison: subjects in the order of their names, every fourth held back.

The others are dealt out to the folds in turn. `prep.py` takes the table by split.table.

    python -m benchmarks.contenders.split /data/ATLAS_2 split.csv
    python prep.py --set paths.atlas=/data/ATLAS_2 --set split.table=split.csv
"""

from itertools import count

from config import parse_arguments
from system.console import run_script
from system.files import save_csv


def add_arguments(parser):
    parser.add_argument("scans", metavar="FOLDER", help="scans in ATLAS's layout")
    parser.add_argument("table", metavar="CSV", help="is written")


def main(argv=None):
    from scans.find import find_scans

    settings, arguments = parse_arguments(__doc__, argv, add_arguments)
    layout = settings.atlas
    scans, *_ = find_scans(arguments.scans, "atlas", layout.image_suffix, layout.mask_suffixes)
    rows = deal({scan.subject for scan in scans}, settings.split.folds)
    save_csv(arguments.table, rows)
    print(f"{arguments.table}: {len(rows)} subjects in {settings.split.folds} folds and test")


def deal(subjects, folds):
    """List subject and fold of each: 0, 1, ..., or ``test`` for every fourth."""
    turn = count()
    return [
        {"subject": subject, "fold": next(turn) % folds if place % 4 else "test"}
        for place, subject in enumerate(sorted(subjects), 1)
    ]


if __name__ == "__main__":
    run_script(main)
