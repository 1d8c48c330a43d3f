"""Score trained networks on people they never saw, in 3D, and ask whether pre-training helped.

Reads   RUN folders, by default <paths.runs>/train and <paths.runs>/transfer where finished; the
        scans and masks that paths.prepared was made from. Or masks that another program made.
        fold_*/train are one run, cross-validated: each subject is predicted by the network that
        validated on it, the test subset by the average of all. So are train and seed_1/train: the
        seeds are averaged, and tell how much is noise
Writes  <paths.runs>/evaluation/<subset>, or --output: metrics.csv (one row a run and scan),
        summary.json, comparison.json (each run against the first, and one that never saw the sites
        against its like that did), report.html; and in each run folder predictions/ (those of an
        average: evaluation/predictions beside its folds) and, on validation, operating_point.json

What turns probabilities into a mask is chosen on validation, and used on test; for each fold of a
cross-validation it is chosen on the other folds.

    python evaluate.py
    python evaluate.py --subset test --ranking isles26
    python evaluate.py output/runs/fold_*/train output/runs/fold_*/transfer
    python evaluate.py --predictions nnunet --masks /data/ATLAS_2 --output output/nnunet
"""

from pathlib import Path

from config import parse_arguments
from system.console import run_script
from system.files import InputError, make_folder, require_file


def add_arguments(parser):
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument(
        "--subset", choices=("validation", "test"), help="of the split; default: validation"
    )
    parser.add_argument(
        "--predictions", type=Path, metavar="FOLDER", help="masks that another program made"
    )
    parser.add_argument(
        "--masks", type=Path, metavar="FOLDER", help="reference masks for --predictions"
    )
    parser.add_argument(
        "--ranking",
        choices=("isles26",),
        help="order the runs by mean rank, as this challenge does",
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where the files go")


def main(argv=None):
    settings, arguments = parse_arguments(__doc__, argv, add_arguments)
    external = (arguments.predictions, arguments.masks)
    if any(external) and (not all((*external, arguments.output)) or arguments.runs):
        raise InputError("--predictions, --masks and --output belong together, without a RUN")
    if arguments.ranking and any(external):
        raise InputError(f"--ranking {arguments.ranking}: is for runs, not for --predictions")
    if arguments.subset and any(external):
        raise InputError(f"--subset {arguments.subset}: is for runs, not for --predictions")
    if not external[0]:
        require_file(Path(settings.paths.prepared, "slices.csv"), "run prep.py first")
    from evaluation.external_predictions import score_external
    from evaluation.runs import finished_runs
    from evaluation.scoring import score_runs
    from evaluation.summary import check_folder, save_evaluation

    subset = None if arguments.predictions else arguments.subset or "validation"
    folder = arguments.output or Path(settings.paths.runs, "evaluation", subset)
    make_folder(folder)
    check_folder(folder)
    if arguments.predictions:
        columns = settings.evaluation.strata
        scores = score_external(arguments.predictions, arguments.masks, settings.atlas, columns)
    else:
        runs = arguments.runs or finished_runs(settings.paths.runs)
        options, prepared = settings.evaluation, settings.paths.prepared
        scores = score_runs(runs, prepared, subset, options, fewest=2 if arguments.ranking else 1)
    strata = settings.evaluation.strata
    save_evaluation(scores, subset, folder, settings.seed, strata, arguments.ranking)


if __name__ == "__main__":
    run_script(main)
