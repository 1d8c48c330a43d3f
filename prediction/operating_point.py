"""What turns probabilities into a mask: chosen by evaluate.py, stored beside the weights.

An operating point is a threshold, the smallest lesion that is kept, and whether lesions are also
marked in the slices at both ends that training left out: a network that never saw them may mark
healthy tissue there, or may find what others miss. It also says whether the probabilities are
averaged with those of the mirrored head.
"""

from pathlib import Path

import numpy as np

from prediction.lesions import remove_small
from scans.geometry import depth_seen, in_kept_slices
from system.files import InputError, file_hash, load_json

# Until evaluate.py has chosen a better one.
PLAIN = {"threshold": 0.5, "smallest_ml": 0.0, "ends_mm": 0.0, "height_mm": 0.0, "flip": False}


def mask_of(values, threshold, point, volume, alignment):
    """Cut a mask, uint8, from a volume of probabilities, or of anything that grows with them.

    Lesion is what is larger than `threshold`; `point` has ``smallest_ml``, ``ends_mm`` and
    ``height_mm``. The values lie on the grid of `volume`; `alignment` may be None.
    """
    ends = slices_left_empty(point, volume, alignment)
    marked = empty_ends(values, volume, alignment, ends) > threshold
    return remove_small(marked, voxels_of(point["smallest_ml"], volume.spacing_mm)).view(np.uint8)


def voxels_of(volume_ml, spacing_mm):
    """Return the number of voxels in a volume; 10 where rounding would make 10.000000000000002."""
    return round(volume_ml * 1000 / float(np.prod(spacing_mm)), 6)


def empty_ends(values, volume, alignment, count):
    """Empty what lies in the first and the last `count` axial slices that a network sees."""
    if not count:
        return values
    return np.where(in_kept_slices(volume, alignment, count), values, values.dtype.type(0))


def slices_left_empty(point, volume, alignment):
    """Return how many axial slices at each end of a scan an operating point leaves empty.

    None of a scan that is not about as high as those it was chosen on (a tenth more or less): its
    ends are elsewhere in the head.
    """
    depth, slice_mm = depth_seen(volume, alignment)
    height_mm = depth * slice_mm
    if not point["ends_mm"] or abs(height_mm - point["height_mm"]) > point["height_mm"] / 10:
        return 0
    return round(point["ends_mm"] / slice_mm)


def describe_point(point):
    """Describe an operating point in words."""
    where = "the slices that training knew" if point["ends_mm"] else "all slices"
    flip = ", averaged with the mirrored head" if point["flip"] else ""
    return f"threshold {point['threshold']:g}, lesions from {point['smallest_ml']:g} ml, in {where}{flip}"


def point_file(weights):
    """Return where the operating point of weights is stored."""
    return Path(weights).with_name("operating_point.json")


def read_operating_point(weights):
    """Read the operating point that evaluate.py chose for weights, or the plain one.

    Returns
    -------
    dict
        ``threshold``: lesion is what is more probable; ``smallest_ml``: smaller lesions are left
        out; ``ends_mm``: so much is left empty at both ends of a scan that is ``height_mm`` high;
        ``flip``: probabilities are averaged with those of the mirrored head.

    Raises
    ------
    InputError
        If the file cannot be read, or was chosen for other weights.
    """
    path = point_file(weights)
    if not path.exists():
        return dict(PLAIN)
    stored = load_json(path, "run evaluate.py again")
    point = {name: stored.get(name) for name in PLAIN} if isinstance(stored, dict) else {}
    numbers = [value for name, value in point.items() if name != "flip"]
    if (
        not isinstance(point.get("flip"), bool)
        or not all(isinstance(value, int | float) and 0 <= value < np.inf for value in numbers)
        or not point["threshold"] < 1
    ):
        raise InputError(
            f"{path}: must hold threshold (0 to 1), smallest_ml, ends_mm, height_mm (0 or more) and flip "
            "(true or false); run evaluate.py again"
        )
    # Weights that were copied without it stand beside that of others; a person's own names none.
    if "weights" in stored and stored["weights"] != file_hash(weights):
        raise InputError(
            f"{path}: was not chosen for {Path(weights).name} as it is now; copy the one that belongs "
            "to it, choose one by evaluate.py --subset validation, or move it away"
        )
    return point
