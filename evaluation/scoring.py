"""Runs scored in 3D: scans predicted once, the operating point chosen, the masks compared."""

from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np

from evaluation.cases import find_cases
from evaluation.choosing import (
    THRESHOLDS,
    check_own_point,
    choose_operating_point,
    chosen_operating_point,
    level_of,
    metric_grids,
    save_operating_point,
)
from evaluation.comparison import comparisons_of
from evaluation.kept_predictions import load_scored, predict_missing
from evaluation.metrics import subject_metrics
from evaluation.runs import find_runs
from evaluation.strata import check_strata
from prediction.lesions import box_of
from prediction.operating_point import PLAIN, describe_point, empty_ends, mask_of
from scans.geometry import depth_seen
from scans.volumes import Volume
from system.files import InputError
from system.parallel import in_parallel


class Scores(NamedTuple):
    """What was scored.

    Rows of metrics.csv, facts of each run, a function that loads the `View` of each scan, which runs
    are compared, each an `evaluation.comparison.Comparison`, and sentences on what cannot be.
    """

    rows: list
    runs: dict
    views: dict
    compared: tuple = ()
    notes: tuple = ()


class View(NamedTuple):
    """A scan to be looked at, with its reference mask and its prediction, uint8, (X, Y, Z)."""

    volume: Volume
    reference: np.ndarray
    prediction: np.ndarray


def score_runs(folders, prepared, subset, options, fewest=1):
    """Predict and score one subset of the split by each of some finished runs.

    On validation the operating points are chosen, for each fold of a cross-validation on the other
    folds; on test the chosen ones are used. `options` are the settings of section ``evaluation``.

    Raises
    ------
    InputError
        If there are fewer runs than `fewest`, or `find_runs` refuses one.
    """
    runs = find_runs(folders, prepared, subset)
    if len(runs) < fewest:
        names = ", ".join(run.name for run in runs)
        raise InputError(f"{names}: a ranking needs {fewest} runs or more; name them")
    compared, notes = comparisons_of(runs)
    cases = _find_cases(runs, prepared, subset)
    check_strata(options.strata, [case for own in cases.values() for case in own])
    if subset == "validation":
        for weights in chain(*(predictor.weights for predictor in cases)):
            check_own_point(weights)
        predict_missing(cases, dict.fromkeys(cases, options.flip))
        points = choose_points(runs, cases, options)
    else:
        points = {predictor: read_point(predictor, options.choose_for) for predictor in cases}
        predict_missing(cases, {predictor: points[predictor]["flip"] for predictor in cases})
    tasks = [(predictor, case, points[predictor]) for predictor, case in _pairs(cases)]
    rows = list(in_parallel(score_case, tasks, "scoring"))
    _print_points(cases, points, subset, options.choose_for)
    facts = {
        run.name: {
            "folders": [str(file.parent) for p in run.predictors for file in p.weights],
            "operating_points": {p.name: points[p] for p in run.predictors},
            "folds": run.folds,
            "of_folds": run.of_folds,
            "sites_held_out": run.sites_held_out,
            "subjects_left_out": run.count_left_out(),
        }
        for run in runs
    }
    # Of equal keys the last stays: that of the last run, and of its first seed.
    last = [predictor for run in runs for own in reversed(run.by_seed()) for predictor in own]
    views = {
        (case.subject, case.session): partial(load_view, predictor, case, points[predictor])
        for predictor in last
        for case in cases[predictor]
    }
    return Scores(rows, facts, views, compared, notes)


def _find_cases(runs, prepared, subset):
    """List the cases of each predictor; those of equal folds are read once."""
    read = {}
    for run in runs:
        for predictor in run.predictors:
            subjects = tuple(sorted(predictor.split[subset]))
            if subjects not in read:
                read[subjects] = find_cases(prepared, predictor.split, subset)
    return {
        predictor: read[tuple(sorted(predictor.split[subset]))]
        for run in runs
        for predictor in run.predictors
    }


def _pairs(cases):
    return [(predictor, case) for predictor, own in cases.items() for case in own]


def _print_points(cases, points, subset, aim):
    """Print for each predictor what it is scored on, and with which operating point."""
    for predictor, own in cases.items():
        networks = len(predictor.weights)
        average = f"the average of {networks} networks, " if networks > 1 else ""
        chosen_on = points[predictor].get("chosen_on", "validation")
        chosen_on = "these very scans" if chosen_on == "validation" else chosen_on
        print(
            f"{predictor.name}: {len(own)} scans of the {subset} subset, {average}"
            + describe_point(points[predictor])
            + (f", chosen for {aim} on {chosen_on}" if subset == "validation" else "")
        )


