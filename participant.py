"""Outline the lesions of a BIDS data set: a BIDS app.

Reads   BIDS_DIR/sub-*/[ses-*/]anat/*_T1w.nii[.gz]; weights as predict.py
Writes  OUT_DIR, a derivative data set: of each scan mask and probability on its own grid and in
        MNI152NLin2009aSym, the transform between them, a picture; of all lesions.tsv (a row a
        lesion), scans.tsv (a row a scan), figures/ and report.html to look at the masks
        (python review.py serves it)

`participant` outlines the lesions of the chosen participants, and then the tables and pictures of
all are made; `group` makes these alone. A bad scan is named and left out, and the exit code is 1.
Started again, it goes on with the scans that are not done yet.

    python participant.py /data/bids /data/bids/derivatives/lacuna participant
"""

from pathlib import Path

from config import parse_arguments
from prediction.box import add_weights_argument, default_weights
from system.console import run_script
from system.files import InputError, make_folder


def add_arguments(parser):
    parser.add_argument("bids_dir", type=Path, metavar="BIDS_DIR")
    parser.add_argument("output_dir", type=Path, metavar="OUT_DIR")
    parser.add_argument("level", choices=("participant", "group"))
    parser.add_argument(
        "--participant-label",
        "--participant_label",
        nargs="+",
        default=[],
        metavar="LABEL",
        help="default: all",
    )
    parser.add_argument("--session", nargs="+", default=[], metavar="LABEL", help="default: all")
    add_weights_argument(parser)


def main(argv=None):
    settings, arguments = parse_arguments(__doc__, argv, add_arguments)
    from prediction.bids import claim_derivatives, plan_data_set, taking_turns
    from prediction.bids_tables import save_tables
    from prediction.decisions import read_decisions
    from prediction.review_page import check_page, save_page

    source, output = arguments.bids_dir, arguments.output_dir
    planned, problems = plan_data_set(
        source, output, arguments.participant_label, arguments.session
    )
    if arguments.level == "group" and not any(outputs.facts.is_file() for outputs in planned):
        raise InputError(
            f"{output}: holds no lesions of these scans; name the folder that the level participant "
            "wrote to"
        )
    check_page(output)
    read_decisions(output)  # a broken table is said now, not after the work
    if arguments.level == "participant":
        # This takes a second to import: only now, with the scans known to be there.
        from prediction.masks import choose_options, predict_scans

        weights = arguments.weights or [default_weights(settings.paths.runs)]
        options = choose_options(weights)
        if "aligner" not in options:
            raise InputError(
                f"{weights[0]}: was trained with geometry.align: none, so it knows no MNI space; "
                "predict.py takes it"
            )
    make_folder(output)
    with taking_turns(output):
        claim_derivatives(output, source)
    if arguments.level == "participant":
        problems += predict_scans(planned, weights, options, with_probability=True)
    from prediction.group_pictures import save_group_pictures

    with taking_turns(output):
        problems += save_group_pictures(save_tables(output), output)
        page = save_page(output)
    for problem in problems:
        print(f"left out {problem}")
    if page:
        print(f"to look at: {page}")
    return 1 if problems else 0


if __name__ == "__main__":
    run_script(main)
