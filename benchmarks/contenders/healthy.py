"""Heads without lesion: what a contender marks in them is wrong. All contenders get the same.

Some are the held-back heads with the lesion covered by what lies opposite it. The others are
synthetic, as those of demo.py, with what looks like a stroke and is none: wide perivascular spaces,
pockets of CSF, open sulci; no contender has ever seen a synthetic head.
"""

import numpy as np
from scipy import ndimage

HEADS = 6
HEALTHY = "healthy"  # the folder of all of them, and of each contender's metrics
SYNTHETIC = "sub-healthy"  # what the subjects of synthetic heads are called, and a number
SEED = (0, 2)  # demo.py's data sets have 0 and 1 as second word
AIR = 0.02  # darkest grey level of the head
# Of the cover, in voxels of about 1 mm: how far it reaches beyond the lesion, over how many it fades
# out, and how far around the brightness of both sides is compared.
MARGIN, FADE, AROUND = 4, 3, 12
FARTHEST = 16  # the middle of the head lies no farther from that of the grid, in half voxels


def healthy_cases(results, settings):
    """List the healthy heads as cases with an empty mask, written to ``<results>/healthy`` once."""
    from evaluation.cases import find_cases
    from scans.splits import load_split

    split = load_split(settings.paths.prepared, "atlas", settings.fold)
    held_back = find_cases(settings.paths.prepared, split, "test")
    return [*covered_cases(results, settings, held_back), *synthetic_cases(results, settings)]


def synthetic_cases(results, settings):
    cases = []
    for index in range(HEADS):
        case = empty_case(results, settings, f"{SYNTHETIC}{index + 1}")
        if not case.masks[0].exists():
            write_head(index, case.image, case.masks[0])
        cases.append(case)
    return cases


def empty_case(results, settings, subject):
    from evaluation.cases import Case

    image, mask = (
        results / HEALTHY / f"{subject}{suffix}.nii.gz"
        for suffix in (settings.atlas.image_suffix, settings.atlas.mask_suffixes[0])
    )
    return Case(subject, "", "", image, (mask,), None, settings.slices.skip, 0.0)


def write_head(index, image, mask):
    from synthetic.datasets import save_scan
    from synthetic.heads import acquire, draw_person, draw_scanner
    from synthetic.lesions import paint_look_alikes

    rng = np.random.default_rng([*SEED, index])
    scanner = draw_scanner(rng)
    head, anatomy, affine = draw_person(rng, scanner)
    paint_look_alikes(rng, head, anatomy, scanner)
    scan = acquire(rng, head, scanner)
    # As in the scans of the comparison: noise in the air would count where grey levels are scaled.
    scan[anatomy[..., 0] < AIR] = 0
    save_scan(image, scan, affine)
    save_scan(mask, np.zeros(head.shape, np.uint8), affine)


def covered_cases(results, settings, held_back):
    """List those held-back heads whose lesion can be covered; one scan of each."""
    from scans.volumes import load_lesion, load_volume
    from synthetic.datasets import save_scan

    cases = {}
    for case in held_back:
        empty = empty_case(results, settings, case.subject)
        if case.subject in cases:
            continue
        if not empty.masks[0].exists():
            volume = load_volume(case.image)
            lesion = load_lesion(case.masks, case.labels, volume) > 0
            covered = cover_lesion(volume.voxels.astype(np.float32), lesion)
            if covered is None:
                continue
            save_scan(empty.image, covered, volume.affine)
            save_scan(empty.masks[0], np.zeros(lesion.shape, np.uint8), volume.affine)
        cases[case.subject] = empty
    return list(cases.values())


def cover_lesion(voxels, lesion):
    """Cover a lesion by the tissue on the other side of the head, as bright as what is around.

    Parameters
    ----------
    voxels : ndarray, float32, shape (X, Y, Z)
        In RAS orientation, about 1 mm.
    lesion : ndarray, bool, shape (X, Y, Z)

    Returns
    -------
    ndarray, float32, shape (X, Y, Z), or None
        None where what lies opposite is lesion too, or the lesion lies in the middle.
    """
    if not lesion.any():
        return voxels.copy()
    wide = ndimage.binary_dilation(lesion, iterations=MARGIN)
    share = np.clip(1 - ndimage.distance_transform_edt(~wide) / FADE, 0, 1).astype(np.float32)
    shift = middle_of(voxels)
    if (mirrored(lesion, shift) & (share > 0)).any():
        return None
    other, other_wide = mirrored(voxels, shift), mirrored(wide, shift)
    compared = (~(wide | other_wide) & (voxels > 0) & (other > 0)).astype(np.float32)
    ours, theirs = (ndimage.gaussian_filter(side * compared, AROUND) for side in (voxels, other))
    brighter = np.clip(ours / np.maximum(theirs, np.finfo(np.float32).tiny), 0.5, 2)
    return voxels * (1 - share) + other * brighter * share


def middle_of(voxels):
    """Return by how many voxels the mirrored head has to move to the right to lie on the head."""
    coarse = ndimage.gaussian_filter(voxels, 2)[:, ::3, ::3]
    return max(
        range(-FARTHEST, FARTHEST + 1),
        key=lambda shift: np.corrcoef(coarse.ravel(), mirrored(coarse, shift).ravel())[0, 1],
    )


def mirrored(voxels, shift):
    """Mirror from left to right, then move to the right; what comes in is 0."""
    moved = np.zeros_like(voxels)
    inside = slice(max(shift, 0), len(voxels) + min(shift, 0))
    moved[inside] = np.roll(voxels[::-1], shift, axis=0)[inside]
    return moved
