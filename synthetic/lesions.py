"""Strokes, tumours and what looks like a stroke, painted into a synthetic head.

Every function that draws takes a generator and nothing else that is random. Grey levels are
relative to white matter.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, label

from synthetic.heads import MNI_ORIGIN, smooth_noise, template_mm

# Where strokes happen: share, centre and spread in MNI mm; x is the distance from the midline.
TERRITORIES = (
    (0.48, (45, -12, 18), (9, 28, 20)),  # middle cerebral artery, cortex
    (0.25, (25, 2, 10), (6, 14, 9)),  # lenticulostriate: basal ganglia, corona radiata
    (0.12, (18, -75, 5), (8, 12, 12)),  # posterior cerebral artery
    (0.15, (12, 35, 30), (5, 20, 18)),  # anterior cerebral artery
)  # none in the cerebellum: prep.py leaves its slices out


@dataclass(frozen=True)
class Tissue:
    """What a stroke leaves; 0 is as dark as CSF, 1 as what `paint_region` takes for intact."""

    cavity: float
    gliosis: float
    hollow: float  # level at which the cavity ends
    bright: bool = False  # brighter than white matter, as after bleeding


def grow_region(rng, allowed, centre, volume_ml, ragged, lobes=1):
    """Grow a region of `volume_ml` about voxel `centre` inside `allowed`.

    Ellipsoidal lobes, their outline disturbed by noise of three scales, cut at the level
    that gives the volume; islands of less than a twentieth of it are dropped.

    Returns
    -------
    box : tuple of slice
    level : ndarray, float32, in the box: 0 at the core, below 1 inside, above 1 outside
    """
    radius_mm = (volume_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
    reach = int(2.4 * radius_mm + 4)
    box = tuple(slice(max(0, c - reach), c + reach + 1) for c in centre)
    inside = allowed[box]
    corner = [s.start for s in box]
    grid = np.moveaxis(np.indices(inside.shape, np.float32), 0, -1) + np.float32(corner)
    level = np.full(inside.shape, np.inf, np.float32)
    for lobe in range(lobes):
        shift_mm = rng.normal(0, 0.6 * radius_mm, 3) if lobe else 0
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        stretch = np.exp(rng.normal(0, 0.3, 3)) * radius_mm
        offset = (grid - np.float32(centre + shift_mm)) @ np.float32(turn / stretch)
        level = np.minimum(level, np.linalg.norm(offset, axis=-1))
    for knot_mm, strength in ((0.9 * radius_mm, 0.30), (0.45 * radius_mm, 0.20), (3, 0.05)):
        level += ragged * strength * smooth_noise(rng, level.shape, max(2, knot_mm))
    level[~inside] = np.inf
    level -= level.min()
    voxels = min(round(volume_ml * 1000), int(0.9 * inside.sum()))
    level /= np.partition(level.ravel(), voxels)[voxels]
    islands, _ = label(level < 1)
    sizes = np.bincount(islands.ravel())
    level[(sizes < 0.05 * voxels)[islands] & (islands > 0)] = np.inf
    return box, level


def blend(image, box, region, value, softness_mm, darker=True):
    """Mix `value` into `image` where `region` is, with an edge of `softness_mm`.

    Where the image is dark already it stays so, if all is to become `darker`.
    """
    share = gaussian_filter(region.astype(np.float32), softness_mm)
    image[box] += share * ((np.minimum(value, image[box]) if darker else value) - image[box])


def draw_territory(rng, allowed, side):
    """Draw a voxel of `allowed` in a vascular territory of one side (-1 left, 1 right)."""
    shares = [share for share, _, _ in TERRITORIES]
    while True:
        _, centre_mm, spread_mm = TERRITORIES[rng.choice(len(TERRITORIES), p=shares)]
        x_mm, y_mm, z_mm = rng.normal(centre_mm, spread_mm)
        voxel = np.rint(np.array([side * x_mm, y_mm, z_mm]) + MNI_ORIGIN).astype(int)
        if (voxel >= 0).all() and (voxel < allowed.shape).all() and allowed[tuple(voxel)]:
            return voxel


def paint_lesion(rng, image, anatomy, scanner, volume_ml):
    """Paint a chronic stroke into `image` and return its mask, uint8.

    Chronic tissue is a cavity (dark as CSF), gliosis (a little darker than grey matter) or a
    cavity rimmed by gliosis.
    """
    grey, depth_mm = anatomy[..., 0], anatomy[..., 1]
    side = rng.choice([-1, 1])
    parenchyma = (depth_mm < -1.5) & (grey > 0.42)
    parenchyma &= side * template_mm(image.shape)[0] > 2
    pieces = rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1]) if volume_ml > 1 else 1
    cavity, gliosis = rng.uniform(0.0, 0.25), rng.uniform(0.10, 0.50)  # 0 is CSF, 1 grey matter
    hollow = rng.choice([-1, rng.uniform(0.3, 0.9), 2])  # level where the cavity ends: none, all
    mask = np.zeros(image.shape, np.uint8)
    for share in rng.dirichlet(np.full(pieces, 3.0)):
        centre = draw_territory(rng, parenchyma, side)
        box, level = grow_region(
            rng, parenchyma, centre, share * volume_ml, 1.0, rng.integers(1, 4)
        )
        tissue = Tissue(cavity, gliosis, hollow)
        paint_region(rng, image, box, level, scanner, tissue, scanner.gm)
        mask[box] |= level < 1
    return mask


def paint_region(rng, image, box, level, scanner, tissue, intact):
    """Paint what a stroke leaves where `level` is below 1; `box` is where that lies in `image`.

    `intact` is the grey level of tissue that lost nothing, one or of each voxel in the box.
    """
    fine, coarse = (smooth_noise(rng, level.shape, knot_mm) for knot_mm in (2.5, 8))
    # Beyond 4 nothing changes, and exp would overflow in float32.
    core = 1 / (1 + np.exp((np.minimum(level, 4) + 0.15 * coarse - tissue.hollow) / 0.08))
    share = tissue.gliosis + (tissue.cavity - tissue.gliosis) * core
    share = share + 0.08 * fine + 0.10 * coarse
    value = scanner.csf + (intact - scanner.csf) * np.clip(share, 0, 0.95)
    if tissue.bright:
        value = np.where(core > 0.5, 1.15 + 0.05 * fine, value)
    blend(image, box, level < 1, value, rng.uniform(0.6, 1.0), darker=not tissue.bright)


def paint_look_alikes(rng, image, anatomy, scanner):
    """Paint what is dark without being a stroke: perivascular spaces and pockets of CSF."""
    paint_perivascular_spaces(rng, image, anatomy)
    paint_pockets(rng, image, anatomy, scanner)


def paint_perivascular_spaces(rng, image, anatomy):
    """Paint perivascular spaces, wide as in old people, through the white matter."""
    grey, depth_mm = anatomy[..., 0], anatomy[..., 1]
    white = np.argwhere((grey > 0.83) & (depth_mm < -8))
    starts = white[rng.integers(len(white), size=rng.poisson(40))]
    ways = starts - MNI_ORIGIN - (0, -15, 10) + rng.normal(0, 12, starts.shape)  # run radially
    ways = ways / np.linalg.norm(ways, axis=1, keepdims=True)
    lengths_mm = rng.uniform(2, 9, len(starts))
    steps = np.linspace(0, 1, 12)[None, :, None] * lengths_mm[:, None, None] * ways[:, None]
    path = np.rint(starts[:, None] + steps).astype(int).reshape(-1, 3)
    image[tuple(path.clip(0, np.array(image.shape) - 1).T)] *= 0.55  # a voxel wide, partly filled


def paint_pockets(rng, image, anatomy, scanner):
    """Paint pockets of CSF at the brain's surface."""
    depth_mm = anatomy[..., 1]
    surface = np.argwhere((depth_mm > -5) & (depth_mm < -2))
    for centre in surface[rng.integers(len(surface), size=rng.integers(4))]:
        pocket_ml = rng.uniform(0.2, 1.5)
        box, level = grow_region(rng, depth_mm < 0, centre, pocket_ml, 0.3)
        blend(image, box, level < 1, np.float32(scanner.csf), 0.8)


