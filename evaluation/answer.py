"""What heads the report: the answer to the question that the runs were made for."""

from datetime import date

from evaluation.formatting import interval, mean_and_sd, number
from evaluation.sentences import spread_sentence

HEADLINES = {
    "helped": ("Yes: {what} helped", "helped"),
    "hurt": ("No: {what} hurt", "hurt"),
    "not shown": ("Not shown that {what} helped or hurt", "open"),
}
# Where no run is compared with another but by who saw the site.
COSTS = {
    "helped": ("An unseen site costs nothing: {cost} Dice more", "open"),
    "hurt": ("An unseen site costs {cost} Dice", "hurt"),
    "not shown": ("Not shown that an unseen site costs Dice", "open"),
}


def describe_scored(subset, run):
    """Say in words what a run is scored on, and how many of its folds and seeds are there."""
    folds = run.get("folds", {})
    seeds = f", {len(folds)} seeds" if len(folds) > 1 else ""
    counts = {len(own) for own in folds.values()} or {1}
    most = max(counts)
    if most == 1:
        return f"{subset} subset{seeds}"
    if subset != "validation":
        return (
            f"{subset} subset, average of {' or '.join(map(str, sorted(counts)))} networks{seeds}"
        )
    what = f"{most} folds" if most == run["of_folds"] else f"{most} of {run['of_folds']} folds"
    return f"cross-validation over {what}{' of whole sites' * run['sites_held_out']}{seeds}"


def make_answer(subset, runs, comparisons, stages, scored_on):
    """Say what heads the report: the answer of the last comparison, or the Dice of the only run.

    Whether something helped goes before the cost of an unseen site.
    """
    name, first = next(iter(runs.items()))
    of = f"{scored_on}, " if subset else ""
    answer = {
        "overline": f"{of}{first['subjects']} subjects, {first['scans']} scans · "
        f"{date.today():%d %B %Y}",
        "warnings": _warnings(subset, first),
    }
    costs = [found for found in comparisons if found["cost"]]
    on_new_sites = [found for found in comparisons if found["sites_held_out"]]
    others = [found for found in comparisons if found not in (*costs, *on_new_sites)]
    if comparisons:
        found = [*costs, *on_new_sites, *others][-1]
        dice = found["metrics"]["dice"]
        headline, tone = (COSTS if found["cost"] else HEADLINES)[dice["verdict"]]
        cost = number(abs(dice["mean_difference"]), 3)
        of = () if found["cost"] else ("dice", "lesion_f1")
        sentences = [found["metrics"][key]["sentence"] for key in of]
        sentences += [
            own["metrics"]["dice"]["sentence"] for own in on_new_sites if own is not found
        ]
        sentences += [own["cost"] for own in costs]
        shown = "not shown" if dice["verdict"] == "not shown" else "shown"
        return answer | {
            "verdict": shown if found["cost"] else dice["verdict"],
            "tone": tone,
            "headline": headline.format(what=_compared(found, runs, stages), cost=cost),
            "sentences": [*sentences, found["noise"], *filter(None, [found["caveat"]])],
        }
    dice = first["metrics"]["dice"]
    return answer | {
        "verdict": "",
        "tone": "open",
        "headline": f"{name}: Dice {mean_and_sd(dice, 3)}",
        "sentences": [
            f"Median {number(dice['median'], 3)}, 95 % interval of the mean {interval(dice, 3)}.",
            *([spread_sentence(first)] if "folds" in first else []),
        ],
    }


def _warnings(subset, run):
    if subset != "validation":
        return []
    if max(map(len, run.get("folds", {}).values()), default=1) > 1:
        return [
            "Each subject is predicted by the network that was not trained on it; the operating "
            "point of each fold was chosen on the other folds, but the epoch of its network on these "
            "very subjects. What no choice has seen is the held-back subset: evaluate.py --subset test."
        ]
    return [
        "The operating point (below) was chosen on these very scans, so these metrics are optimistic. "
        "Fair ones are those of the test subset, which was held back: evaluate.py --subset test."
    ]


def _compared(comparison, runs, stages):
    """Name what a comparison is about."""
    stage_of = {str(folder): facts["stage"] for folder, facts in stages.items()}
    both = [stage_of.get(runs[comparison[key]]["folders"][0]) for key in ("run", "baseline")]
    return "transfer learning" if both == ["transfer", "train"] else comparison["run"]
