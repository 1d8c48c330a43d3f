"""Synthetic heads, grown from the MNI152 template inside nilearn.

Every function that draws takes a generator and nothing else that is random. Arrays lie on the
template's grid, in RAS orientation: X, Y, Z voxels of 1 mm. Grey levels are relative to white
matter.
"""

from dataclasses import dataclass
from functools import lru_cache, partial

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

from scans.template import AFFINE, load_template

# There is a process a core already.
cv2.setNumThreads(1)
MNI_ORIGIN = -AFFINE[:3, 3].astype(int)  # voxel of the template at 0, 0, 0 mm

CSF_GREY, GM_GREY, WM_GREY = 0.28, 0.65, 0.87  # the template's own grey levels, read off its maps


def enlarge(knots, shape):
    """Interpolate a coarse volume of knots to `shape`, cubic, one axis and then planes of two."""
    cubic = partial(cv2.resize, interpolation=cv2.INTER_CUBIC)
    stretched = cubic(knots.reshape(len(knots), -1), (knots[0].size, shape[0]))
    planes = stretched.reshape(shape[0], *knots.shape[1:])
    return np.stack([cubic(plane, (shape[2], shape[1])) for plane in planes])


def smooth_noise(rng, shape, knot_mm):
    """Normal noise, float32, unit variance at its knots, one knot every `knot_mm`."""
    knots = [max(3, round(n / knot_mm) + 1) for n in shape]
    return enlarge(rng.standard_normal(knots, dtype=np.float32), shape)


def signed_distance_mm(inside):
    """Distance to a surface in mm, negative inside, of a mask on every second voxel, smoothed."""
    signed = distance_transform_edt(~inside) - distance_transform_edt(inside)
    return 2 * gaussian_filter(signed.astype(np.float32), 1)


@lru_cache(maxsize=1)
def head():
    """The template, with a skull and a scalp around it that it does not come with.

    Returns
    -------
    ndarray, float32 (X, Y, Z, 2)
        Grey level (CSF 0.28, grey matter 0.65, white matter 0.87, fat above 1) and signed
        distance to the brain's surface in mm, negative inside.
    """
    grey = load_template().voxels
    shape = grey.shape

    below = 12  # the template ends in the brain stem; the head goes on
    # On every second voxel: eight times cheaper, smooth enough.
    brain = np.pad(grey[::2, ::2, ::2] > 0, ((0, 0), (0, 0), (below, 0)), mode="edge")
    depth_mm = signed_distance_mm(brain)
    vault_mm = signed_distance_mm(
        signed_distance_mm(depth_mm < 12) < -12
    )  # closed over sulci and fissures
    _, y, z = np.ogrid[tuple(map(slice, brain.shape))]
    y_mm, z_mm = 2 * y - MNI_ORIGIN[1], 2 * (z - below) - MNI_ORIGIN[2]
    footprint = (vault_mm < 9)[:, :, below + 34][:, :, None]
    face_and_neck = footprint & (z_mm < -4) & (y_mm > -96 - 0.7 * z_mm)
    surface_mm = signed_distance_mm((vault_mm < 12) | face_and_neck)
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
    return np.stack([grey, depth_mm], axis=-1).astype(np.float32)


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


def draw_person(rng, scanner):
    """Draw a healthy head in a scanner's contrast, still without its blur, shading and noise.

    It is the template, mirrored by chance and deformed.

    Returns
    -------
    image : ndarray, float32 (X, Y, Z)
        White matter at 1.
    anatomy : ndarray, float32 (X, Y, Z, 2)
        See `head`.
    """
    anatomy = head()
    if rng.random() < 0.5:
        anatomy = np.ascontiguousarray(anatomy[::-1])
    anatomy = deform(anatomy, draw_deformation(rng, anatomy.shape[:3]))
    image = contrast(anatomy, scanner, sulci=rng.random())
    image *= 1 + 0.015 * smooth_noise(rng, image.shape, 4)  # tissue is never flat
    return image, anatomy
