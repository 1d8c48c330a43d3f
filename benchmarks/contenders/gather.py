"""Gather what all contenders learn from and are judged on: one folder of scans, and their split.

Painted strokes (demo.py --heads --lesions) train and validate, a fold for each of their sites, whose
heads and lesion shapes are of no other site. All other scans are held back: strokes of an ATLAS-like
folder, and heads without lesion, in which whatever is marked is wrong. The heads are brought to the
template's grid, since not every contender can do so.

    python -m benchmarks.contenders.gather PAINTED --strokes LIFELIKE --healthy HEADS --output contest
    python prep.py --set paths.atlas=contest/scans --set split.table=contest/split.csv --set split.folds=10
"""

from pathlib import Path

import numpy as np

from config import parse_arguments
from system.console import run_script
from system.files import InputError, make_folder, save_csv

HEALTHY = "H001"  # their site


def add_arguments(parser):
    parser.add_argument("painted", type=Path, metavar="PAINTED", help="made by demo.py --heads")
    for name, what in (
        ("strokes", "a folder in ATLAS's layout"),
        ("output", "new, or gathered before"),
    ):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="FOLDER", help=what)
    parser.add_argument(
        "--healthy", type=Path, nargs="+", required=True, metavar="PATH", help="scans of no lesion"
    )


def main(argv=None):
    settings, arguments = parse_arguments(__doc__, argv, add_arguments)
    from scans.find import find_scans
    from synthetic.painted import find_sources

    layout = settings.atlas
    painted, strokes = (
        find_scans(folder, "atlas", layout.image_suffix, layout.mask_suffixes)[0]
        for folder in (arguments.painted, arguments.strokes)
    )
    rows = deal(painted, strokes)
    scans = arguments.output / "scans"
    make_folder(scans)
    for name in ("painted", "strokes"):
        link = scans / name
        if not link.is_symlink():
            link.symlink_to(getattr(arguments, name).resolve())
    for number, path in enumerate(find_sources(arguments.healthy, masks=False), 1):
        rows.append({"subject": save_healthy(path, scans / "healthy", number), "fold": "test"})
    save_csv(arguments.output / "split.csv", rows)
    print(f"{arguments.output}: {len(painted)} painted scans, {len(rows) - len(painted)} held back")


def deal(painted, strokes):
    """List subject and fold of each: 0, 1, ... for the sites of `painted`, ``test`` for `strokes`."""
    site_of = {scan.subject: scan.image.parents[3].name for scan in painted}
    sites = sorted(set(site_of.values()))
    folds = {subject: sites.index(site) for subject, site in site_of.items()}
    held_back = {scan.subject: "test" for scan in strokes}
    if both := sorted(folds.keys() & held_back.keys()):
        raise InputError(f"{both[0]}: is painted, and held back; give other folders")
    return [{"subject": name, "fold": fold} for name, fold in sorted((folds | held_back).items())]


def save_healthy(path, folder, number):
    """Write a head on the template's grid, beside an empty mask; return the name of its subject."""
    from scans.template import AFFINE, SHAPE
    from synthetic.controls import bring_head
    from synthetic.datasets import atlas_files, save_scan

    image, mask = atlas_files(folder, HEALTHY, number)
    if not (image.exists() and mask.exists()):
        voxels, _ = bring_head(path)
        save_scan(image, voxels, AFFINE)
        save_scan(mask, np.zeros(SHAPE, np.uint8), AFFINE)
    return image.parents[2].name


if __name__ == "__main__":
    run_script(main)
