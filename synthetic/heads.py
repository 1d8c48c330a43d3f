"""Synthetic heads with strokes and tumours, grown from the MNI152 template inside nilearn.

Every function that draws takes a generator and nothing else that is random. Arrays lie on the
template's grid, in RAS orientation: X, Y, Z voxels of 1 mm. Grey levels are relative to white matter.
"""

from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

MNI_ORIGIN = np.array([98, 134, 72])  # voxel of the template at 0, 0, 0 mm

CSF_GREY, GM_GREY, WM_GREY = 0.28, 0.65, 0.87  # the template's own grey levels, read off its maps

# Where strokes happen: share, centre and spread in MNI mm; x is the distance from the midline.
TERRITORIES = (
    (0.48, (45, -12, 18), (9, 28, 20)),  # middle cerebral artery, cortex
    (0.25, (25, 2, 10), (6, 14, 9)),  # lenticulostriate: basal ganglia, corona radiata
    (0.12, (18, -75, 5), (8, 12, 12)),  # posterior cerebral artery
    (0.15, (12, 35, 30), (5, 20, 18)),  # anterior cerebral artery
)  # none in the cerebellum: prep.py leaves its slices out


def enlarge(knots, shape):
    """Interpolate a coarse volume of knots to `shape`, cubic, one axis and then planes of two."""
    import cv2

    cubic = partial(cv2.resize, interpolation=cv2.INTER_CUBIC)
    stretched = cubic(knots.reshape(len(knots), -1), (knots[0].size, shape[0]))
    planes = stretched.reshape(shape[0], *knots.shape[1:])
    return np.stack([cubic(plane, (shape[2], shape[1])) for plane in planes])


def smooth_noise(rng, shape, knot_mm):
    """Normal noise, float32, unit variance at its knots, one knot every `knot_mm`."""
    knots = [max(3, round(n / knot_mm) + 1) for n in shape]
    return enlarge(rng.standard_normal(knots, dtype=np.float32), shape)


@lru_cache(maxsize=1)
def head():
    """The template, with a skull and a scalp around it that it does not come with.

    Returns
    -------
    anatomy : ndarray, float32 (X, Y, Z, 2)
        Grey level (CSF 0.28, grey matter 0.65, white matter 0.87, fat above 1) and signed
        distance to the brain's surface in mm, negative inside.
    affine : ndarray (4, 4)
    """
    from nilearn.datasets import load_mni152_template
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    template = load_mni152_template(resolution=1)
    grey = template.get_fdata(dtype=np.float32)
    shape = grey.shape

    def distance_mm(inside):  # on every second voxel: eight times cheaper, smooth enough
        signed = distance_transform_edt(~inside) - distance_transform_edt(inside)
        return 2 * gaussian_filter(signed.astype(np.float32), 1)

    below = 12  # the template ends in the brain stem; the head goes on
    brain = np.pad(grey[::2, ::2, ::2] > 0, ((0, 0), (0, 0), (below, 0)), mode="edge")
    depth_mm = distance_mm(brain)
    vault_mm = distance_mm(distance_mm(depth_mm < 12) < -12)  # closed over sulci and fissures
    _, y, z = np.ogrid[tuple(map(slice, brain.shape))]
    y_mm, z_mm = 2 * y - MNI_ORIGIN[1], 2 * (z - below) - MNI_ORIGIN[2]
    footprint = (vault_mm < 9)[:, :, below + 34][:, :, None]
    face_and_neck = footprint & (z_mm < -4) & (y_mm > -96 - 0.7 * z_mm)
    surface_mm = distance_mm((vault_mm < 12) | face_and_neck)
    depth_mm, vault_mm, surface_mm = (
        enlarge(np.ascontiguousarray(d[:, :, below:]), shape)
        for d in (depth_mm, vault_mm, surface_mm)
    )

    rng = np.random.default_rng(152)
    muscle = 0.42 + 0.10 * smooth_noise(rng, shape, 6) + 0.08 * smooth_noise(rng, shape, 14)
    muscle[smooth_noise(rng, shape, 18) < -1.1] = 0.04  # sinuses and airways
    marrow = 0.06 + 0.40 * np.exp(-(((vault_mm - 4.5) / 1.2) ** 2))
    fat = 1.05 + 0.08 * smooth_noise(rng, shape, 8)
    around = np.select(
        [surface_mm > 0, vault_mm < 1.5, vault_mm < 7.5, surface_mm > -1.5, surface_mm > -5.5],
        [0, CSF_GREY - 0.04, marrow, 0.6, fat],
        muscle,
    )
    grey = np.where(grey > 0, grey, around)
    return np.stack([grey, depth_mm], axis=-1).astype(np.float32), template.affine


