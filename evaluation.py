"""Trained runs and the scans they are scored on: predicted once, kept, and scored in 3D.

Needs no TensorFlow: networks come in as a function from a scan to its probabilities.
"""

import gzip
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from tqdm import tqdm

from files import InputError, file_hash, load_json, whole_file
from inference import segment
from metrics import box_of, subject_metrics
from operating_point import (
    THRESHOLDS,
    choose_operating_point,
    dice_grid,
    ends_of,
    threshold_levels,
    voxels,
    without_ends,
)
from scans import Scan
from slices import load_manifest
from splits import fingerprint, load_split, rows_of
from volumes import load_mask, load_volume, read_voxels, to_original_grid


@dataclass(frozen=True)
class TrainedRun:
    """A finished run of a lesion stage, and the subjects it kept from its training."""

    name: str
    folder: Path
    split: dict

    @property
    def weights(self):
        return self.folder / "best.weights.h5"

    def prediction(self, case):
        """Where `predict_cases` keeps its prediction of a scan."""
        return self.folder / "predictions" / f"{case.scan.name}_probability.nii.gz"


@dataclass(frozen=True)
class Case:
    """A scan to be scored: whose it is, its image (or another program's mask) and its mask.

    Of its axial slices training left out `skip` at both ends, with so much of the lesion.
    """

    scan: Scan
    labels: list | None
    lesion_outside_ml: float
    skip: int


def find_runs(folders, prepared):
    """Read what the run folders say of themselves, and check that they can be compared.

    Parameters
    ----------
    folders : list of path-like
    prepared : path-like
        The prepared folder whose split the runs must have been trained with.

    Returns
    -------
    list of TrainedRun
        Named by their folders; by their paths if two folders have one name.

    Raises
    ------
    InputError
        If a run is missing, not finished, learnt no lesions, or has another split; names it.
    """
    folders = [Path(folder) for folder in folders]
    unique = len({folder.resolve().name for folder in folders}) == len(folders)
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError(f"{', '.join(map(str, folders))}: name each run once")
    runs = []
    for folder in folders:
        facts = load_json(folder / "run.json", "name the folder of a finished run")
        if facts.get("stage") == "pre_train":
            raise InputError(f"{folder}: learnt tumours; evaluate runs that learnt lesions")
        if not facts.get("finished"):
            raise InputError(f"{folder}: not finished; the command that began it goes on")
        split = load_split(prepared, "atlas", facts["fold"])
        if facts["identity"].get("split") != fingerprint(split):
            raise InputError(
                f"{folder}: was trained with another split than {Path(prepared) / 'splits.json'}, "
                "so it may know these subjects; name its own folder by --set paths.prepared=FOLDER"
            )
        if runs and split != runs[0].split:
            raise InputError(
                f"{folder}: validates on another fold than {runs[0].folder}; "
                "runs are compared on the same subjects"
            )
        runs.append(TrainedRun(folder.resolve().name if unique else str(folder), folder, split))
    return runs


def find_cases(prepared, split, part):
    """List the scans of one part of the split, with all their sessions.

    Parameters
    ----------
    prepared : path-like
        The prepared folder.
    split : dict
        From `splits.load_split`.
    part : {"validation", "test"}

    Returns
    -------
    list of Case
    """
    rows = load_manifest(prepared, "atlas")
    rows = rows.iloc[rows_of(rows, split)[part]]
    if rows.empty:
        raise InputError(f"{prepared}: no subject is in the {part} part; see split in config.yaml")
    cases = []
    for _, row in rows.drop_duplicates(["subject", "session"]).iterrows():
        name = Scan("atlas", row.subject, row.session, row.site, None, None).name
        facts = load_json(Path(prepared, "atlas", f"{name}.json"), "run prep.py again")
        made_from = facts["made_from"]
        files = [Path(made_from[kind]) for kind in ("image", "mask")]
        for file, changed_ns in zip(files, made_from["changed_ns"], strict=True):
            if not file.is_file() or file.stat().st_mtime_ns != changed_ns:
                raise InputError(f"{file}: gone or changed since prep.py read it; run it again")
        scan = Scan("atlas", row.subject, row.session, row.site, *files)
        cases.append(Case(scan, made_from["labels"], facts["lesion_outside_ml"], made_from["skip"]))
    return cases


