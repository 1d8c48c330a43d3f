"""The metrics of all subjects: each run described, and compared with another."""

import math
from typing import NamedTuple

import pandas

from evaluation.formatting import interval, number, signed
from evaluation.statistics import compare, sd_between_seeds, summary
from evaluation.strata import strata_of


class Metric(NamedTuple):
    """How a metric of metrics.csv is shown and judged."""

    label: str
    unit: str
    digits: int
    larger_is_better: bool

    @property
    def title(self):
        return f"{self.label}, {self.unit}" if self.unit else self.label


METRICS = {
    "dice": Metric("Dice", "", 3, True),
    "precision": Metric("precision", "", 3, True),
    "recall": Metric("recall", "", 3, True),
    "lesion_f1": Metric("lesion F1", "", 3, True),
    "lesion_dice": Metric("lesion-wise Dice", "", 3, True),
    "hd95_mm": Metric("HD95", "mm", 1, False),
    "assd_mm": Metric("surface distance", "mm", 2, False),
    "volume_difference_ml": Metric("volume difference", "ml", 2, False),
    "voxel_difference": Metric("voxel difference", "", 0, False),
    "atlas_lesion_count_difference": Metric("lesion count difference (ATLAS)", "", 2, False),
    "false_positive_ml": Metric("wrong lesions", "ml", 2, False),
    "absolute_volume_difference_ml": Metric("absolute volume difference", "ml", 2, False),
    "lesion_count_difference": Metric("lesion count difference", "", 2, False),
    "recognition_quality": Metric("recognition quality", "", 3, True),
    "pr_auc": Metric("PR-AUC", "", 3, True),
}
RANKINGS = {
    "isles26": (
        "dice",
        "absolute_volume_difference_ml",
        "lesion_count_difference",
        "recognition_quality",
        "pr_auc",
    )
}
VOLUMES = ("lesion_volume_ml", "lesion_outside_ml")
# The signed-rank test of fewer pairs never falls below p = 0.05.
FEWEST_SUBJECTS = 6
MORE_SEEDS = "A second seed tells: cross_validate.py --seeds 2."


def describe(rows, seed, strata=None):
    """Summarise the metrics of one run over its subjects, in all and in strata.

    `rows` are those of metrics.csv; seeds and sessions of a subject are averaged first, in strata the
    sessions that belong to it. `strata` are from `divide`, by default of these very rows.
    ``sd_between_seeds`` is that of the mean over subjects; NaN for one seed. ``lesion_ml`` and
    ``lesion_outside_ml`` are the lesions of all scans, and what of them lies in the slices that
    training skipped, with ``lesion_below_ml`` at the bottom; ``without_lesion`` is what was marked
    on scans without lesion.
    """
    table = pandas.DataFrame(rows)
    subjects = _by_subject(table)
    # One row a scan, averaged over seeds.
    scans = table.groupby(["subject", "session"], dropna=False)
    scans = scans[[*METRICS, *VOLUMES, "lesion_below_ml"]].mean()
    healthy = scans[scans.lesion_volume_ml == 0]
    metrics = {name: summary(subjects[name], seed) for name in (*METRICS, *VOLUMES)}
    for name in METRICS:
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
        "without_lesion": {
            "scans": len(healthy),
            "with_false_positives": int((healthy.voxel_difference > 0).sum()),
            "false_positive_ml": float(healthy.volume_difference_ml.mean()),
            "false_positive_lesions": float(healthy.atlas_lesion_count_difference.mean()),
        },
    }


def _by_subject(table):
    """Return one row a subject, averaged over sessions and seeds."""
    return table.groupby("subject")[[*METRICS, *VOLUMES]].mean()


def _seeds(table):
    """Return the seed of each row; masks of another program have none."""
    return table.seed if "seed" in table else pandas.Series(0, table.index)