def swelling(points_mm, centre_mm, push_mm, reach_mm):
    """Displacement that makes what lies around `centre_mm` larger, at most by `push_mm`."""
    offset = [p - c for p, c in zip(points_mm, centre_mm, strict=True)]
    distance_sq = sum(o**2 for o in offset) / reach_mm**2
    bump = push_mm * np.exp((1 - distance_sq) / 2) / reach_mm  # largest at distance reach_mm
    return np.stack([-o * bump for o in offset])


def draw_deformation(rng, shape):
    """Draw a displacement in voxels, (3, X, Y, Z) float32: another head's size, tilt and folds."""
    knot_mm = 6
    knots = [round(n / knot_mm) for n in shape]
    points_mm = [
        (p + 0.5) * knot_mm - o for p, o in zip(np.indices(knots), MNI_ORIGIN, strict=True)
    ]
    tilt = rng.normal(0, 0.03, (3, 3))  # rad: 2 degrees
    linear = (tilt - tilt.T) / 2 + np.diag(rng.normal(0.02, 0.03, 3))  # and 3 % in size
    displacement = np.einsum("ij,jxyz->ixyz", linear, np.stack(points_mm))
    for spacing_mm, strength_mm in ((50, 3.0), (22, 1.2)):  # lobes, then gyri; never folds over
        for axis in range(3):
            displacement[axis] += strength_mm * smooth_noise(rng, knots, spacing_mm / knot_mm)
    ventricles_mm = rng.uniform(-0.5, 5.0)  # older brains have wider ones
    displacement += swelling(points_mm, (0, -15, 14), ventricles_mm, 20)
    return np.stack([enlarge(d.astype(np.float32), shape) for d in displacement])


def deform(anatomy, displacement):
    """Pull `anatomy` (X, Y, Z, C) along `displacement`: y and z first, then x.

    Two passes over planes, because OpenCV's fast remapping knows no volumes.
    """
    import cv2

    def pull(plane, rows, columns):
        return cv2.remap(plane, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    x, y, z = (np.arange(n, dtype=np.float32) for n in anatomy.shape[:3])
    dx, dy, dz = displacement
    moved = np.empty_like(anatomy)
    for i in range(len(x)):
        moved[i] = pull(anatomy[i], y[:, None] + dy[i], z[None, :] + dz[i])
    columns = np.broadcast_to(z[None, :], (len(x), len(z))).copy()
    for j in range(len(y)):
        moved[:, j] = pull(np.ascontiguousarray(moved[:, j]), x[:, None] + dx[:, j], columns)
    return moved


@dataclass(frozen=True)
class Scanner:
    """The look of one site; grey levels relative to white matter."""

    csf: float
    gm: float
    fat: float
    bias: float
    noise: float
    blur_mm: tuple[float, float, float]
    white_level: float


def draw_scanner(rng):
    """Draw a scanner: T1 contrasts from flat (spin echo) to steep (MPRAGE)."""
    blur_mm = rng.uniform(0.3, 0.6, 3)  # standard deviation; the template is blurred already
    blur_mm[rng.integers(3)] += rng.choice([0, 0.4])  # some sites scan thicker slices
    return Scanner(
        csf=rng.uniform(0.20, 0.34),
        gm=rng.uniform(0.64, 0.76),
        fat=rng.uniform(0.9, 1.5),
        bias=rng.uniform(0.03, 0.10),  # log of the shading, standard deviation at its knots
        noise=rng.uniform(0.010, 0.028),  # signal-to-noise ratio of white matter 36 to 100
        blur_mm=tuple(blur_mm),
        white_level=rng.uniform(180, 900),
    )


def contrast(anatomy, scanner, sulci):
    """Turn template greys into the scanner's; `sulci` in [0, 1] opens the folds (atrophy)."""
    grey, depth_mm = anatomy[..., 0], anatomy[..., 1]
    fold_grey = 0.40 + 0.12 * sulci
    brain = np.interp(
        grey.ravel(),
        [0, CSF_GREY, fold_grey, GM_GREY, WM_GREY, 1],
        [0.1, scanner.csf, scanner.csf + 0.25 * (scanner.gm - scanner.csf), scanner.gm, 1, 1.06],
    ).reshape(grey.shape)
    return np.where(depth_mm < 0, brain, grey * scanner.fat).astype(np.float32)


def acquire(rng, image, scanner):
    """Blur, shade and add Rician noise; `image` has white matter at 1. Returns int16."""
    import cv2

    sx, sy, sz = scanner.blur_mm
    along_x = cv2.GaussianBlur(image.reshape(len(image), -1), (1, 7), sx, sigmaY=sx)
    planes = along_x.reshape(image.shape)
    image = np.stack([cv2.GaussianBlur(plane, (7, 7), sz, sigmaY=sy) for plane in planes])
    image *= np.exp(scanner.bias * smooth_noise(rng, image.shape, 90))
    real, imaginary = (
        scanner.noise * rng.standard_normal(image.shape, dtype=np.float32) for _ in range(2)
    )
    return np.rint(scanner.white_level * np.hypot(image + real, imaginary)).astype(np.int16)


def template_mm(shape):
    """MNI coordinates of the template's voxels, three arrays that broadcast to `shape`."""
    voxels = np.ogrid[tuple(map(slice, shape))]
    return [axis - origin for axis, origin in zip(voxels, MNI_ORIGIN, strict=True)]


def grow_region(rng, allowed, centre, volume_ml, ragged, lobes=1):
    """Grow a region of `volume_ml` about voxel `centre` inside `allowed`.

    Ellipsoidal lobes, their outline disturbed by noise of three scales, cut at the level
    that gives the volume; islands of less than a twentieth of it are dropped.

    Returns
    -------
    box : tuple of slice
    level : ndarray, float32, in the box: 0 at the core, below 1 inside, above 1 outside
    """
    from scipy.ndimage import label

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


def blend(image, box, region, value, softness_mm):
    """Mix `value` into `image` where `region` is, with an edge of `softness_mm`."""
    from scipy.ndimage import gaussian_filter

    share = gaussian_filter(region.astype(np.float32), softness_mm)
    image[box] += share * (np.minimum(value, image[box]) - image[box])


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
    parts = rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1]) if volume_ml > 1 else 1
    cavity, gliosis = rng.uniform(0.0, 0.25), rng.uniform(0.10, 0.50)  # 0 is CSF, 1 grey matter
    hollow = rng.choice([-1, rng.uniform(0.3, 0.9), 2])  # level where the cavity ends: none, all
    mask = np.zeros(image.shape, np.uint8)
    for share in rng.dirichlet(np.full(parts, 3.0)):
        centre = draw_territory(rng, parenchyma, side)
        box, level = grow_region(
            rng, parenchyma, centre, share * volume_ml, 1.0, rng.integers(1, 4)
        )
        fine, coarse = (smooth_noise(rng, level.shape, knot_mm) for knot_mm in (2.5, 8))
        core = 1 / (1 + np.exp((np.minimum(level, 9) + 0.15 * coarse - hollow) / 0.08))
        share_gm = gliosis + (cavity - gliosis) * core + 0.08 * fine + 0.10 * coarse
        value = scanner.csf + (scanner.gm - scanner.csf) * np.clip(share_gm, 0, 0.95)
        blend(image, box, level < 1, value, rng.uniform(0.6, 1.0))
        mask[box] |= level < 1
    return mask