def paint_tumour(rng, image, anatomy, scanner, low_grade):
    """Paint a glioma into `image`; return its labels: core 1, oedema 2, enhancing rim 4."""
    grey, depth_mm = anatomy[..., 0], anatomy[..., 1]
    brain = (depth_mm < -1) & (grey > 0.40)
    side = rng.choice([-1, 1])
    x_mm, y_mm, z_mm = template_mm(image.shape)
    tentorium_mm = -6 + 0.3 * (y_mm + 45) - 0.3 * abs(x_mm)
    brain &= (side * x_mm > 0) & ((y_mm > -38) | (z_mm > tentorium_mm))  # falx and tentorium
    centre = draw_territory(rng, brain & (grey > 0.75), side)
    volume_ml = np.clip(55 * np.exp(rng.normal(0, 0.55)), 16, 145)
    labels = np.zeros(image.shape, np.uint8)
    gm, csf = scanner.gm, scanner.csf

    box, level = grow_region(rng, brain, centre, volume_ml, 0.9, 3)
    texture = smooth_noise(rng, level.shape, 5)
    oedema = gm * rng.uniform(0.86, 1.0) + 0.03 * texture
    blend(image, box, level < 1, oedema, 1.5)
    labels[box][level < 1] = 2

    core_ml = volume_ml * rng.uniform(0.25, 0.55)
    box, level = grow_region(rng, labels == 2, centre, core_ml, 0.5, 2)
    texture = smooth_noise(rng, level.shape, 4)
    rim = gm * rng.uniform(0.88, 0.98) + 0.05 * texture
    dark = csf + (gm - csf) * rng.uniform(0.2, 0.5) + 0.05 * texture
    edge = 2 if low_grade else rng.uniform(0.6, 0.85)  # low grade seldom enhances
    necrotic = level + 0.1 * texture < edge
    blend(image, box, level < 1, rim, 1.0)
    blend(image, box, (level < 1) & necrotic, dark, 1.0)
    labels[box][level < 1] = 4
    labels[box][(level < 1) & necrotic] = 1
    return labels