def read_point(predictor, aim):
    """Read the operating point chosen on validation, or print that the plain one is taken."""
    points = [chosen_operating_point(weights, aim) for weights in predictor.weights]
    if any(point != points[0] for point in points):
        raise InputError(
            f"{predictor.name}: its folds have several operating points; choose one by "
            f"evaluate.py --subset validation {' '.join(str(w.parent) for w in predictor.weights)}"
        )
    if points[0] is None:
        print(
            f"{predictor.name}: has no operating point, so {describe_point(PLAIN)}; "
            "evaluate.py --subset validation chooses one"
        )
    return points[0] or dict(PLAIN)


class Tried(NamedTuple):
    """Operating points tried on one scan.

    `grids` are `metric_grids` with all slices, and with those that training knew; `ends_mm` is what
    training left out at both ends of the scan, and `height_mm` how high it is.
    """

    grids: np.ndarray
    ends_mm: float
    height_mm: float
    subject: str


def try_points(predictor_and_case, aim):
    """Try operating points on one scan; return `Tried`."""
    predictor, case = predictor_and_case
    return try_on_prediction(*load_scored(predictor, case), case, aim)


def try_on_prediction(volume, reference, levels, case, aim):
    """Try operating points on the `probability_levels` of one scan; return `Tried`."""
    box = box_of((levels > level_of(THRESHOLDS[0])) | (reference > 0))
    grids = [
        metric_grids(marked[box], reference[box], volume.spacing_mm, aim)
        for marked in (levels, empty_ends(levels, volume, case.alignment, case.skip))
    ]
    depth, slice_mm = depth_seen(volume, case.alignment)
    return Tried(np.stack(grids), case.skip * slice_mm, depth * slice_mm, case.subject)


def choose_points(runs, cases, options):
    """Choose each predictor's operating point on validation."""
    try_on = partial(try_points, aim=options.choose_for)
    results = in_parallel(try_on, _pairs(cases), "choosing thresholds")
    tried = {predictor: [next(results) for _ in own] for predictor, own in cases.items()}
    results.close()
    points = {}
    for run in runs:
        for folds in run.by_seed():
            points |= choose_for_folds({fold: tried[fold] for fold in folds}, options)
    return points


def choose_for_folds(tried, options):
    """Choose the operating point of each predictor of a run and seed from what was tried on its scans.

    A fold is scored with a point in which its own subjects had no part, chosen on the predictions
    of the other folds. The point that is chosen on all of them is stored beside each fold's
    weights, for the test subset and new scans. A run of one fold is scored with that, too.
    """
    aim, flip = options.choose_for, {"flip": options.flip}
    point = choose_point(chain(*tried.values()), aim) | flip
    points = {fold: save_operating_point(point, fold.weights[0], aim) for fold in tried}
    if len(tried) > 1:
        for fold in tried:
            others = chain(*(found for other, found in tried.items() if other is not fold))
            points[fold] = choose_point(others, aim) | flip | {"chosen_on": "the other folds"}
    return points


def choose_point(tried, aim):
    """Choose the operating point that serves an aim best over some scans, a `Tried` each."""
    grids, ends_mm, heights_mm, subjects = zip(*tried, strict=True)
    point = choose_operating_point(grids, subjects, aim)
    ends_mm = float(np.median(ends_mm)) if point.pop("trained_slices_only") else 0.0
    return point | {"ends_mm": ends_mm, "height_mm": float(np.median(heights_mm))}


def score_case(task):
    """Score one scan in 3D, from (predictor, case, point) to a row of metrics.csv."""
    predictor, case, point = task
    volume, reference, levels = load_scored(predictor, case)
    prediction = _cut(levels, point, volume, case)
    # As `predict.py` writes it.
    soft = levels if prediction.any() else np.zeros_like(levels)
    metrics = subject_metrics(reference, prediction, volume.spacing_mm, soft)
    return metrics_row(predictor.run, case, metrics, predictor.seed, predictor.fold)


def load_view(predictor, case, point):
    """Read a scan, its reference mask, and its prediction cut at an operating point."""
    volume, reference, levels = load_scored(predictor, case)
    return View(volume, reference, _cut(levels, point, volume, case))


def _cut(levels, point, volume, case):
    return mask_of(levels, level_of(point["threshold"]), point, volume, case.alignment)


def metrics_row(run, case, metrics, seed=None, fold=None):
    """Make a row of metrics.csv."""
    scan = {"run": run, "subject": case.subject, "session": case.session, "site": case.site}
    scan |= {n: value for n, value in (("seed", seed), ("fold", fold)) if value is not None}
    ends = {name: getattr(case, name) for name in ("lesion_outside_ml", "lesion_below_ml")}
    return scan | metrics | ends | case.metadata