def missing_predictions(run, cases):
    """List the scans of which a run has no prediction yet, or one of other weights."""
    weights = file_hash(run.weights)
    return [case for case in cases if _made_from(run.prediction(case)) != _origin(weights, case)]


def predict_cases(run, cases, predict):
    """Predict scans and keep the probabilities beside the weights they come from.

    ``<run>/predictions/<scan>_probability.nii.gz`` lies on the scan's own grid and holds the
    probability in tenths, rounded down. It names the weights and the scan that it was made from, so
    that a start anew goes on where an earlier one stopped, and nothing old is taken for new.

    Parameters
    ----------
    run : TrainedRun
    cases : list of Case
    predict : callable
        From a `volumes.Volume` to the probability of lesion, (X, Y, Z), as
        `inference.predict_probability`.
    """
    weights = file_hash(run.weights)
    for case in tqdm(cases, desc=f"{run.name}: scans", disable=None):
        volume = load_volume(case.scan.image)
        image = to_original_grid(threshold_levels(predict(volume)), volume)
        image.header.set_slope_inter(0.1, 0)
        image.header["descrip"] = _origin(weights, case)
        with whole_file(run.prediction(case)) as temporary:
            temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def _origin(weights, case):
    return f"weights {weights}, scan {case.scan.image.stat().st_mtime_ns}".encode()


def _made_from(file):
    try:
        return nibabel.load(file).header["descrip"].item()
    except (OSError, nibabel.filebasedimages.ImageFileError):
        return None


def load_scored(run, case):
    """Read what a run is scored on.

    Returns
    -------
    volume : volumes.Volume
    reference : ndarray, uint8, shape (X, Y, Z)
    levels : ndarray, uint8, shape (X, Y, Z)
        From `operating_point.threshold_levels`.
    """
    volume = read_voxels(case.scan.image)
    reference = load_mask(case.scan.mask, case.labels, volume)
    tenths = read_voxels(run.prediction(case)).voxels
    return volume, reference, np.rint(tenths * 10).astype(np.uint8)


def score_thresholds(run_and_case):
    """Try operating points on one run and scan.

    Returns
    -------
    grid : ndarray
        `operating_point.dice_grid` with all slices, and with those alone that training knew.
    ends_mm, height_mm : float
        What training left out at both ends of the scan, and how high it is.
    """
    run, case = run_and_case
    volume, reference, levels = load_scored(run, case)
    box = box_of(levels | reference)
    grid = np.stack([
        dice_grid(marked[box], reference[box], volume.spacing_mm)
        for marked in (levels, without_ends(levels, case.skip))
    ])  # fmt: skip
    slice_mm = float(volume.spacing_mm[2])
    return grid, case.skip * slice_mm, levels.shape[2] * slice_mm


def choose(scored, cases):
    """Choose the operating point of a run from what `score_thresholds` found on its cases."""
    grids, ends_mm, heights_mm = zip(*scored, strict=True)
    point = choose_operating_point(grids, [case.scan.subject for case in cases])
    ends_mm = float(np.median(ends_mm)) if point.pop("trained_slices_only") else 0.0
    return point | {"ends_mm": ends_mm, "height_mm": float(np.median(heights_mm))}


def score(run_case_and_point):
    """Score one run on one scan, in 3D on its own grid: its row of metrics.csv."""
    run, case, point = run_case_and_point
    volume, reference, levels = load_scored(run, case)
    mask = mask_at(levels, point, volume.spacing_mm)
    return figures_row(run.name, case, subject_metrics(reference, mask, volume.spacing_mm))


def load_scene(run, case, point):
    """Read a scan, its mask and the run's prediction of it, to be looked at."""
    volume, reference, levels = load_scored(run, case)
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
