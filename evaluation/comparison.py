"""The metrics of all subjects: each run described, and compared with another."""

from typing import NamedTuple

import pandas

from evaluation.metric_table import METRICS, RANKINGS, VOLUME_COLUMNS
from evaluation.sentences import cost_sentence, noise_sentence, sentence
from evaluation.statistics import DECIMALS, compare, sd_between_seeds, summary
from evaluation.strata import strata_of
from training.provenance import differences

# The signed-rank test of fewer pairs that differ never falls below p = 0.05.
FEWEST_SUBJECTS = 6
SCAN = ["subject", "session"]


class Comparison(NamedTuple):
    """The names of a run and of the one it is compared with.

    `sites_held_out` if neither saw the sites it is scored on; `cost` if they differ by nothing but
    that the first did not.
    """

    run: str
    baseline: str
    sites_held_out: bool = False
    cost: bool = False


def comparisons_of(runs):
    """Say which run is compared with which: with the first, and with its like that saw all sites.

    Runs whose networks never saw the sites they are scored on are compared with each other, and,
    for the cost of an unseen site, with that of the same settings whose networks did.

    Returns
    -------
    list of Comparison
    list of str
        Why a run that holds sites out has no cost, a sentence each.
    """
    found, costs, reasons = [], [], []
    others = [run for run in runs if not run.sites_held_out]
    for run in runs:
        first = next(other for other in runs if other.sites_held_out == run.sites_held_out)
        if first is not run:
            found.append(Comparison(run.name, first.name, run.sites_held_out))
        if not run.sites_held_out or not others:
            continue
        likes = [other for other in others if other.stage == run.stage]
        equal = [other for other in likes if other.recipe == run.recipe]
        if equal:
            costs.append(Comparison(run.name, equal[0].name, cost=True))
            continue
        reason = "no run of its stage by subject is beside it"
        if likes:
            differing = ", ".join(differences(run.recipe, likes[0].recipe))
            reason = f"it was trained with another {differing} than {likes[0].name}"
        reasons.append(f"The cost of an unseen site is not known for {run.name}: {reason}.")
    return found + costs, reasons


def describe(rows, seed, strata=None):
    """Summarise the metrics of one run over its subjects, in all and in strata.

    `rows` are those of metrics.csv; seeds and sessions of a subject are averaged first, in strata the
    sessions that belong to it. `strata` are from `divide`, by default of these very rows.
    ``sd_between_seeds`` is that of the mean over subjects; NaN for one seed; ``missing`` counts the
    scans for which a network has no such metric. ``lesion_ml`` and
    ``lesion_outside_ml`` are the lesions of all scans, and what of them lies in the slices that
    training skipped, with ``lesion_below_ml`` at the bottom; ``with_lesion`` is the Dice of the
    subjects that have one, ``without_lesion`` what was marked on scans without.
    """
    table = pandas.DataFrame(rows)
    subjects = _by_subject(table)
    # One row a scan, averaged over seeds.
    scans = table.groupby(SCAN, dropna=False)
    scans = scans[[*METRICS, *VOLUME_COLUMNS, "lesion_below_ml"]].mean()
    healthy = scans[scans.lesion_volume_ml == 0]
    patients = _by_subject(table[table.lesion_volume_ml > 0])
    metrics = {name: summary(subjects[name], seed) for name in (*METRICS, *VOLUME_COLUMNS)}
    for name in METRICS:
        metrics[name]["missing"] = len(table[_is_lacking(table, name)].drop_duplicates(SCAN))
        values = _by_subject_and_seed(table, name).to_numpy()
        metrics[name]["sd_between_seeds"] = sd_between_seeds(values)
    return {
        "subjects": len(subjects),
        "scans": len(scans),
        "seeds": _seeds(table).nunique(),
        "metrics": metrics,
        "strata": {
            by: _describe_strata(table, own, seed) for by, own in (strata or divide(rows)).items()
        },
        "lesion_ml": float(scans.lesion_volume_ml.sum()),
        # Not known of another program's masks.
        "lesion_outside_ml": float(scans.lesion_outside_ml.sum(skipna=False)),
        "lesion_below_ml": float(scans.lesion_below_ml.sum(skipna=False)),
        "with_lesion": {"subjects": len(patients), "dice": summary(patients.dice, seed)},
        "without_lesion": {
            "scans": len(healthy),
            "with_false_positives": int((healthy.voxel_difference > 0).sum()),
            "false_positive_ml": float(healthy.volume_difference_ml.mean()),
            "false_positive_lesions": float(healthy.atlas_lesion_count_difference.mean()),
        },
    }


