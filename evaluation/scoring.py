"""Scans are predicted once, the predictions kept, the operating point chosen, and scored in 3D.

Needs no TensorFlow: networks come in as a function from a scan to its probabilities.
"""

import gzip
import hashlib
from itertools import chain

import nibabel
import numpy as np

from evaluation.metrics import subject_metrics
from prediction.inference import segment
from prediction.lesions import box_of
from prediction.operating_point import (
    THRESHOLDS,
    choose_operating_point,
    chosen_operating_point,
    ends_of,
    figure_grids,
    save_operating_point,
    threshold_levels,
    voxels,
    without_ends,
)
from scans.volumes import load_mask, load_volume, read_voxels, to_original_grid
from system.files import InputError, file_hash, whole_file
from system.parallel import WRITERS, in_parallel


def missing_predictions(predictor, cases, flip):
    """List the scans of which there is no prediction yet, or one made in another way."""
    made_by = _maker(predictor, flip)
    return [
        case for case in cases if _made_from(predictor.prediction(case)) != _origin(made_by, case)
    ]


def predict_cases(predictor, cases, flip, predict):
    """Predict scans and keep the probabilities.

    ``<scan>_probability.nii.gz`` in `predictor.predictions` lies on the scan's own grid and holds
    the probability in tenths, rounded down. It names the weights and the scan that it was made
    from, so that a start anew goes on where an earlier one stopped, and nothing old is taken for
    new.

    Parameters
    ----------
    predictor : trained.Predictor
    cases : list of trained.Case
    flip : bool
        Average with the prediction of the mirrored head.
    predict : callable
        From a `scans.volumes.Volume` and `flip` to the probability of lesion, (X, Y, Z), as
        `prediction.inference.predict_probability`.
    """
    made_by = _maker(predictor, flip)

    def predicted():
        for case in cases:
            volume = load_volume(case.scan.image)
            image = to_original_grid(threshold_levels(predict(volume, flip)), volume)
            image.header.set_slope_inter(0.1, 0)
            image.header["descrip"] = _origin(made_by, case)
            yield predictor.prediction(case), image

    label = f"{predictor.name}: scans"
    processes = WRITERS if len(cases) > 1 else 1
    for saved in in_parallel(_save_prediction, predicted(), label, processes, len(cases)):
        saved()


def _save_prediction(path_and_image):
    path, image = path_and_image
    with whole_file(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def _maker(predictor, flip):
    """Name what predicts by the hash of its weights, of several by that of theirs, and by `flip`."""
    hashes = [file_hash(path) for path in predictor.weights]
    weights = hashes[0]
    if len(hashes) > 1:
        weights = hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]
    return f"weights {weights}{' flip' if flip else ''}"


def _origin(made_by, case):
    # A header has 80 bytes for it.
    return f"{made_by}, scan {case.scan.image.stat().st_mtime_ns}".encode()


def _made_from(file):
    try:
        return nibabel.load(file).header["descrip"].item()
    except (OSError, nibabel.filebasedimages.ImageFileError):
        return None


def load_scored(predictor, case):
    """Read what a predictor is scored on.

    Returns
    -------
    volume : volumes.Volume
    reference : ndarray, uint8, shape (X, Y, Z)
    levels : ndarray, uint8, shape (X, Y, Z)
        From `prediction.operating_point.threshold_levels`.
    """
    volume = read_voxels(case.scan.image)
    reference = load_mask(case.scan.mask, case.labels, volume)
    tenths = read_voxels(predictor.prediction(case)).voxels
    return volume, reference, np.rint(tenths * 10).astype(np.uint8)


def score_thresholds(predictor_and_case):
    """Try operating points on one scan.

    Returns
    -------
    grid : ndarray
        `prediction.operating_point.figure_grids` with all slices, and with those alone that training knew.
    ends_mm, height_mm : float
        What training left out at both ends of the scan, and how high it is.
    subject : str
    """
    predictor, case = predictor_and_case
    volume, reference, levels = load_scored(predictor, case)
    box = box_of(levels | reference)
    grid = np.stack([
        figure_grids(marked[box], reference[box], volume.spacing_mm)
        for marked in (levels, without_ends(levels, case.skip))
    ])  # fmt: skip
    slice_mm = float(volume.spacing_mm[2])
    return grid, case.skip * slice_mm, levels.shape[2] * slice_mm, case.scan.subject


def choose_for_folds(tried, flip):
    """Choose the operating point of each predictor of a run on its validation subjects.

    A fold is scored with a point in which its own subjects had no part, chosen on the predictions
    of the other folds. The point that is chosen on all of them is stored beside each fold's
    weights, for the test part and new scans. A run of one fold is scored with that, too.

    Parameters
    ----------
    tried : dict of trained.Predictor to list
        What `score_thresholds` found on its scans.
    flip : bool
        Whether they were predicted so.

    Returns
    -------
    dict of trained.Predictor to dict
    """
    point = _choose(chain(*tried.values())) | {"flip": flip}
    points = {fold: save_operating_point(point, fold.weights[0]) for fold in tried}
    if len(tried) > 1:
        for fold in tried:
            others = chain(*(found for other, found in tried.items() if other is not fold))
            points[fold] = _choose(others) | {"flip": flip, "chosen_on": "the other folds"}
    return points


def _choose(scored):
    grids, ends_mm, heights_mm, subjects = zip(*scored, strict=True)
    point = choose_operating_point(grids, subjects)
    ends_mm = float(np.median(ends_mm)) if point.pop("trained_slices_only") else 0.0
    return point | {"ends_mm": ends_mm, "height_mm": float(np.median(heights_mm))}


def stored_point(predictor):
    """Read the operating point that was chosen for a predictor on validation.

    Returns
    -------
    dict or None
        None where none was chosen yet.

    Raises
    ------
    InputError
        If it was chosen for other weights, by another rule, or for some of several alone.
    """
    points = [chosen_operating_point(weights) for weights in predictor.weights]
    if any(point != points[0] for point in points):
        raise InputError(
            f"{predictor.name}: its folds have several operating points; choose one by "
            f"evaluate.py --part validation {' '.join(str(w.parent) for w in predictor.weights)}"
        )
    return points[0]


def score(predictor_case_and_point):
    """Score one scan, in 3D on its own grid: its row of metrics.csv."""
    predictor, case, point = predictor_case_and_point
    volume, reference, levels = load_scored(predictor, case)
    mask = mask_at(levels, point, volume.spacing_mm)
    return figures_row(predictor.run, case, subject_metrics(reference, mask, volume.spacing_mm))


def load_scene(predictor, case, point):
    """Read a scan, its mask and its prediction, to be looked at."""
    volume, reference, levels = load_scored(predictor, case)
    return volume, reference, mask_at(levels, point, volume.spacing_mm)


def mask_at(levels, point, spacing_mm):
    """Cut a mask from threshold levels at an operating point."""
    level = THRESHOLDS.index(point["threshold"])
    levels = without_ends(levels, ends_of(point, levels.shape, spacing_mm))
    return segment(levels, level, voxels(point["smallest_ml"], spacing_mm))


def figures_row(run, case, figures):
    scan = case.scan
    whose = {"run": run, "subject": scan.subject, "session": scan.session, "site": scan.site}
    return whose | figures | {"lesion_outside_ml": case.lesion_outside_ml}
