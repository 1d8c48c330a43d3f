"""The results of an evaluation: saved, and printed."""

import math

from evaluation.comparison import compare_runs, describe, divide, rank_runs
from evaluation.formatting import interval, mean_and_sd, number
from evaluation.metric_table import METRICS
from evaluation.report import save_report
from evaluation.sentences import notes, ranking_sentence, spread_sentence
from system.files import InputError, load_json, one_line, refuse_foreign, save_csv, save_json

OUTPUTS = ("metrics.csv", "summary.json", "comparison.json", "report.html")


def check_folder(folder):
    """Refuse a folder whose files evaluate.py would replace but did not write."""
    try:
        summary = load_json(folder / "summary.json", "")
    except InputError:
        summary = None
    ours = isinstance(summary, dict) and {"subset", "runs"} <= summary.keys()
    refuse_foreign(folder, OUTPUTS, ours, "evaluate.py")


def save_evaluation(scores, subset, folder, seed, strata=(), ranking=None):
    """Describe and compare the runs of `evaluation.scoring.Scores`; save and print all results.

    `subset` is None for masks that another program made; `seed` is that of the bootstrap; `strata`
    are further columns to divide by (see `evaluation.strata`); `ranking` is one of
    `evaluation.metric_table.RANKINGS`.
    """
    rows = scores.rows
    ranked = rank_runs(rows, ranking) if ranking else None
    divided = divide(rows, strata)
    runs = {
        name: facts | describe([row for row in rows if row["run"] == name], seed, divided)
        for name, facts in scores.runs.items()
    }
    comparisons = [
        compare_runs(rows, c.run, c.baseline, seed, c.cost, c.sites_held_out)
        for c in scores.compared
    ]
    # The first, as it tells that the others are ours.
    save_json(folder / "summary.json", without_nan({"subset": subset, "runs": runs}))
    save_csv(folder / "metrics.csv", rows)
    compared = {"subset": subset, "comparisons": comparisons, "ranking": ranked}
    save_json(folder / "comparison.json", without_nan(compared))
    print_metrics(runs)
    print_strata(runs)
    print_comparisons(comparisons)
    if not comparisons and subset:
        for name, run in runs.items():
            print(f"{name}: {spread_sentence(run)}")
    sentences = [*scores.notes, *([ranking_sentence(ranked)] if ranked else [])]
    for sentence in sentences:
        print(f"\n{sentence}")
    save_report(folder / "report.html", subset, scores, runs, comparisons, sentences)
    print(f"\nreport: {folder / 'report.html'}  (open it in a browser)")
    print("beside it: metrics.csv, summary.json, comparison.json")


def print_metrics(runs):
    """Print a line for each metric and run."""
    width, wide = max(map(len, runs)) + 2, max(len(m.title) for m in METRICS.values()) + 2
    print(
        f"\n{'':{wide}}{'':{width}}{'mean ± SD':>18}{'median':>10}"
        f"{'95 % interval of the mean':>28}{'subjects':>10}"
    )
    for key, metric in METRICS.items():
        label = metric.title
        for name, run_ in runs.items():
            found = run_["metrics"][key]
            mean, median = mean_and_sd(found, metric.digits), number(found["median"], metric.digits)
            print(
                f"{label:{wide}}{name:{width}}{mean:>18}{median:>10}"
                f"{interval(found, metric.digits):>28}{found['n']:10}"
            )
            label = ""


def print_strata(runs):
    """Print the mean Dice by lesion volume, by site and so on, where they differ; then the notes."""
    widths = {name: max(len(name) + 2, 10) for name in runs}
    first = next(iter(runs.values()))
    for by, strata in first["strata"].items():
        if len(strata) == 1:
            continue
        names = "".join(f"{name:>{width}}" for name, width in widths.items())
        print(f"\n{f'Dice by {by}':32}{'subjects':>10}{names}")
        for stratum, found in strata.items():
            means = (number(run["strata"][by][stratum]["dice"]["mean"], 3) for run in runs.values())
            cells = "".join(
                f"{mean:>{width}}" for mean, width in zip(means, widths.values(), strict=True)
            )
            print(f"{one_line(stratum):32}{found['subjects']:10}{cells}")
    print()
    for sentence in notes(runs):
        print(sentence)


def print_comparisons(comparisons):
    """Print one plain sentence a metric."""
    for comparison in comparisons:
        print(f"\n{comparison['run']} against {comparison['baseline']}, subject by subject")
        for found in comparison["metrics"].values():
            print(f"  {found['sentence']}")
        for sentence in (comparison["cost"], comparison["noise"], comparison["caveat"]):
            if sentence:
                print(f"  {sentence}")


def without_nan(content):
    """Replace NaN, which JSON does not know, by None, however deep."""
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
