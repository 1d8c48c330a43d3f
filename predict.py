"""Outline the lesion in T1-weighted scans, each on its own grid.

Reads   NIfTI files, or folders of them at any depth (BIDS, ATLAS without masks, or any names);
        weights in their run folder, by default <paths.runs>/transfer/best.weights.h5, or those of
        the network in the box (weights/) where nothing was trained
Writes  a mask, a picture and a json file a scan, predictions.csv, and report.html to look at them,
        below --output (python review.py serves it)

A bad scan is named and left out, and the exit code is 1; so is one whose results would replace a
file that predict.py did not write. Started again, it goes on with the scans that are not done yet.

    python predict.py patient_T1w.nii.gz --output masks
"""

from pathlib import Path

from config import parse_arguments
from prediction.box import add_weights_argument, default_weights
from system.console import run_script
from system.files import make_folder, save_csv


def add_arguments(parser):
    parser.add_argument("scans", nargs="+", type=Path, help="NIfTI files, or folders of them")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="where masks and pictures go"
    )
    add_weights_argument(parser)
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="PROBABILITY",
        help="mark as lesion what is more probable; default: as evaluate.py chose, or 0.5",
    )
    parser.add_argument(
        "--smallest-ml",
        type=float,
        metavar="ML",
        help="leave out smaller lesions; default: as evaluate.py chose, or 0",
    )
    parser.add_argument(
        "--all-slices",
        action="store_true",
        help="mark lesions also in slices that evaluate.py chose to leave empty",
    )
    parser.add_argument(
        "--flip",
        action="store_true",
        help="average with the prediction of the mirrored head; default: as evaluate.py did",
    )
    parser.add_argument("--probability", action="store_true", help="write the probabilities, too")
    parser.add_argument(
        "--challenge",
        action="store_true",
        help="pack all masks as atlas2_prediction.zip for the ATLAS challenge",
    )


def main(argv=None):
    settings, arguments = parse_arguments(__doc__, argv, add_arguments)
    from prediction.decisions import read_decisions
    from prediction.outputs import check_table, plan_outputs
    from prediction.review_page import check_page, find_masks, save_page

    output, with_probability = arguments.output, arguments.probability
    table, archive = output / "predictions.csv", output / "atlas2_prediction.zip"
    check_table(table)
    check_page(output)
    read_decisions(output)  # a broken table is said now, not after the work
    planned, problems = plan_outputs(arguments.scans, settings.atlas, output)
    # These take a second to import: only now, with the scans known to be there.
    from prediction.challenge import check_archive, pack_challenge
    from prediction.masks import choose_options, predict_scans

    if arguments.challenge:
        check_archive(archive, planned)
    weights = arguments.weights or [default_weights(settings.paths.runs)]
    options = choose_options(
        weights, arguments.threshold, arguments.smallest_ml, arguments.flip, arguments.all_slices
    )
    make_folder(output)
    problems += predict_scans(planned, weights, options, with_probability)
    # Where the masks are now, though the folder was moved since.
    masks = sorted(find_masks(output), key=lambda judged: judged.mask)
    rows = [judged.facts["prediction"] | {"mask": str(judged.mask)} for judged in masks]
    if rows:
        save_csv(table, rows)
    page = save_page(output)
    for problem in problems:
        print(f"left out {problem}")
    if page:
        print(f"to look at: {page}")
    if arguments.challenge and problems:
        print(f"{archive.name} was not made: the challenge wants every scan")
    elif arguments.challenge:
        pack_challenge(planned, archive)
    return 1 if problems else 0


if __name__ == "__main__":
    run_script(main)
