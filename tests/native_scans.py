"""Scans as clinics have them: a template's brain on a tilted grid of thick slices, two bright lesions."""

from functools import cache

import nibabel
import numpy as np
from nibabel.affines import from_matvec
from scipy.spatial.transform import Rotation

from scans.alignment import align
from scans.resampling import resample
from scans.template import AFFINE, load_template

RAS_AXES = nibabel.orientations.axcodes2ornt("RAS")
SHAPE, MM = (100, 128, 60), (1.8, 1.6, 3.0)  # sagittal field of view, thick axial slices
BRIGHT = 5.0
# Ranges of the template's voxels: on the right, inside the slices that training keeps, and below.
INSIDE = np.s_[120:136, 90:108, 80:98]
BELOW = np.s_[70:84, 70:84, 24:38]

_aligned = {}


def align_once(volume):
    """Align a scan by niimath, which takes seconds, the first time that it is met."""
    name = hash(volume.voxels.tobytes())
    if name not in _aligned:
        _aligned[name] = align(volume)
    return _aligned[name]


def native_scan(seed, stored_from="RAS"):
    """A template brain with two bright lesions as a tilted scan: image and mask, not to be changed."""
    wanted = nibabel.orientations.axcodes2ornt(stored_from)
    turned = nibabel.orientations.ornt_transform(RAS_AXES, wanted)
    return [image.as_reoriented(turned) for image in _in_ras(seed)]


@cache
def _in_ras(seed):
    template, rng = load_template(), np.random.default_rng(seed)
    lesion = np.zeros(template.voxels.shape, np.float32)
    lesion[INSIDE] = lesion[BELOW] = 1
    head = template.voxels * rng.uniform(0.95, 1.05, template.voxels.shape).astype(np.float32)
    head = np.where(lesion > 0, BRIGHT, head)
    turn = Rotation.from_euler("xyz", rng.normal(0, 5, 3), degrees=True).as_matrix() * 0.95
    affine = from_matvec(np.diag(MM), (-90, -120, -75))
    to_template = np.linalg.inv(from_matvec(turn, rng.normal(0, 8, 3))) @ affine
    image, mask = (resample(v, AFFINE, SHAPE, to_template) for v in (head, lesion))
    images = [nibabel.Nifti1Image(v, affine) for v in (image, (mask >= 0.5).astype(np.uint8))]
    for image in images:
        image.header.set_xyzt_units("mm")
    return images