def _by_subject(table):
    """Return one row a subject, averaged over sessions and seeds."""
    return table.groupby("subject")[[*METRICS, *VOLUME_COLUMNS]].mean()


def _is_lacking(table, metric):
    """Say of each row whether a network lacks this metric of its scan: no distance to an empty mask."""
    scan = [table[name] for name in SCAN]
    return table[metric].isna().groupby(scan, dropna=False).transform("any")


def _seeds(table):
    """Return the seed of each row; masks of another program have none."""
    return table.seed if "seed" in table else pandas.Series(0, table.index)


def _by_subject_and_seed(table, metric):
    """Return one row a subject and one column a seed, averaged over sessions."""
    return table.groupby(["subject", _seeds(table)])[metric].mean().unstack()


def divide(rows, columns=()):
    """Divide the scans of all runs, once for all of them; see `evaluation.strata.strata_of`."""
    return strata_of(pandas.DataFrame(rows).drop_duplicates(SCAN).set_index(SCAN), columns)


def _describe_strata(table, strata, seed):
    described = {}
    of_row = strata.of_scan.reindex(pandas.MultiIndex.from_frame(table[SCAN]))
    for name in strata.names:
        own = _by_subject(table[(of_row == name).to_numpy()])
        described[name] = {"subjects": len(own)}
        described[name] |= {metric: summary(own[metric], seed) for metric in METRICS}
    return described


def compare_runs(rows, run, baseline, seed, cost=False, sites_held_out=False):
    """Ask for each metric whether a run does better than the baseline on the same subjects.

    Sessions of a subject are averaged first, those that have the metric in every network. The volume
    difference is compared without its sign, as absolute volume difference, alone. Each metric has the
    result of `evaluation.statistics.compare` and a ``sentence``; so has ``noise`` between seeds, and with `cost` that of an unseen site;
    ``sites_held_out`` is as given (see `Comparison`); ``caveat`` is a sentence if too few
    subjects differ to show anything.
    """
    table = pandas.DataFrame(rows)
    table = table[table.run.isin((run, baseline))]
    sites = table[table.run == run].site.nunique()
    compared = {}
    for name, metric in METRICS.items():
        if name == "volume_difference_ml":
            continue
        # Over other sessions of a subject than the other run, the hard ones missing, a mean is no pair.
        paired = table.assign(**{name: table[name].mask(_is_lacking(table, name))})
        values = [_by_subject_and_seed(paired[paired.run == r], name) for r in (run, baseline)]
        values[1] = values[1].loc[values[0].index]
        found = compare(*values, seed, metric.larger_is_better)
        compared[name] = found | {"sentence": sentence(metric, run, baseline, found)}
    dice, caveat = compared["dice"], None
    if dice["wins"] + dice["losses"] < FEWEST_SUBJECTS:
        caveat = (
            f"Fewer than {FEWEST_SUBJECTS} subjects differ in Dice, which cannot show anything: p stays "
            "above 0.05."
        )
    return {
        "run": run,
        "baseline": baseline,
        "metrics": compared,
        "noise": noise_sentence(run, baseline, dice),
        "cost": cost_sentence(dice, sites) if cost else None,
        "sites_held_out": sites_held_out,
        "caveat": caveat,
    }


def rank_runs(rows, ranking):
    """Order runs as a challenge of `RANKINGS` does: each scan and metric ranks them, the mean decides.

    Equal runs share the mean of their ranks, and a metric that does not exist is ranked last. The
    organisers' Dice is 0 where no lesion is recognised, so here, too.

    Returns
    -------
    dict
        ``ranking``, the number of ``scans``, and ``mean_rank`` of each run, the best first.
    """
    table = pandas.DataFrame(rows)
    table.loc[table.recognition_quality == 0, "dice"] = 0.0
    # Seeds of a run are averaged first.
    table = table.groupby([*SCAN, "run"], as_index=False)[[*RANKINGS[ranking]]].mean()
    table = table.round(DECIMALS)
    ranks = []
    for name in RANKINGS[ranking]:
        by_scan = table.pivot(index=SCAN, columns="run", values=name)
        smaller_first = not METRICS[name].larger_is_better
        ranks.append(by_scan.rank(axis=1, ascending=smaller_first, na_option="bottom"))
    mean = pandas.concat(ranks).mean().sort_values(kind="stable")
    return {"ranking": ranking, "scans": len(by_scan), "mean_rank": mean.to_dict()}
