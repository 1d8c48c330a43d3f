"""Score trained networks on people they never saw, in 3D, and ask whether pre-training helped.

Reads   RUN folders, by default <paths.runs>/train and <paths.runs>/transfer where finished; the
        scans and masks that paths.prepared was made from. Or masks that another program made
Writes  <paths.runs>/evaluation/<part>, or --output: metrics.csv (one row a run and scan),
        summary.json, comparison.json (each run against the first); and, on validation,
        operating_point.json in each run folder

Threshold and smallest lesion are chosen on the validation part, and used on the test part.

    python evaluate.py
    python evaluate.py --part test
    python evaluate.py --predictions nnunet --masks /data/ATLAS_2 --output runs/nnunet
"""

import math
from functools import partial
from pathlib import Path

from cli import read_settings, run, starting_tensorflow
from files import InputError, file_hash, load_json, save_csv, save_json


def add_arguments(parser):
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument(
        "--part", choices=("validation", "test"), default="validation", help="default: validation"
    )
    parser.add_argument(
        "--predictions", type=Path, metavar="FOLDER", help="masks that another program made"
    )
    parser.add_argument("--masks", type=Path, metavar="FOLDER", help="what they should be")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where the files go")


def main(argv=None):
    settings, arguments = read_settings(__doc__, argv, add_arguments)
    together = (arguments.predictions, arguments.masks)
    if any(together) and (not all((*together, arguments.output)) or arguments.runs):
        raise InputError("--predictions, --masks and --output belong together, without a RUN")
    from comparison import compare_runs, describe, without_nan

    score = score_predictions if arguments.predictions else score_runs
    rows, facts = score(settings, arguments)
    baseline, *others = facts
    runs = {
        name: facts[name] | describe([row for row in rows if row["run"] == name], settings.seed)
        for name in facts
    }
    comparisons = [compare_runs(rows, name, baseline, settings.seed) for name in others]
    part = None if arguments.predictions else arguments.part
    folder = arguments.output or Path(settings.paths.runs, "evaluation", part)
    save_csv(folder / "metrics.csv", rows)
    save_json(folder / "summary.json", without_nan({"part": part, "runs": runs}))
    save_json(folder / "comparison.json", without_nan({"part": part, "comparisons": comparisons}))
    print_figures(runs)
    print_strata(runs)
    print_comparisons(comparisons)
    print(f"\nin {folder}: metrics.csv, summary.json, comparison.json")


def score_runs(settings, arguments):
    """Predict and score one part of the split by each run; return the rows and each run's facts."""
    from evaluation import check_operating_point, find_cases, find_runs, score_run
    from inference import load_network, predict_probability, read_operating_point

    runs = find_runs(arguments.runs or finished_runs(settings), settings.paths.prepared)
    cases = find_cases(settings.paths.prepared, runs[0].split, arguments.part)
    choosing = arguments.part == "validation"
    for trained in runs:
        if not choosing and trained.operating_point.exists():
            check_operating_point(trained)
        elif not choosing:
            print(
                f"{trained.name}: has no operating point, so threshold 0.5 and lesions of any size; "
                "evaluate.py --part validation chooses one"
            )
    with starting_tensorflow():
        networks = [load_network(trained.weights) for trained in runs]

    rows, facts = [], {}
    for trained, network in zip(runs, networks, strict=True):
        point = None if choosing else read_operating_point(trained.weights)
        predict = partial(predict_probability, [network])
        scored, point = score_run(trained.name, cases, predict, point)
        if choosing:
            point |= {"chosen_on": "validation", "weights": file_hash(trained.weights)}
            save_json(trained.operating_point, point)
        rows += scored
        facts[trained.name] = {"folder": str(trained.folder), "operating_point": point}
        print(
            f"{trained.name}: {len(cases)} scans of the {arguments.part} part, "
            f"threshold {point['threshold']:g}, lesions from {point['smallest_ml']:g} ml"
            + (", chosen on these very scans" if choosing else "")
        )
    return rows, facts


def finished_runs(settings):
    """List the lesion stages' run folders that have come to their end."""
    folders = [Path(settings.paths.runs, stage) for stage in ("train", "transfer")]
    found = [
        folder
        for folder in folders
        if (folder / "run.json").exists()
        and load_json(folder / "run.json", "train anew with --restart").get("finished")
    ]
    if not found:
        raise InputError(f"neither {folders[0]} nor {folders[1]} is finished; run train_model.py")
    return found


def score_predictions(settings, arguments):
    """Score another program's masks; return the rows and this program's facts."""
    from other_masks import pair_masks, score_masks

    layout, folder = settings.atlas, arguments.predictions
    cases = pair_masks(folder, arguments.masks, layout.mask_suffix)
    name = folder.resolve().name
    return score_masks(name, cases, layout.labels), {name: {"folder": str(folder)}}


def number(value, digits):
    return "–" if math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def print_figures(runs):
    """Print a line for each figure and run."""
    from comparison import FIGURES

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
    if first["lesion_ml"] and not math.isnan(first["lesion_outside_ml"]):
        outside = first["lesion_outside_ml"]
        print(
            f"{outside:.1f} ml, {100 * outside / first['lesion_ml']:.1f} % of the lesion volume, lie in the "
            "slices that training skipped; they are predicted and counted"
        )
    for name, run_ in runs.items():
        healthy = run_["without_lesion"]
        if healthy["scans"]:
            print(
                f"{name}: {healthy['with_false_positives']} of {healthy['scans']} scans without "
                f"lesion are marked, on average {healthy['false_positive_ml']:.2f} ml in "
                f"{healthy['false_positive_lesions']:.1f} lesions a scan"
            )


def print_comparisons(comparisons):
    """Print one plain sentence a figure."""
    for comparison in comparisons:
        print(f"\n{comparison['run']} against {comparison['baseline']}, subject by subject")
        for found in comparison["figures"].values():
            print(f"  {found['sentence']}")
        if comparison["figures"]["dice"]["n"] < 6:
            print("  Fewer than 6 subjects cannot show anything: p stays above 0.05.")


if __name__ == "__main__":
    run(main)
