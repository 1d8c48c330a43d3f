"""What the figures of all subjects say: each run described, and each compared with the first."""

import math
from functools import partial
from typing import NamedTuple

import pandas

from evaluation.metrics import STRATA, compare, summary, volume_stratum


class Figure(NamedTuple):
    label: str
    unit: str
    digits: int
    larger_is_better: bool


FIGURES = {
    "dice": Figure("Dice", "", 3, True),
    "precision": Figure("precision", "", 3, True),
    "recall": Figure("recall", "", 3, True),
    "lesion_f1": Figure("lesion F1", "", 3, True),
    "lesion_dice": Figure("lesion-wise Dice", "", 3, True),
    "hd95_mm": Figure("HD95", "mm", 1, False),
    "assd_mm": Figure("surface distance", "mm", 2, False),
    "volume_difference_ml": Figure("volume difference", "ml", 2, False),
    "voxel_difference": Figure("voxel difference", "", 0, False),
    "lesion_count_difference": Figure("lesion count difference", "", 2, False),
    "false_positive_ml": Figure("wrong lesions", "ml", 2, False),
}
VOLUMES = ("lesion_volume_ml", "lesion_outside_ml")


def describe(rows, seed):
    """Summarise the figures of one run over its subjects, whole and in strata.

    Parameters
    ----------
    rows : list of dict
        Of metrics.csv, all of one run. The sessions of a subject are averaged first.
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict
        ``subjects`` and ``scans`` (how many); ``figures``: `evaluation.metrics.summary` of each;
        ``by_lesion_volume`` and ``by_site``: the same in each stratum, and its ``subjects``;
        ``lesion_ml``, ``lesion_outside_ml``: all lesions of all scans, and what of them lies in the
        slices that training skipped; ``without_lesion``: what was marked on scans without lesion.
    """
    table = pandas.DataFrame(rows)
    subjects = _average_sessions(table)
    strata = subjects.lesion_volume_ml.map(volume_stratum)
    sites = table.groupby("subject").site.first().loc[subjects.index]
    healthy = table[table.lesion_volume_ml == 0]
    return {
        "subjects": len(subjects),
        "scans": len(table),
        "figures": {name: summary(subjects[name], seed) for name in (*FIGURES, *VOLUMES)},
        "by_lesion_volume": _describe_strata(subjects, strata, STRATA, seed),
        "by_site": _describe_strata(subjects, sites, sorted(sites.unique()), seed),
        "lesion_ml": float(table.lesion_volume_ml.sum()),
        # Not known of another program's masks.
        "lesion_outside_ml": float(table.lesion_outside_ml.sum(skipna=False)),
        "without_lesion": {
            "scans": len(healthy),
            "with_false_positives": int((healthy.voxel_difference > 0).sum()),
            "false_positive_ml": float(healthy.volume_difference_ml.mean()),
            "false_positive_lesions": float(healthy.lesion_count_difference.mean()),
        },
    }


def _average_sessions(table):
    """Return one row a subject."""
    return table.groupby("subject")[[*FIGURES, *VOLUMES]].mean()


def _describe_strata(subjects, stratum_of, strata, seed):
    return {
        stratum: {"subjects": int((stratum_of == stratum).sum())}
        | {name: summary(subjects[name][stratum_of == stratum], seed) for name in FIGURES}
        for stratum in strata
    }


def compare_runs(rows, run, baseline, seed):
    """Ask for each figure whether a run does better than the baseline on the same subjects.

    The volume difference is compared by its size, whichever its sign.

    Parameters
    ----------
    rows : list of dict
        Of metrics.csv, both runs among them. The sessions of a subject are averaged first.
    run, baseline : str
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict
        ``run``, ``baseline`` and ``figures``: `evaluation.metrics.compare` of each, and its ``sentence``.
    """
    table = pandas.DataFrame(rows)
    table["volume_difference_ml"] = table.volume_difference_ml.abs()
    one, other = (_average_sessions(table[table.run == name]) for name in (run, baseline))
    other = other.loc[one.index]
    figures = {}
    for name, figure in FIGURES.items():
        found = compare(one[name], other[name], seed, figure.larger_is_better)
        figures[name] = found | {"sentence": sentence(figure, run, baseline, found)}
    return {"run": run, "baseline": baseline, "figures": figures}


def sentence(figure, run, baseline, found):
    """Say in one sentence whether a run helped.

    Parameters
    ----------
    figure : Figure
    run, baseline : str
    found : dict
        From `evaluation.metrics.compare`.
    """
    name = figure.label[0].upper() + figure.label[1:]
    if not found["n"]:
        return f"{name}: no subject has it in both {run} and {baseline}."
    number = partial(signed, digits=figure.digits)
    unit = f" {figure.unit}" if figure.unit else ""
    interval = "too few subjects for an interval"
    if not math.isnan(found["low"]):
        interval = f"95 % interval {number(found['low'])} to {number(found['high'])}"
    p = "p < 0.001" if found["p"] < 0.001 else f"p = {found['p']:.3f}"
    counts = f"{found['wins']} better, {found['ties']} equal, {found['losses']} worse"
    counts += f", {found['missing']} without" if found["missing"] else ""
    shown = found["verdict"] != "not shown"
    claim = f"{run} {found['verdict']}" if shown else f"not shown that {run} helped or hurt"
    difference = number(found["mean_difference"]) + unit
    return f"{name}: {claim}, {difference} against {baseline} ({interval}; {p}; {counts})."


def signed(value, digits):
    """Write a number with its sign, a true minus; 0 has none."""
    text = f"{value:+.{digits}f}"
    return (text[1:] if float(text) == 0 else text).replace("-", "−")


def without_nan(content):
    """Replace NaN, which JSON does not know, by None, however deep."""
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
