"""Is an alignment right? Heads turned, moved, cropped and put upside down, and any other scans.

    python -m benchmarks.alignment HEADS [--native FOLDER] [--output FILE.csv]

HEADS holds whole heads (``*_T1w.nii.gz``). Each is aligned as it is, and that position is the
reference for the same head turned by 10, 20 and 30 degrees, moved by 108 mm, and cropped at
the vertex (by 30 and 50 mm) and at the neck (150 and 110 mm stay). Where the header is wrong (no
orientation, half a turn, upside down) every alignment is wrong. Of FOLDER, any scans, similarity is
shown. Prints, for each kind, the error in mm over the brain and who is called doubtful.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pandas
from scipy.spatial.transform import Rotation

from scans.alignment import align
from scans.template import AFFINE, load_template
from scans.volumes import Volume, load_volume

RIGHT_MM = 3


def variants(path):
    """Yield (kind, volume, what was done to its world) of one head; None: nothing can be right."""
    volume = load_volume(path)
    voxels, affine = volume.voxels, volume.affine
    rng = np.random.default_rng(sum(path.name.encode()))
    yield "as it is", volume, np.eye(4)
    for degrees in (10, 20, 30):
        axis = rng.normal(size=3)
        turn = Rotation.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis)).as_matrix()
        moved = nibabel.affines.from_matvec(turn, rng.normal(0, 15, 3))
        yield f"turned by {degrees} degrees", Volume(voxels, moved @ affine, None), moved
    moved = nibabel.affines.from_matvec(np.eye(3), rng.choice([-1, 1], 3) * (40, 60, 80))
    yield "moved by 108 mm", Volume(voxels, moved @ affine, None), moved
    head = np.flatnonzero((voxels > voxels.mean()).mean((0, 1)) > 0.05)
    mm = volume.spacing_mm[2]
    for cut in (30, 50):
        kept = voxels[:, :, : head[-1] - round(cut / mm)]
        yield f"{cut} mm cut off at the vertex", Volume(kept, affine, None), np.eye(4)
    for left in (150, 110):
        first = max(head[-1] - round(left / mm), 0)
        shifted = affine @ nibabel.affines.from_matvec(np.eye(3), (0, 0, first))
        yield (
            f"{left} mm below the vertex left",
            Volume(voxels[:, :, first:], shifted, None),
            np.eye(4),
        )
    stored = np.asarray(nibabel.load(path).dataobj)
    yield "no orientation", Volume(stored, np.diag([mm, mm, mm, 1.0]), None), None
    yield "half a turn, header wrong", Volume(voxels[::-1, ::-1], affine, None), None
    yield "upside down, header wrong", Volume(voxels[::-1, :, ::-1], affine, None), None


def distance_mm(found, true):
    """Return the mean distance of two positions over the brain, in mm of the template."""
    template = load_template()
    points = nibabel.affines.apply_affine(AFFINE, np.argwhere(template.brain)[::997])
    there = nibabel.affines.apply_affine(np.linalg.inv(true) @ found, points)
    return np.linalg.norm(there - points, axis=1).mean()


def try_head(path):
    """Align all variants of one head; return a row each."""
    rows, reference = [], None
    for kind, volume, moved in variants(path):
        found = align(volume)
        if reference is None:
            reference = found.to_scan
        error = np.nan if moved is None else distance_mm(found.to_scan, moved @ reference)
        rows.append(_row(path, kind, found, error))
    return rows


def try_scan(path):
    """Align one scan of which nothing is known."""
    return [_row(path, "native", align(load_volume(path)), np.nan)]


def _row(path, kind, found, error):
    stretch = np.linalg.svd(found.to_scan[:3, :3], compute_uv=False)
    return {
        "scan": path.name,
        "kind": kind,
        "error_mm": error,
        "similarity": found.similarity,
        "covered": found.covered,
        "least_stretch": stretch[-1],
        "largest_stretch": stretch[0],
        "doubts": "; ".join(found.doubts),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("heads", type=Path)
    parser.add_argument("--native", type=Path, nargs="*", default=[])
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    heads = sorted(arguments.heads.glob("*_T1w.nii.gz"))
    scans = [path for folder in arguments.native for path in sorted(folder.rglob("*_T1w.nii.gz"))]
    with ProcessPoolExecutor() as pool:
        found = [*pool.map(try_head, heads), *pool.map(try_scan, scans)]
    table = pandas.DataFrame([row for rows in found for row in rows])
    if arguments.output:
        table.to_csv(arguments.output, index=False)
    table["doubtful"] = table.doubts != ""
    table["wrong"] = ~(table.error_mm <= RIGHT_MM) & (table.kind != "native")
    print(
        f"{'':32}scans  error mm, median (largest)  similarity  doubtful  wrong, yet not doubtful"
    )
    for kind, own in table.groupby("kind", sort=False):
        error = f"{own.error_mm.median():.1f} ({own.error_mm.max():.1f})"
        similarity = f"{own.similarity.min():.2f} to {own.similarity.max():.2f}"
        silently = (own.wrong & ~own.doubtful).sum()
        print(f"{kind:32}{len(own):5}{error:>30}{similarity:>14}{own.doubtful.sum():8}{silently:8}")


if __name__ == "__main__":
    main()
