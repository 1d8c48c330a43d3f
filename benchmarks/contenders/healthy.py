"""Heads without lesion: what a contender marks in them is wrong.

They are synthetic, as those of demo.py, with what looks like a stroke and is none: wide perivascular
spaces, pockets of CSF, open sulci. All contenders get the same.
"""

import numpy as np

HEADS = 6
HEALTHY = "healthy"  # the folder of all of them, and of each contender's figures
SEED = (0, 2)  # demo.py's data sets have 0 and 1 as second word
AIR = 0.02  # darkest grey level of the head


def healthy_cases(results, settings):
    """List the healthy heads as cases with an empty mask, written to ``<results>/healthy`` once."""
    from scans import Scan
    from trained import Case

    folder, cases = results / HEALTHY, []
    for index in range(HEADS):
        subject = f"sub-healthy{index + 1}"
        image = folder / f"{subject}{settings.atlas.image_suffix}.nii.gz"
        mask = folder / f"{subject}{settings.atlas.mask_suffix}.nii.gz"
        if not mask.exists():
            write_head(index, image, mask)
        scan = Scan("atlas", subject, "", "", image, mask)
        cases.append(Case(scan, None, 0.0, settings.slices.skip))
    return cases


def write_head(index, image, mask):
    from demo import save_nifti
    from phantoms import acquire, draw_person, draw_scanner, paint_look_alikes

    rng = np.random.default_rng([*SEED, index])
    scanner = draw_scanner(rng)
    head, anatomy, affine = draw_person(rng, scanner)
    paint_look_alikes(rng, head, anatomy, scanner)
    scan = acquire(rng, head, scanner)
    # As in the scans of the comparison: noise in the air would count where grey levels are scaled.
    scan[anatomy[..., 0] < AIR] = 0
    save_nifti(image, scan, affine)
    save_nifti(mask, np.zeros(head.shape, np.uint8), affine)
