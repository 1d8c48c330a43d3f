"""Score trained runs scan by scan in 3D, and choose threshold and smallest lesion on validation.

Needs no TensorFlow: networks come in as a function from a scan to its probabilities.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from files import InputError, file_hash, load_json
from inference import segment
from metrics import subject_metrics
from scans import Scan
from slices import load_manifest
from splits import fingerprint, load_split, rows_of
from volumes import load_mask, load_volume

# What is tried on the validation subjects.
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SMALLEST_ML = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True)
class TrainedRun:
    """A finished run of a lesion stage, and the subjects it kept from its training."""

    name: str
    folder: Path
    split: dict

    @property
    def weights(self):
        return self.folder / "best.weights.h5"

    @property
    def operating_point(self):
        return self.folder / "operating_point.json"


@dataclass(frozen=True)
class Case:
    """A scan to be scored: whose it is, its image (or another program's mask) and its mask."""

    scan: Scan
    labels: list | None
    lesion_outside_ml: float


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
        files = (Path(made_from[kind]) for kind in ("image", "mask"))
        scan = Scan("atlas", row.subject, row.session, row.site, *files)
        cases.append(Case(scan, made_from["labels"], facts["lesion_outside_ml"]))
    return cases


def score_run(name, cases, predict, point=None):
    """Predict scans and score them, in 3D on their own grid.

    Parameters
    ----------
    name : str
        Of the run.
    cases : list of Case
    predict : callable
        From a `volumes.Volume` to the probability of lesion, (X, Y, Z), as
        `inference.predict_probability`.
    point : dict, optional
        ``threshold`` and ``smallest_ml``; chosen on these very scans when omitted.

    Returns
    -------
    rows : list of dict
        Of metrics.csv, one a scan.
    point : dict
    """
    thresholds = THRESHOLDS if point is None else (point["threshold"],)
    predicted, grids = [], []
    for case in tqdm(cases, desc=f"{name}: scans", disable=None):
        volume = load_volume(case.scan.image)
        reference = load_mask(case.scan.mask, case.labels, volume)
        probability = predict(volume)
        # How many thresholds a voxel exceeds: all that is needed of it, in one byte.
        levels = sum((probability > threshold).astype(np.uint8) for threshold in thresholds)
        # Of most scans a small box is left, so that all fit in memory; no figure depends on more.
        found = ndimage.find_objects(((levels | reference) > 0).view(np.uint8))
        box = found[0] if found else (slice(1),) * 3
        levels, reference = levels[box].copy(), reference[box].copy()
        predicted.append((levels, reference, volume.spacing_mm))
        if point is None:
            grids.append(dice_grid(levels, reference, volume.spacing_mm))
    if point is None:
        point = choose_operating_point(grids, [case.scan.subject for case in cases])
    level = thresholds.index(point["threshold"])
    rows = []
    for case, (levels, reference, spacing_mm) in zip(cases, predicted, strict=True):
        mask = segment(levels, level, voxels(point["smallest_ml"], spacing_mm))
        rows.append(figures_row(name, case, subject_metrics(reference, mask, spacing_mm)))
    return rows, point


def figures_row(run, case, figures):
    scan = case.scan
    whose = {"run": run, "subject": scan.subject, "session": scan.session, "site": scan.site}
    return whose | figures | {"lesion_outside_ml": case.lesion_outside_ml}


def voxels(volume_ml, spacing_mm):
    """How many voxels a volume has; 10 where rounding would make 10.000000000000002."""
    return round(volume_ml * 1000 / float(np.prod(spacing_mm)), 6)


def dice_grid(levels, reference, spacing_mm):
    """Compute a scan's Dice for every threshold and smallest lesion that is tried.

    Each threshold is labelled once: a lesion that is left out takes its own voxels along.

    Parameters
    ----------
    levels : ndarray, uint8, shape (X, Y, Z)
        How many of `THRESHOLDS` the probability exceeds.
    reference : ndarray, uint8, shape (X, Y, Z)
    spacing_mm : array_like, shape (3,)

    Returns
    -------
    ndarray, float, shape (len(THRESHOLDS), len(SMALLEST_ML))
    """
    grid = np.empty((len(THRESHOLDS), len(SMALLEST_ML)))
    total = np.count_nonzero(reference)
    for i in range(len(THRESHOLDS)):
        lesions, count = ndimage.label(levels > i)
        # Of each lesion, without the background, which is number 0.
        sizes = np.bincount(lesions.ravel(), minlength=count + 1)[1:]
        right = np.bincount(lesions[reference > 0], minlength=count + 1)[1:]
        for j, smallest_ml in enumerate(SMALLEST_ML):
            kept = sizes >= voxels(smallest_ml, spacing_mm)
            whole = int(sizes[kept].sum()) + total
            grid[i, j] = 2 * int(right[kept].sum()) / whole if whole else 1.0
    return grid


def choose_operating_point(grids, subjects):
    """Choose the threshold and the smallest lesion with the highest mean Dice over subjects.

    Of equals, the threshold nearest to 0.5, then the smallest lesion.

    Parameters
    ----------
    grids : list of ndarray
        From `dice_grid`, one a scan.
    subjects : list of str
        Whose scans they are; the sessions of a subject are averaged first.

    Returns
    -------
    dict
        ``threshold``, ``smallest_ml``, ``mean_dice``, ``subjects`` (how many).
    """
    grids, subjects = np.array(grids), np.array(subjects)
    names = np.unique(subjects)
    mean = np.mean([grids[subjects == name].mean(0) for name in names], axis=0).round(9)
    i, j = min(
        np.ndindex(mean.shape), key=lambda at: (-mean[at], abs(THRESHOLDS[at[0]] - 0.5), at[1])
    )
    return {
        "threshold": THRESHOLDS[i],
        "smallest_ml": SMALLEST_ML[j],
        "mean_dice": float(mean[i, j]),
        "subjects": len(names),
    }


def check_operating_point(run):
    """Refuse an operating point that was chosen for other weights than the run now has."""
    stored = load_json(run.operating_point, "run evaluate.py --part validation")
    if stored.get("weights") != file_hash(run.weights):
        raise InputError(
            f"{run.operating_point}: was not chosen for {run.weights.name} as it is now; "
            "run evaluate.py --part validation first"
        )
