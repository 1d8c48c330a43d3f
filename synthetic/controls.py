"""Healthy controls as anatomies: real heads brought to the template and to its grey levels."""

from pathlib import Path

import numpy as np
from scipy.ndimage import (
    binary_closing,
    binary_erosion,
    binary_fill_holes,
    binary_opening,
    gaussian_filter,
)
from skimage.filters import threshold_multiotsu
from skimage.measure import label

from scans.alignment import align
from scans.geometry import Seen
from scans.template import brain_and_margin, is_on_template, load_template
from scans.volumes import load_volume
from synthetic.heads import CSF_GREY, GM_GREY, WM_GREY, enlarge, signed_distance_mm
from system.files import InputError, file_hash, whole_file

FEWEST_LEVELS = 8  # in the brain; fewer are a mask
_STORED_GREY = 150  # 8 bit then hold grey levels up to 1.7
_STORED_MM = 2  # and distances of up to 63 mm, in halves


def anatomy_file(path, folder):
    """Name the file that keeps the anatomy of a head, after the head's content."""
    return Path(folder) / f"{file_hash(path)}.npz"


def prepare_control(path, folder):
    """Bring a head of any grid to the template and keep its anatomy, for `load_anatomy`.

    Raises what `bring_head` does, and an `InputError` if the head is no T1-weighted one.
    """
    file = anatomy_file(path, folder)
    if file.exists():
        return
    voxels, voxel_mm = bring_head(path)
    grey, brain = in_template_greys(voxels, path)
    # On every second voxel: eight times cheaper, smooth enough.
    depth_mm = enlarge(signed_distance_mm(brain[::2, ::2, ::2]), brain.shape)
    with whole_file(file) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(
            stream,
            voxel_mm=voxel_mm,
            grey=np.rint(np.clip(grey * _STORED_GREY, 0, 255)).astype(np.uint8),
            depth=np.rint(np.clip(depth_mm * _STORED_MM, -127, 127)).astype(np.int8),
        )


def bring_head(path):
    """Read a head of any grid; return it on the template's, float32, and the longest side of its voxels.

    Raises
    ------
    InputError
        If it cannot be read or aligned, or its alignment is doubtful.
    """
    volume = load_volume(path)
    on_template = is_on_template(volume.voxels.shape, volume.affine)
    alignment = None if on_template else align(volume)
    if alignment and alignment.doubts:
        raise InputError(f"{path}: {'; '.join(alignment.doubts)}; leave it out")
    voxels = Seen(volume, volume, alignment).bring(volume.voxels).astype(np.float32)
    return voxels, volume.spacing_mm.max()


def load_anatomy(file):
    """Load what `prepare_control` kept: an anatomy as `synthetic.heads.head` has it, and its voxels' mm."""
    with np.load(file, allow_pickle=False) as stored:
        grey, depth, voxel_mm = stored["grey"], stored["depth"], float(stored["voxel_mm"])
    levels = (grey / np.float32(_STORED_GREY), depth / np.float32(_STORED_MM))
    return np.stack(levels, axis=-1), voxel_mm


def in_template_greys(voxels, path):
    """Return grey levels on the template's scale, and what is brain, of a head on its grid."""
    inside = binary_erosion(load_template().brain, iterations=3) & (voxels > 0)
    no_scan = f"{path}: is no T1-weighted scan of a whole brain; leave it out"
    if np.unique(voxels[inside][::7]).size < FEWEST_LEVELS:
        raise InputError(no_scan)
    low, high = np.percentile(voxels[inside], (1, 99.5))
    # White matter is as bright everywhere, but for the shading of the scanner's coil.
    for _ in range(4):
        try:
            fluid_to_grey, grey_to_white = threshold_multiotsu(
                np.clip(voxels[inside], low, high)[::7], 3, nbins=128
            )
        except ValueError:  # nearly all of it is of one or two levels
            raise InputError(no_scan) from None
        white = inside & (voxels > grey_to_white)
        level = np.median(voxels[white])
        weight = coarse_blur(white.astype(np.float32))
        shading = coarse_blur(np.where(white, np.minimum(voxels, high) / level, 0))
        voxels = voxels / ((shading + 0.02) / (weight + 0.02))
    levels = [
        np.median(voxels[inside & where])
        for where in (
            voxels < fluid_to_grey,
            (voxels >= fluid_to_grey) & (voxels < grey_to_white),
            voxels >= grey_to_white,
        )
    ]
    csf, gm, wm = levels
    ends = [0, csf, gm, wm, 2.2 * wm]
    grey = np.interp(voxels.ravel(), ends, [0, CSF_GREY, GM_GREY, WM_GREY, 1.6])
    grey = grey.reshape(voxels.shape).astype(np.float32)
    brain = find_brain(grey)
    if not brain[inside].mean() > 0.5:
        raise InputError(f"{path}: no brain can be told in it; leave it out")
    return grey, brain


def coarse_blur(voxels):
    """Blur by some 25 mm, from every fourth voxel."""
    return enlarge(gaussian_filter(voxels[2::4, 2::4, 2::4], 6), voxels.shape)


def find_brain(grey):
    """Say what is brain, sulci included: the largest piece of tissue that is no skull, closed."""
    half = (slice(None, None, 2),) * 3  # in steps of 2 mm
    tissue = (grey[half] > (CSF_GREY + GM_GREY) / 2) & (grey[half] < 1.15)
    pieces = label(binary_opening(tissue & brain_and_margin()[half], iterations=1))
    sizes = np.bincount(pieces.ravel(), minlength=2)[1:]
    closed = binary_closing(np.pad(pieces == sizes.argmax() + 1, 6), iterations=4)[6:-6, 6:-6, 6:-6]
    # At the vertex, far from the coil, tissue may be too dark to be told.
    core = binary_erosion(load_template().brain[half], iterations=3)
    return enlarge(binary_fill_holes(closed | core).astype(np.float32), grey.shape) > 0.5
