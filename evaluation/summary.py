"""What evaluate.py prints: figures of runs, of strata, and what their comparison shows."""

import math

from evaluation.comparison import FIGURES


def number(value, digits):
    return "–" if math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def print_figures(runs):
    """Print a line for each figure and run."""
    width = max(map(len, runs)) + 2
    print(
        f"\n{'':25}{'':{width}}{'mean ± SD':>18}{'median':>10}"
        f"{'95 % interval of the mean':>28}{'subjects':>10}"
    )
    for key, figure in FIGURES.items():
        label = figure.label + (f", {figure.unit}" if figure.unit else "")
        for name, run_ in runs.items():
            found = run_["figures"][key]
            mean, sd, median, low, high = (
                number(found[part], figure.digits)
                for part in ("mean", "sd", "median", "low", "high")
            )
            print(
                f"{label:25}{name:{width}}{f'{mean} ± {sd}':>18}{median:>10}"
                f"{'–' if low == '–' else f'{low} to {high}':>28}{found['n']:10}"
            )
            label = ""


def print_strata(runs):
    """Print the mean Dice by lesion volume and by site, and what stands apart from all figures."""
    widths = {name: max(len(name) + 2, 10) for name in runs}
    first = next(iter(runs.values()))
    for key, title in (("by_lesion_volume", "lesion volume"), ("by_site", "site")):
        names = "".join(f"{name:>{width}}" for name, width in widths.items())
        print(f"\n{f'Dice by {title}':25}{'subjects':>10}{names}")
        for stratum, found in first[key].items():
            means = (number(runs[name][key][stratum]["dice"]["mean"], 3) for name in runs)
            cells = "".join(
                f"{mean:>{width}}" for mean, width in zip(means, widths.values(), strict=True)
            )
            print(f"{stratum:25}{found['subjects']:10}{cells}")
    print()
    for sentence in notes(runs):
        print(sentence)


def notes(runs):
    """Say in sentences what stands apart from all figures."""
    sentences = []
    first = next(iter(runs.values()))
    if first["lesion_ml"] and not math.isnan(first["lesion_outside_ml"]):
        outside = first["lesion_outside_ml"]
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
            f"in the slices that training skipped; they are {fate}."
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


def print_comparisons(comparisons):
    """Print one plain sentence a figure."""
    for comparison in comparisons:
        print(f"\n{comparison['run']} against {comparison['baseline']}, subject by subject")
        for found in comparison["figures"].values():
            print(f"  {found['sentence']}")
        if comparison["figures"]["dice"]["n"] < 6:
            print("  Fewer than 6 subjects cannot show anything: p stays above 0.05.")
