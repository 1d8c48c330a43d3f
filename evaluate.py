"""Score trained networks on people they never saw, in 3D, and ask whether pre-training helped.

Reads   RUN folders, by default <paths.runs>/train and <paths.runs>/transfer where finished; the
        scans and masks that paths.prepared was made from. Or masks that another program made.
        fold_*/train are one run, cross-validated: each subject is predicted by the network that
        validated on it, the test part by the average of all
Writes  <paths.runs>/evaluation/<part>, or --output: metrics.csv (one row a run and scan),
        summary.json, comparison.json (each run against the first), report.html; and in each run
        folder predictions/ (those of an average: <paths.runs>/evaluation/predictions) and, on
        validation, operating_point.json

What turns probabilities into a mask is chosen on the validation part, and used on the test part;
for each fold of a cross-validation it is chosen on the other folds.

    python evaluate.py
    python evaluate.py --part test
    python evaluate.py runs/fold_*/train runs/fold_*/transfer
    python evaluate.py --predictions nnunet --masks /data/ATLAS_2 --output runs/nnunet
"""

from functools import partial
from pathlib import Path

from system.console import read_settings, run, starting_tensorflow
from system.files import InputError, load_json, make_folder, save_csv, save_json
from system.parallel import in_parallel


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
    from evaluation.comparison import compare_runs, describe, without_nan
    from evaluation.report import save_report
    from evaluation.summary import print_comparisons, print_figures, print_strata

    part = None if arguments.predictions else arguments.part
    folder = arguments.output or Path(settings.paths.runs, "evaluation", part)
    make_folder(folder)
    score = score_predictions if arguments.predictions else score_runs
    rows, facts, scenes = score(settings, arguments)
    baseline, *others = facts
    runs = {
        name: facts[name] | describe([row for row in rows if row["run"] == name], settings.seed)
        for name in facts
    }
    comparisons = [compare_runs(rows, name, baseline, settings.seed) for name in others]
    save_csv(folder / "metrics.csv", rows)
    save_json(folder / "summary.json", without_nan({"part": part, "runs": runs}))
    save_json(folder / "comparison.json", without_nan({"part": part, "comparisons": comparisons}))
    print_figures(runs)
    print_strata(runs)
    print_comparisons(comparisons)
    save_report(folder / "report.html", part, rows, runs, comparisons, scenes)
    print(f"\nreport: {folder / 'report.html'}  (open it in a browser)")
    print("beside it: metrics.csv, summary.json, comparison.json")


def score_runs(settings, arguments):
    """Predict and score one part of the split by each run.

    Returns the rows, each run's facts, and what shows a scan with the last run's prediction.
    """
    from evaluation.runs import count_left_out, find_cases, find_runs
    from evaluation.scoring import load_scene, score
    from prediction.operating_point import written

    prepared, part = settings.paths.prepared, arguments.part
    runs = find_runs(arguments.runs or finished_runs(settings), prepared, part)
    # All runs have the same folds, in the same order.
    folds = [find_cases(prepared, fold.split, part) for fold in next(iter(runs.values()))]
    cases = {fold: own for run in runs.values() for fold, own in zip(run, folds, strict=True)}
    choosing = part == "validation"
    if choosing:
        flip = settings.evaluation.flip
        predict_missing(cases, dict.fromkeys(cases, flip))
        points = choose_points(runs, cases, flip)
    else:
        points = {predictor: read_point(predictor) for predictor in cases}
        predict_missing(cases, {predictor: points[predictor]["flip"] for predictor in cases})
    tasks = [(predictor, case, points[predictor]) for predictor, case in pairs(cases)]
    rows = [result() for result in in_parallel(score, tasks, "scoring")]
    for predictor, own in cases.items():
        networks = len(predictor.weights)
        whom = "these very scans" if predictor.fold is None else "the other folds"
        print(
            f"{predictor.name}: {len(own)} scans of the {part} part, "
            + (f"the average of {networks} networks, " if networks > 1 else "")
            + written(points[predictor])
            + (f", chosen on {whom}" if choosing else "")
        )
    facts = {
        name: {
            "folders": [str(file.parent) for predictor in run for file in predictor.weights],
            "operating_points": {predictor.name: points[predictor] for predictor in run},
            "subjects_left_out": count_left_out(run),
        }
        for name, run in runs.items()
    }
    # Of equal keys the last stays.
    scenes = {
        (case.scan.subject, case.scan.session): partial(load_scene, predictor, case, point)
        for predictor, case, point in tasks
    }
    return rows, facts, scenes


def pairs(cases):
    return [(predictor, case) for predictor, own in cases.items() for case in own]


def read_point(predictor):
    """Read the operating point that was chosen on validation, or say that the plain one is taken."""
    from evaluation.scoring import stored_point
    from prediction.operating_point import PLAIN, written

    point = stored_point(predictor)
    if point is None:
        print(
            f"{predictor.name}: has no operating point, so {written(PLAIN)}; "
            "evaluate.py --part validation chooses one"
        )
    return point or dict(PLAIN)


def predict_missing(cases, flips):
    """Predict the scans of which there is no prediction yet, some also as mirrored heads."""
    from evaluation.scoring import missing_predictions, predict_cases
    from prediction.inference import load_network, predict_probability

    missing = {
        predictor: missing_predictions(predictor, own, flips[predictor])
        for predictor, own in cases.items()
    }
    missing = {predictor: own for predictor, own in missing.items() if own}
    if not missing:
        return
    with starting_tensorflow():
        networks = [[load_network(file) for file in predictor.weights] for predictor in missing]
    for own_networks, (predictor, own) in zip(networks, missing.items(), strict=True):
        predict = partial(predict_probability, own_networks)
        predict_cases(predictor, own, flips[predictor], predict)


def choose_points(runs, cases, flip):
    """Choose each predictor's operating point on validation."""
    from evaluation.scoring import choose_for_folds, score_thresholds

    results = in_parallel(score_thresholds, pairs(cases), "choosing thresholds")
    tried = {predictor: [next(results)() for _ in own] for predictor, own in cases.items()}
    results.close()
    points = {}
    for folds in runs.values():
        points |= choose_for_folds({fold: tried[fold] for fold in folds}, flip)
    return points


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
    """Score another program's masks; return the same as `score_runs`."""
    from evaluation.external_predictions import load_scene, pair_masks, score_masks

    layout, folder = settings.atlas, arguments.predictions
    cases = pair_masks(folder, arguments.masks, layout.mask_suffix)
    name = folder.resolve().name
    rows = score_masks(name, cases, layout.labels)
    scenes = {
        (case.scan.subject, case.scan.session): partial(load_scene, case, layout) for case in cases
    }
    return rows, {name: {"folders": [str(folder)]}}, scenes


if __name__ == "__main__":
    run(main)
