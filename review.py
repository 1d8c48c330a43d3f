"""Look at the masks in a folder one after another: accept, mend or reject each.

Reads   OUT_DIR, as predict.py or participant.py wrote it
Writes  OUT_DIR/decisions.tsv, and OUT_DIR/report.html anew, if it is there; with --mend, beside
        each mask that was accepted or mended, what a person made of it: ..._desc-manual_mask.nii.gz
        (NAME_manual_mask.nii.gz where the scan is not named as BIDS has it), with who and when in
        its json file

Without --mend it serves the page on this machine until Ctrl-C. With --mend it opens the masks to be
mended, one by one, in ITK-SNAP, FSLeyes or $MASK_EDITOR. prep.py takes the results as training data, by
atlas.mask_suffix=_label-L_desc-manual_mask (of other names _T1w_manual_mask).

    python review.py masks
    python review.py masks --mend
"""

import threading
import webbrowser
from pathlib import Path

from config import parse_arguments
from system.console import run_script
from system.files import InputError, Problem, make_folder


def add_arguments(parser):
    parser.add_argument("folder", type=Path, metavar="OUT_DIR")
    parser.add_argument(
        "--mend", action="store_true", help="open the masks to be mended, keep the accepted ones"
    )
    parser.add_argument(
        "--scans", type=Path, metavar="BIDS_DIR", help="the data set, where it was moved since"
    )
    parser.add_argument("--port", type=int, default=0, help="default: any that is free")


def main(argv=None):
    _, arguments = parse_arguments(__doc__, argv, add_arguments)
    from prediction.decisions import read_decisions
    from prediction.review_page import find_masks

    folder = arguments.folder
    if not folder.is_dir():
        raise InputError(f"{folder}: not found; name the folder that predict.py wrote to")
    masks = find_masks(folder, arguments.scans)
    if arguments.scans and masks and not any(judged.raw for judged in masks):
        raise InputError(
            f"--scans {arguments.scans}: is for masks of participant.py; here are none"
        )
    if not masks:
        raise InputError(f"{folder}: holds no mask of predict.py or participant.py; name another")
    decisions = read_decisions(folder)
    if arguments.mend:
        return mend_all(folder, masks, decisions)
    return serve(folder, masks, arguments.port)


def mend_all(folder, masks, decisions):
    """Keep what was accepted, then open what is to be mended."""
    from prediction.mending import find_editor, keep_accepted, masks_to_mend, mend
    from prediction.review_page import renew_page

    lines, problems = keep_accepted(masks, decisions)
    for line in lines:
        print(line)
    to_mend, unable = masks_to_mend(masks, decisions)
    named = {problem.file for problem in problems}
    problems += [problem for problem in unable if problem.file not in named]
    try:
        command = find_editor() if to_mend else None
        for judged in to_mend:
            try:
                print(mend(judged, command))
            except InputError as error:
                problems.append(Problem.of(error, judged.mask))
        if not lines and not to_mend and not problems:
            print("nothing to do: no mask was newly accepted or is to be mended")
    finally:
        for problem in problems:
            print(f"left out {problem}")
        renew_page(folder)
    return 1 if problems else 0


def serve(folder, masks, port):
    """Serve the page until Ctrl-C."""
    from evaluation.viewer import slice_viewer
    from prediction.review_server import ReviewServer
    from scans.volumes import load_mask, load_volume

    def make_viewer(judged):
        volume = load_volume(judged.find_scan())
        mask = load_mask(judged.mask, None, volume)
        # Half seen through: what is judged is the tissue below.
        return slice_viewer(volume, mask * 0, mask, opacity=0.5)[0]

    make_folder(folder)  # or no decision could be saved
    try:
        server = ReviewServer(folder, masks, make_viewer, port)
    except (OSError, OverflowError) as error:
        raise InputError(f"--port {port}: {error}; choose another") from None
    with server, server.way_in() as page:
        print(f"open {server.address}  (Ctrl-C ends it)", flush=True)
        # In a thread: a browser in the terminal would wait for the server, and the server for it.
        threading.Thread(target=webbrowser.open, args=(page.as_uri(),), daemon=True).start()
        server.serve_forever()


if __name__ == "__main__":
    run_script(main)
