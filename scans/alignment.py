"""Scans of any position, size and orientation brought to one template, MNI152 at 1 mm.

niimath fits an affine transform, and how well the edges of scan and template agree says whether it
can be trusted (benchmarks/alignment.py has the scans that chose the limits).
"""

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import nibabel
import numpy as np
from scipy.ndimage import binary_erosion, gaussian_gradient_magnitude

from scans.resampling import coarsen, interpolate
from scans.template import AFFINE, load_template
from system.files import InputError, ProgramError

# Below this the edges of scan and template agree no better than those of heads put upside down.
LEAST_SIMILARITY = 0.29
# Where the scan ends inside the brain, less of the head holds it in place.
LEAST_SIMILARITY_CROPPED = 0.35
WHOLE = 0.95
LEAST_COVERED = 0.85
# Where a fit begins, and how well edges must agree after it: where the header puts the scan; the
# middle of its brightness; last by a slower measure, which now and then fits a wrong position well.
STARTS = (
    ((), LEAST_SIMILARITY),
    (("-com",), LEAST_SIMILARITY),
    (("-cost", "fastcr"), LEAST_SIMILARITY_CROPPED),
)
FEWEST_SLICES = 10
LONGEST_SECONDS = 600
# Brains of adults are less than 1.6 times smaller or larger than the template along any axis.
LARGEST_STRETCH = 1.6
_COARSE_MM = 2
_HOW_TO_GO_ON = "install niimath anew, or set geometry.align to none and geometry.brain to keep"


def aligner():
    """Name what decides an alignment, so that one made in another way is known to be stale."""
    try:
        installed = version("niimath")
    except PackageNotFoundError:
        installed = "missing"
    limits = (LEAST_SIMILARITY_CROPPED, WHOLE, LEAST_COVERED, LARGEST_STRETCH)
    return f"niimath {installed}, starts {STARTS}, limits {limits}"


@dataclass(frozen=True)
class Alignment:
    """Where the template lies in a scan.

    Attributes
    ----------
    to_scan : ndarray, shape (4, 4)
        From mm of the template to mm of the scan.
    similarity : float
        Correlation of the strength of edges in scan and template, inside the brain.
    covered : float
        Share of the template's brain that the scan's grid reaches.
    doubts : tuple of str
        Why it may be wrong.
    """

    to_scan: np.ndarray
    similarity: float
    covered: float
    doubts: tuple[str, ...]

    def as_facts(self):
        """Return it as json holds it."""
        return {
            "template_to_scan": self.to_scan.round(6).tolist(),
            "similarity": round(self.similarity, 3),
            "covered": round(self.covered, 3),
            "doubts": list(self.doubts),
        }

    @classmethod
    def from_facts(cls, facts):
        """Undo `as_facts`."""
        to_scan = np.array(facts["template_to_scan"], float)
        return cls(to_scan, facts["similarity"], facts["covered"], tuple(facts["doubts"]))


def align(volume):
    """Find the template in a scan, a `scans.volumes.Volume`; return an `Alignment`.

    Raises
    ------
    InputError
        If the scan has too few slices, or niimath fails on it.
    ProgramError
        If niimath is missing or cannot be run.
    """
    if min(volume.voxels.shape) < FEWEST_SLICES:
        raise InputError(
            f"has {min(volume.voxels.shape)} slices, too few of a head to be aligned; leave it out"
        )
    moving, affine = coarsen(volume.voxels, volume.affine, 1)
    low, high = (np.float32(value) for value in np.percentile(moving, (0.1, 99.9)))
    gain = 255 / max(high - low, np.float32(1e-30))
    moving = np.clip((moving - low) * gain, 0, 255).astype(np.uint8)
    # Where the header puts the scan beside the template, niimath looks for half a minute in vain.
    beside = not _reached(moving.shape, affine, np.eye(4)).any()
    best = None
    for start, least_similarity in STARTS[beside:]:
        to_scan = _run_niimath(moving, affine, start)
        found = _judge(moving, affine, to_scan, least_similarity)
        better = best is None or found.similarity * found.covered > best.similarity * best.covered
        if better or not found.doubts:
            best = found
        if not best.doubts:
            break
    return best