def _by_subject_and_seed(table, metric):
    """Return one row a subject and one column a seed, averaged over sessions."""
    return table.groupby(["subject", _seeds(table)])[metric].mean().unstack()


def divide(rows, columns=()):
    """Divide the scans of all runs, once for all of them; see `evaluation.strata.strata_of`."""
    table = pandas.DataFrame(rows).drop_duplicates(["subject", "session"])
    return strata_of(table.set_index(["subject", "session"]), columns)


def _describe_strata(table, strata, seed):
    described = {}
    of_row = strata.of_scan.reindex(pandas.MultiIndex.from_frame(table[["subject", "session"]]))
    for name in strata.names:
        own = _by_subject(table[(of_row == name).to_numpy()])
        described[name] = {"subjects": len(own)}
        described[name] |= {metric: summary(own[metric], seed) for metric in METRICS}
    return described


def compare_runs(rows, run, baseline, seed, price=False, sites_held_out=False):
    """Ask for each metric whether a run does better than the baseline on the same subjects.

    Sessions of a subject are averaged first. The volume difference is compared by its size,
    whichever its sign. Each metric has the result of `evaluation.statistics.compare` and a
    ``sentence``; so has ``noise`` between seeds, and with `price` that of a new scanner;
    ``sites_held_out`` is as given (see `evaluation.runs.Comparison`); ``caveat`` is a sentence if there
    are too few subjects to show anything.
    """
    table = pandas.DataFrame(rows)
    table["volume_difference_ml"] = table.volume_difference_ml.abs()
    one, other = (table[table.run == name] for name in (run, baseline))
    compared = {}
    for name, metric in METRICS.items():
        values = [_by_subject_and_seed(own, name) for own in (one, other)]
        values[1] = values[1].loc[values[0].index]
        found = compare(*values, seed, metric.larger_is_better)
        compared[name] = found | {"sentence": sentence(metric, run, baseline, found)}
    dice, caveat = compared["dice"], None
    if dice["n"] < FEWEST_SUBJECTS:
        caveat = f"Fewer than {FEWEST_SUBJECTS} subjects cannot show anything: p stays above 0.05."
    return {
        "run": run,
        "baseline": baseline,
        "metrics": compared,
        "noise": noise_sentence(run, baseline, dice),
        "price": price_sentence(dice, one.site.nunique()) if price else None,
        "sites_held_out": sites_held_out,
        "caveat": caveat,
    }


def price_sentence(found, sites):
    """Say what it costs that a network never saw a subject's site, by the comparison of Dice."""
    price = {
        "hurt": "The price of a new scanner",
        "helped": "No price of a new scanner, but more",
        "not shown": "Not shown that a new scanner has a price",
    }[found["verdict"]]
    return (
        f"{price}: {signed(found['mean_difference'], 3)} Dice where the network never saw the site "
        f"({_reach(found, 3)}; {_p(found['p'])}; {found['n']} subjects, {sites} sites)."
    )


def noise_sentence(run, baseline, found):
    """Say how much the mean Dice of two runs depends on the seed, by the comparison of Dice."""
    seeds = found["seeds"]
    lacking = [n for n, count in zip((run, baseline), seeds["counts"], strict=True) if count < 2]
    if lacking:
        have = "have one seed each" if len(lacking) > 1 else "has one seed"
        return f"Noise between seeds is unknown: {' and '.join(lacking)} {have}. {MORE_SEEDS}"
    if seeds["larger_than_noise"] is None:
        return "Noise between seeds is unknown: no subject is scored by all of them."
    larger = "may be that of seeds alone"
    if seeds["larger_than_noise"]:
        larger = "is more than seeds alone would make"
    one, other = (number(sd, 3) for sd in seeds["sd"])
    few = seeds["subjects"] < found["n"]
    those = f", of the {seeds['subjects']} subjects that all seeds score" if few else ""
    return (
        f"Noise between seeds: mean Dice has an SD of {one} over {seeds['counts'][0]} seeds of {run} "
        f"and of {other} over {seeds['counts'][1]} of {baseline}; the difference of "
        f"{signed(found['mean_difference'], 3)} {larger} "
        f"({_p(seeds['p'])}, t-test of the seeds{those})."
    )


