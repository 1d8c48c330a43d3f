"""Score masks that another program, or a person, made: paired with the reference by their names."""

import math
from dataclasses import replace
from functools import partial

import numpy as np

from evaluation.metrics import subject_metrics
from evaluation.runs import Case
from evaluation.scoring import figures_row
from scans.find import NIFTI_ENDINGS, Scan, identify, list_files, stem_of
from scans.volumes import load_mask, load_volume, read_voxels
from system.files import InputError
from system.parallel import in_parallel


def pair_masks(predictions, masks, mask_suffix):
    """Find the prediction of each mask by equal file name, else by equal subject and session.

    Parameters
    ----------
    predictions, masks : path-like
        Folders of NIfTI files, nested or not.
    mask_suffix : str
        Where names in `masks` end so, only those are masks: images may lie beside them.

    Returns
    -------
    list of Case
        The prediction stands as the scan's image. Predictions without a mask are not used.

    Raises
    ------
    InputError
        If predictions are missing (names all), or if a mask or a prediction could be several.
    """
    wanted = _nifti_files(masks)
    wanted = {file: name for file, name in wanted.items() if name.endswith(mask_suffix)} or wanted
    by_name, by_subject = {}, {}
    for file, name in _nifti_files(predictions).items():
        by_name.setdefault(name, []).append(file)
        by_subject.setdefault(identify(file.relative_to(predictions))[:2], []).append(file)
    cases, missing, used = [], [], {}
    for file, name in wanted.items():
        subject, session, site = identify(file.relative_to(masks))
        found = by_name.get(name) or by_subject.get((subject, session), [])
        if not found:
            missing.append(file.name)
            continue
        # Beside a mask may lie its probability map.
        found = [path for path in found if path.name.split(".")[0].endswith("_mask")] or found
        if len(found) > 1 or found[0] in used:
            several = found if len(found) > 1 else [file, used[found[0]]]
            raise InputError(
                f"{' and '.join(map(str, several))}: the same subject and session; leave one, or "
                "give mask and prediction the same file name"
            )
        used[found[0]] = file
        cases.append(Case(Scan("", subject, session, site, found[0], file), None, math.nan, 0))
    if missing:
        raise InputError(
            f"{predictions}: no prediction for {len(missing)} of {len(wanted)} masks: "
            f"{', '.join(missing)}"
        )
    return cases


def _nifti_files(folder):
    """Map the NIfTI files below a folder, hidden ones passed over, to their names' stems."""
    everything, _ = list_files(folder)
    files = {path: stem_of(path) for path in everything if path.name.endswith(NIFTI_ENDINGS)}
    if not files:
        raise InputError(f"{folder}: no .nii or .nii.gz file is in this folder")
    return files


def score_masks(name, cases, labels):
    """Score masks that another program made.

    Parameters
    ----------
    name : str
        Stands for the run.
    cases : list of Case
        From `pair_masks`.
    labels : list of int or None
        Of the references, see `scans.volumes.load_mask`. Predictions are 0/1 or 0/255.

    Returns
    -------
    list of dict
        Of metrics.csv, one a scan.
    """
    results = in_parallel(partial(_score_mask, labels=labels), cases, f"{name}: masks")
    return [figures_row(name, case, result()) for case, result in zip(cases, results, strict=True)]


def _score_mask(case, labels):
    grid = read_voxels(case.scan.mask)
    reference = load_mask(case.scan.mask, labels, grid)
    prediction = load_mask(case.scan.image, None, grid)
    return subject_metrics(reference, prediction, grid.spacing_mm)


def load_scene(case, layout):
    """Read a mask and its prediction to be looked at, and the image if it lies beside the mask."""
    grid = read_voxels(case.scan.mask)
    reference = load_mask(case.scan.mask, layout.labels, grid)
    prediction = load_mask(case.scan.image, None, grid)
    stem, *ending = case.scan.mask.name.split(".", 1)
    image = stem.removesuffix(layout.mask_suffix) + layout.image_suffix
    image = case.scan.mask.with_name(".".join([image, *ending]))
    if image.is_file() and image != case.scan.mask:
        volume = load_volume(image)
        if volume.voxels.shape == grid.voxels.shape:
            return volume, reference, prediction
    return replace(grid, voxels=np.zeros_like(grid.voxels)), reference, prediction
