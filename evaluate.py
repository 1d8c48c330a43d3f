"""Score trained networks on people they never saw, in 3D, and ask whether pre-training helped.

Reads   RUN folders, by default <paths.runs>/train and <paths.runs>/transfer where finished; the
        scans and masks that paths.prepared was made from. Or masks that another program made
Writes  <paths.runs>/evaluation/<part>, or --output: metrics.csv (one row a run and scan),
        summary.json, comparison.json (each run against the first), report.html; and in each run
        folder predictions/ and, on validation, operating_point.json

What turns probabilities into a mask is chosen on the validation part, and used on the test part.

    python evaluate.py
    python evaluate.py --part test
    python evaluate.py --predictions nnunet --masks /data/ATLAS_2 --output runs/nnunet
"""

from functools import partial
from pathlib import Path

from cli import read_settings, run, starting_tensorflow
from files import InputError, load_json, make_folder, save_csv, save_json
from parallel import in_parallel


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
    from report import save_report
    from tables import print_comparisons, print_figures, print_strata

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
    from evaluation import (
        choose,
        find_cases,
        find_runs,
        load_scene,
        missing_predictions,
        score,
        score_thresholds,
    )
    from operating_point import (
        PLAIN,
        chosen_operating_point,
        save_operating_point,
        written,
    )

    runs = find_runs(arguments.runs or finished_runs(settings), settings.paths.prepared)
    cases = find_cases(settings.paths.prepared, runs[0].split, arguments.part)
    choosing = arguments.part == "validation"
    points = {}
    for trained in runs:
        points[trained.name] = None if choosing else chosen_operating_point(trained.weights)
        if not choosing and points[trained.name] is None:
            points[trained.name] = dict(PLAIN)
            print(
                f"{trained.name}: has no operating point, so {written(PLAIN)}; "
                "evaluate.py --part validation chooses one"
            )
    missing = [missing_predictions(trained, cases) for trained in runs]
    if any(missing):
        predict(runs, missing)

    pairs = [(trained, case) for trained in runs for case in cases]
    if choosing:
        grids = in_parallel(score_thresholds, pairs, "choosing thresholds")
        for trained in runs:
            point = choose([next(grids)() for _ in cases], cases)
            points[trained.name] = save_operating_point(point, trained.weights)
        grids.close()
    tasks = [(trained, case, points[trained.name]) for trained, case in pairs]
    rows = [result() for result in in_parallel(score, tasks, "scoring")]
    facts = {}
    for trained in runs:
        point = points[trained.name]
        facts[trained.name] = {"folder": str(trained.folder), "operating_point": point}
        print(
            f"{trained.name}: {len(cases)} scans of the {arguments.part} part, "
            + written(point)
            + (", chosen on these very scans" if choosing else "")
        )
    scenes = {
        (case.scan.subject, case.scan.session): partial(load_scene, trained, case, point)
        for case in cases
    }
    return rows, facts, scenes


def predict(runs, missing):
    """Predict the scans that each run has no prediction of."""
    from evaluation import predict_cases
    from inference import load_network, predict_probability

    with starting_tensorflow():
        networks = [load_network(trained.weights) for trained in runs]
    for trained, network, cases in zip(runs, networks, missing, strict=True):
        predict_cases(trained, cases, partial(predict_probability, [network]))


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
    from other_masks import load_scene, pair_masks, score_masks

    layout, folder = settings.atlas, arguments.predictions
    cases = pair_masks(folder, arguments.masks, layout.mask_suffix)
    name = folder.resolve().name
    rows = score_masks(name, cases, layout.labels)
    scenes = {
        (case.scan.subject, case.scan.session): partial(load_scene, case, layout) for case in cases
    }
    return rows, {name: {"folder": str(folder)}}, scenes


if __name__ == "__main__":
    run(main)
