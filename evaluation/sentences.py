"""Plain sentences on what was found: whether it helped, by how much, and what no metric tells."""

import math

from evaluation.formatting import interval, mean_and_sd, number, p_value, signed
from evaluation.metric_table import RANKINGS

MORE_SEEDS = "A second seed tells: cross_validate.py --seeds 2."


def sentence(metric, run, baseline, found):
    """Say in one sentence whether a run helped; `found` is from `evaluation.statistics.compare`."""
    name = metric.label[0].upper() + metric.label[1:]
    if not found["n"]:
        return f"{name}: no subject has it in both {run} and {baseline}."
    unit = f" {metric.unit}" if metric.unit else ""
    counts = f"{found['wins']} better, {found['ties']} equal, {found['losses']} worse"
    counts += f", {found['missing']} where it does not exist" if found["missing"] else ""
    shown = found["verdict"] != "not shown"
    claim = f"{run} {found['verdict']}" if shown else f"not shown that {run} helped or hurt"
    difference = signed(found["mean_difference"], metric.digits) + unit
    reach, p = _reach(found, metric.digits), p_value(found["p"])
    return f"{name}: {claim}, {difference} against {baseline} ({reach}; {p}; {counts})."


def cost_sentence(found, sites):
    """Say what it costs that a network never saw a subject's site, by the comparison of Dice."""
    cost = {
        "hurt": "The cost of an unseen site",
        "helped": "An unseen site has no cost",
        "not shown": "Not shown that an unseen site has a cost",
    }[found["verdict"]]
    return (
        f"{cost}: {signed(found['mean_difference'], 3)} Dice where the network never saw the site "
        f"({_reach(found, 3)}; {p_value(found['p'])}; {found['n']} subjects, {sites} sites)."
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
        f"({p_value(seeds['p'])}, t-test of the seeds{those})."
    )


def spread_sentence(run):
    """Say how much the mean Dice depends on the seed, of a run that is compared with none."""
    sd = run["metrics"]["dice"]["sd_between_seeds"]
    if run["seeds"] < 2:
        return f"Noise between seeds is unknown: it has one seed. {MORE_SEEDS}"
    if math.isnan(sd):
        return "Noise between seeds is unknown: no subject is scored by all of them."
    return f"Noise between seeds: mean Dice has an SD of {number(sd, 3)} over {run['seeds']} seeds."


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
    outside, below = first["lesion_outside_ml"], first["lesion_below_ml"]
    if first["lesion_ml"] and outside < 0.05:
        sentences.append(
            "Less than 0.1 ml of all lesions lies in the slices that training skipped."
        )
    elif first["lesion_ml"] and not math.isnan(outside):
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
        healthy, patients = run["without_lesion"], run["with_lesion"]
        if healthy["scans"]:
            sentences.append(
                f"{name}: {healthy['with_false_positives']} of {healthy['scans']} scans without "
                f"lesion have something marked (Dice 0, the others 1), on average "
                f"{healthy['false_positive_ml']:.2f} ml in "
                f"{healthy['false_positive_lesions']:.1f} lesions a scan."
            )
        if healthy["scans"] and patients["subjects"]:
            sentences.append(
                f"{name}: Dice of the {patients['subjects']} subjects with a lesion alone "
                f"{mean_and_sd(patients['dice'], 3)}, 95 % interval {interval(patients['dice'], 3)}."
            )
    return sentences


def _reach(found, digits):
    if math.isnan(found["low"]):
        return "too few subjects for an interval"
    return f"95 % interval {interval(found, digits, signed)}"
