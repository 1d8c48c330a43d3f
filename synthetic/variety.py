"""People and scanners as different as clinics have them: what the network in the box learns from.

Every function that draws takes a generator and nothing else that is random. Grey levels are
relative to white matter, arrays lie on the template's grid.
"""

from dataclasses import dataclass

import numpy as np
from nibabel.affines import from_matvec
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from scans.resampling import resample
from scans.template import AFFINE, SHAPE
from synthetic.heads import (
    CSF_GREY,
    GM_GREY,
    WM_GREY,
    Scanner,
    contrast,
    deform,
    draw_deformation,
    enlarge,
    smooth_noise,
    template_mm,
)


@dataclass(frozen=True)
class Protocol:
    """How a scan was acquired: its contrast and noise, its voxels, and what was taken off the head."""

    scanner: Scanner
    voxel_mm: tuple[float, float, float]
    tilt_degrees: tuple[float, float, float]
    stripped: bool
    defaced: bool


def draw_protocol(rng):
    """Draw contrasts from flat to steep and voxels of 0.7 to 6 mm, thick in any direction or none."""
    voxel_mm = np.full(3, rng.choice([rng.uniform(0.7, 1.3), rng.uniform(1, 2)], p=[0.7, 0.3]))
    if rng.random() < 0.35:
        voxel_mm[rng.choice(3, p=[0.25, 0.25, 0.5])] = rng.uniform(1.5, 6)
    scanner = Scanner(
        csf=rng.uniform(0.03, 0.4),
        gm=rng.uniform(0.52, 0.92),
        fat=rng.uniform(0.5, 3.0),  # the scalp of a flat scan takes half of the grey levels
        bias=rng.uniform(0.02, 0.14),
        noise=np.exp(rng.uniform(np.log(0.006), np.log(0.07))),
        blur_mm=(0.0, 0.0, 0.0),
        white_level=rng.uniform(120, 2000),
    )
    tilt = rng.normal(0, 6, 3) * (rng.random() < 0.5)
    return Protocol(scanner, tuple(voxel_mm), tuple(tilt), *(rng.random(2) < (0.35, 0.4)))


def draw_aged(rng, anatomy, scanner):
    """Draw a person from an anatomy: another shape, ventricles and sulci as wide as age makes them.

    Returns the image without noise, white matter at 1, and the anatomy in its new shape.
    """
    if rng.random() < 0.5:
        anatomy = np.ascontiguousarray(anatomy[::-1])
    anatomy = deform(anatomy, draw_deformation(rng, SHAPE))
    set_apart(rng, anatomy[..., 0])
    image = contrast(anatomy, scanner, sulci=rng.random())
    image *= 1 + rng.uniform(0, 0.03) * smooth_noise(rng, SHAPE, 4)
    if rng.random() < 0.5:
        darken_white_matter(rng, image, anatomy, scanner)
    return image, anatomy


def set_apart(rng, grey):
    """Set grey matter apart from white and from fluid, as finer voxels do; in place.

    Where a voxel holds both, all levels between them are as frequent; a network that knows no
    cortex of one level takes the cortex of a finer scan for a stroke.
    """
    share = rng.uniform(0.05, 1)
    below, above = GM_GREY - 0.17 * share, GM_GREY + 0.13 * share
    levels = [0, CSF_GREY, below, above, WM_GREY, 2]
    apart = [0, CSF_GREY, GM_GREY - 0.05 * share, GM_GREY + 0.03 * share, WM_GREY, 2]
    grey[:] = np.interp(grey.ravel(), levels, apart).reshape(grey.shape)


def darken_white_matter(rng, image, anatomy, scanner):
    """Paint the changes of ageing white matter, around the ventricles and in spots: no lesions."""
    grey, depth_mm = anatomy[..., 0], anatomy[..., 1]
    # On every second voxel: eight times cheaper.
    half = (slice(None, None, 2),) * 3
    fluid = ((grey[half] < 0.4) & (depth_mm[half] < -18)).astype(np.float32)
    x_mm, y_mm, z_mm = (axis[half] for axis in np.broadcast_arrays(*template_mm(SHAPE)))
    lateral = (abs(x_mm) < 38) & (abs(y_mm + 15) < 60) & (z_mm > -5)
    near = gaussian_filter(fluid * lateral, rng.uniform(2, 4))
    spots = smooth_noise(rng, near.shape, rng.uniform(3, 6))
    reach = rng.uniform(1.9, 3)
    amount = 1 / (1 + np.exp(-8 * (spots + 3 * np.minimum(near, 0.35) - reach)))
    amount *= (grey[half] > 0.78) & (depth_mm[half] < -6)
    share = enlarge(gaussian_filter(amount, 0.6), SHAPE)
    darker = rng.uniform(0.3, 1.1) * (1 - scanner.gm)
    image -= share * np.float32(darker) * (image > scanner.gm)


def sharpen(rng, image):
    """Bring out detail, in seven images of ten, as if the head had been scanned in finer voxels."""
    amount = rng.uniform(0, 2)
    if rng.random() < 0.3:
        return image
    return np.maximum(image + np.float32(amount) * (image - gaussian_filter(image, 1)), 0)


def take_off(rng, voxels, anatomy, protocol):
    """Take the skull off, as cleanly as programs do, or the face; in place."""
    depth_mm = anatomy[..., 1]
    if protocol.stripped:
        rough = rng.uniform(0.5, 3) + rng.uniform(0, 1.5) * smooth_noise(rng, SHAPE, 20)
        voxels[depth_mm > rough] = 0
    elif protocol.defaced:
        _, y_mm, z_mm = template_mm(SHAPE)
        voxels[(y_mm + rng.uniform(-0.9, -0.3) * z_mm > rng.uniform(55, 75)) & (depth_mm > 3)] = 0


def acquire_by(protocol, rng, image):
    """Acquire a head in the voxels of a protocol and bring that to the template: int16 (X, Y, Z).

    Rician noise comes in where it arises, in the scanner's voxels, so that what is brought to the
    template is as smooth as real scans are there.
    """
    scanner, voxel_mm = protocol.scanner, np.array(protocol.voxel_mm)
    turn = Rotation.from_euler("xyz", protocol.tilt_degrees, degrees=True).as_matrix()
    shape = np.ceil(np.array(SHAPE) / voxel_mm).astype(int)
    middle = AFFINE[:3, 3] + (np.array(SHAPE) - 1) / 2
    axes = turn * voxel_mm
    affine = from_matvec(axes, middle - axes @ ((shape - 1) / 2))
    shaded = image * np.exp(scanner.bias * smooth_noise(rng, SHAPE, 70))
    seen = resample(shaded, AFFINE, shape, affine)
    real, imaginary = (
        np.float32(scanner.noise) * rng.standard_normal(seen.shape, dtype=np.float32)
        for _ in range(2)
    )
    brought = resample(np.hypot(seen + real, imaginary), affine, SHAPE, AFFINE)
    return np.rint(brought * scanner.white_level).astype(np.int16)
