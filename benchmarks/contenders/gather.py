"""Gather what all contenders learn from and are judged on: one folder of scans, and their split.

Painted strokes (demo.py --heads --lesions) train and validate, a fold for each of their sites, whose
heads and lesion shapes are of no other site. All other scans are held back: strokes of an ATLAS-like
folder, and heads without lesion, in which whatever is marked is wrong. The heads are brought to the
template's grid, since not every contender can do so.

    python -m benchmarks.contenders.gather PAINTED --strokes LIFELIKE --healthy HEADS --output contest
    python prep.py --set paths.atlas=contest/scans --set split.table=contest/split.csv --set split.folds=10
"""

import shutil
from pathlib import Path

import numpy as np

from config import parse_arguments
from system.console import run_script
from system.files import InputError, make_folder, save_csv

HEALTHY = "H001"  # their site


def add_arguments(parser):
    folder = {"type": Path, "required": True, "metavar": "FOLDER"}
    parser.add_argument("painted", type=Path, metavar="PAINTED", help="made by demo.py --heads")
    parser.add_argument("--strokes", help="in ATLAS's layout", **folder)
    parser.add_argument("--healthy", help="scans without lesion", nargs="+", **folder)
    parser.add_argument("--output", help="is made", **folder)


def main(argv=None):
    settings, arguments = parse_arguments(__doc__, argv, add_arguments)
    from synthetic.painted import find_sources

    if arguments.output.exists():
        raise InputError(f"{arguments.output}: is there already; delete it, or name another")
    painted, strokes = (find(folder, settings) for folder in (arguments.painted, arguments.strokes))
    folds = deal(painted, strokes)
    heads = find_sources(arguments.healthy, masks=False)
    # It has its name when all is in it: what a bad head or a kill leaves is made anew.
    partial = arguments.output.with_name(f".partial-{arguments.output.name}")
    shutil.rmtree(partial, ignore_errors=True)
    scans = partial / "scans"
    make_folder(scans)
    for name in ("painted", "strokes"):
        (scans / name).symlink_to(getattr(arguments, name).resolve())
    for number, path in enumerate(heads, 1):
        folds[save_healthy(path, scans / "healthy", number)] = "test"
    rows = [{"subject": subject, "fold": fold} for subject, fold in folds.items()]
    save_csv(partial / "split.csv", rows)
    partial.rename(arguments.output)
    count, held_back = len({*folds.values()} - {"test"}), [*folds.values()].count("test")
    print(f"{arguments.output}: {len(painted)} scans in {count} folds, {held_back} held back")


def find(folder, settings):
    """List the scans of a folder; refuses one that holds none, or one that cannot be used."""
    from scans.find import find_scans

    layout = settings.atlas
    scans, problems, *_ = find_scans(folder, "atlas", layout.image_suffix, layout.mask_suffixes)
    if problems:
        raise InputError(str(problems[0]))
    return scans


def deal(painted, strokes):
    """Take each subject to its fold: 0, 1, ... for the sites of `painted`, ``test`` for `strokes`."""
    if strangers := [scan for scan in painted if len(scan.image.parents) < 5]:
        raise InputError(f"{strangers[0].image}: demo.py did not paint it; give its folder alone")
    site_of = {scan.subject: scan.image.parents[3].name for scan in painted}
    sites = sorted(set(site_of.values()))
    folds = {subject: sites.index(site) for subject, site in sorted(site_of.items())}
    held_back = dict.fromkeys(sorted(scan.subject for scan in strokes), "test")
    if both := sorted(folds.keys() & held_back.keys()):
        raise InputError(f"{both[0]}: is painted, and held back; give other folders")
    return folds | held_back


def save_healthy(path, folder, number):
    """Write a head on the template's grid, beside an empty mask; return the name of its subject."""
    from scans.template import AFFINE, SHAPE
    from synthetic.controls import bring_head
    from synthetic.datasets import atlas_files, save_scan

    image, mask = atlas_files(folder, HEALTHY, number)
    voxels, _ = bring_head(path)
    save_scan(image, voxels, AFFINE)
    save_scan(mask, np.zeros(SHAPE, np.uint8), AFFINE)
    return image.parents[2].name


if __name__ == "__main__":
    run_script(main)