def _run_niimath(moving, affine, start):
    """Align by niimath; return the matrix from mm of the template to mm of the scan."""
    try:
        # Only here: whoever aligns nothing does without it.
        import niimath
    except ImportError as error:
        raise ProgramError(f"niimath: cannot be imported ({error}); {_HOW_TO_GO_ON}") from error
    with tempfile.TemporaryDirectory() as folder:
        scan, template, matrix, output = (
            str(Path(folder, name))
            for name in ("scan.nii", "template.nii", "matrix.json", "out.nii")
        )
        nibabel.save(nibabel.Nifti1Image(moving, affine), scan)
        nibabel.save(_template_image(), template)
        command = [niimath.bin, scan, "-allineate", template, *start, "-final", "NN"]
        # One thread, as all processes here; and an unzipped result, which nobody reads.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "FSLOUTPUTTYPE": "NIFTI"}
        command += ["-savemat", matrix, output]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment, timeout=LONGEST_SECONDS
            )
        except OSError as error:
            reason = f"{niimath.bin}: cannot be run ({error.strerror}); {_HOW_TO_GO_ON}"
            raise ProgramError(reason) from error
        except subprocess.TimeoutExpired:
            raise InputError(
                f"niimath found no position in {LONGEST_SECONDS} s; look at the scan"
            ) from None
        if not Path(matrix).exists():
            said = " ".join(done.stderr.split())[-200:]
            raise InputError(
                f"niimath ended with exit code {done.returncode} and found no position ({said}); "
                "look at the scan, or install niimath anew"
            )
        found = np.array(json.loads(Path(matrix).read_text())["fixed_to_moving"], float)
    return found


@cache
def _template_image():
    template = load_template()
    return nibabel.Nifti1Image((template.voxels * 255).astype(np.uint8), AFFINE)


@cache
def _coarse_edges():
    """Return the affine of the template at 2 mm, the inside of its brain, and the strength of edges."""
    template = load_template()
    voxels, affine = coarsen(template.voxels, AFFINE, _COARSE_MM)
    brain, _ = coarsen(template.brain, AFFINE, _COARSE_MM)
    # The rim of the brain would be edges in any bright blob of its size.
    inside = binary_erosion(brain > 0.5)
    return affine, inside, gaussian_gradient_magnitude(voxels, 1)


def _reached(shape, affine, to_scan):
    """Say of each voxel of the template's brain, at 2 mm, whether a scan's grid reaches it."""
    coarse_affine, inside, _ = _coarse_edges()
    to_voxel = np.linalg.inv(affine) @ to_scan @ coarse_affine
    places = nibabel.affines.apply_affine(to_voxel, np.argwhere(inside))
    return np.all((places >= -0.5) & (places <= np.array(shape) - 0.5), axis=1)


def _judge(moving, affine, to_scan, least_similarity):
    """Say how well scan and template agree at a position, and what is doubtful about it."""
    coarse_affine, inside, edges = _coarse_edges()
    to_voxel = np.linalg.inv(affine) @ to_scan @ coarse_affine
    seen = interpolate(moving, to_voxel, inside.shape)
    reached = _reached(moving.shape, affine, to_scan)
    covered, similarity = float(reached.mean()), 0.0
    if covered > 0.1:
        pair = [e[inside][reached] for e in (gaussian_gradient_magnitude(seen, 1), edges)]
        if all(np.ptp(values) > 0 for values in pair):
            similarity = float(np.corrcoef(*pair)[0, 1])
    doubts = []
    if covered < LEAST_COVERED:
        doubts.append(f"it covers {covered:.0%} of the brain, less than {LEAST_COVERED:.0%}")
    least = least_similarity if covered >= WHOLE else LEAST_SIMILARITY_CROPPED
    if similarity < least:
        doubts.append(f"its edges agree by {similarity:.2f} with the template's, less than {least}")
    stretch = np.linalg.svd(to_scan[:3, :3], compute_uv=False)
    if stretch[0] > LARGEST_STRETCH or stretch[-1] < 1 / LARGEST_STRETCH:
        doubts.append(
            f"the brain would be {stretch[-1]:.2f} to {stretch[0]:.2f} times as large as the template"
        )
    if np.linalg.det(to_scan[:3, :3]) <= 0:
        doubts.append("left and right are exchanged")
    return Alignment(to_scan, similarity, covered, tuple(doubts))