def sentence(metric, run, baseline, found):
    """Say in one sentence whether a run helped; `found` is from `evaluation.statistics.compare`."""
    name = metric.label[0].upper() + metric.label[1:]
    if not found["n"]:
        return f"{name}: no subject has it in both {run} and {baseline}."
    unit = f" {metric.unit}" if metric.unit else ""
    counts = f"{found['wins']} better, {found['ties']} equal, {found['losses']} worse"
    counts += f", {found['missing']} without" if found["missing"] else ""
    shown = found["verdict"] != "not shown"
    claim = f"{run} {found['verdict']}" if shown else f"not shown that {run} helped or hurt"
    difference = signed(found["mean_difference"], metric.digits) + unit
    reach, p = _reach(found, metric.digits), _p(found["p"])
    return f"{name}: {claim}, {difference} against {baseline} ({reach}; {p}; {counts})."


def _reach(found, digits):
    if math.isnan(found["low"]):
        return "too few subjects for an interval"
    return f"95 % interval {interval(found, digits, signed)}"


def _p(p):
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


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
    table = table.groupby(["subject", "session", "run"], as_index=False)[
        [*RANKINGS[ranking]]
    ].mean()
    ranks = []
    for name in RANKINGS[ranking]:
        by_scan = table.pivot(index=["subject", "session"], columns="run", values=name)
        smaller_first = not METRICS[name].larger_is_better
        ranks.append(by_scan.rank(axis=1, ascending=smaller_first, na_option="bottom"))
    mean = pandas.concat(ranks).mean().sort_values(kind="stable")
    return {"ranking": ranking, "scans": len(by_scan), "mean_rank": mean.to_dict()}


def ranking_sentence(found):
    """Say in one sentence how runs are ranked; `found` is from `rank_runs`."""
    runs = ", ".join(f"{name} {rank:.2f}" for name, rank in found["mean_rank"].items())
    count = len(RANKINGS[found["ranking"]])
    return (
        f"Mean rank by {found['ranking']} over {found['scans']} scans and {count} metrics, "
        f"the best first: {runs}."
    )


def notes(runs):
    """Say in sentences what no metric tells."""
    sentences = []
    first = next(iter(runs.values()))
    if first["lesion_ml"] and not math.isnan(first["lesion_outside_ml"]):
        outside, below = first["lesion_outside_ml"], first["lesion_below_ml"]
        empty = []
        for name, run in runs.items():
            points = run.get("operating_points", {})
            own = [predictor for predictor, point in points.items() if point["ends_mm"]]
            empty += [name] if own and len(own) == len(points) else own
        fate = "predicted and counted"
        if empty:
            fate = f"counted as missed where they are left empty ({'; '.join(empty)})"
        sentences.append(
            f"{outside:.1f} ml, {100 * outside / first['lesion_ml']:.1f} % of the lesion volume, lie "
            f"in the slices that training skipped, {below:.1f} ml at the bottom and "
            f"{outside - below:.1f} ml at the top; they are {fate}."
        )
    for name, run in runs.items():
        if run.get("subjects_left_out"):
            sentences.append(
                f"{name}: not over all folds; {run['subjects_left_out']} subjects are not scored."
            )
        healthy = run["without_lesion"]
        if healthy["scans"]:
            sentences.append(
                f"{name}: {healthy['with_false_positives']} of {healthy['scans']} scans without "
                f"lesion are marked, on average {healthy['false_positive_ml']:.2f} ml in "
                f"{healthy['false_positive_lesions']:.1f} lesions a scan."
            )
    return sentences


def without_nan(content):
    """Replace NaN, which JSON does not know, by None, however deep."""
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