def paint_look_alikes(rng, image, anatomy, scanner):
    """Paint what is dark without being a stroke: wide perivascular spaces and pockets of CSF."""
    grey, depth_mm = anatomy[..., 0], anatomy[..., 1]
    white = np.argwhere((grey > 0.83) & (depth_mm < -8))
    starts = white[rng.integers(len(white), size=rng.poisson(40))]
    ways = starts - MNI_ORIGIN - (0, -15, 10) + rng.normal(0, 12, starts.shape)  # run radially
    ways = ways / np.linalg.norm(ways, axis=1, keepdims=True)
    lengths_mm = rng.uniform(2, 9, len(starts))
    steps = np.linspace(0, 1, 12)[None, :, None] * lengths_mm[:, None, None] * ways[:, None]
    path = np.rint(starts[:, None] + steps).astype(int).reshape(-1, 3)
    image[tuple(path.clip(0, np.array(image.shape) - 1).T)] *= 0.55  # a voxel wide, partly filled

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


def draw_head(rng):
    """Draw a new person's anatomy: the template mirrored by chance, then deformed."""
    anatomy, affine = head()
    if rng.random() < 0.5:
        anatomy = np.ascontiguousarray(anatomy[::-1])
    return deform(anatomy, draw_deformation(rng, anatomy.shape[:3])), affine


def draw_person(rng, scanner):
    """Draw a healthy head in a scanner's contrast, still without its blur, shading and noise.

    Returns
    -------
    image : ndarray, float32 (X, Y, Z)
        White matter at 1.
    anatomy : ndarray, float32 (X, Y, Z, 2)
        See `head`.
    affine : ndarray (4, 4)
    """
    anatomy, affine = draw_head(rng)
    image = contrast(anatomy, scanner, sulci=rng.random())
    image *= 1 + 0.015 * smooth_noise(rng, image.shape, 4)  # tissue is never flat
    return image, anatomy, affine
