"""The weights that are taken where none are named: the user's own, or those in the box."""

from argparse import ArgumentTypeError
from pathlib import Path

from scans.find import NIFTI_ENDINGS

IN_THE_BOX = Path(__file__).parents[1] / "weights" / "best.weights.h5"


def add_weights_argument(parser):
    """Let a script take ``--weights``."""
    parser.add_argument(
        "--weights",
        nargs="+",
        type=_weights_file,
        metavar="FILE",
        help="of finished runs; several are averaged",
    )


def _weights_file(name):
    """Refuse scans, which come to stand among the weights where they are named last."""
    if name.endswith(NIFTI_ENDINGS) or Path(name).is_dir():
        raise ArgumentTypeError(
            f"{name}: no weights file; name a best.weights.h5, and scans before --weights"
        )
    return Path(name)


def default_weights(runs):
    """Return what transfer_learning.py left in `runs`; where nothing was trained, what is in the box."""
    own = Path(runs, "transfer", "best.weights.h5")
    # Of a pipeline that is under way the next step is named, not another network taken.
    if any(Path(runs).glob("**/best.weights.h5")) or not IN_THE_BOX.exists():
        return own
    print(f"nothing was trained in {runs}: the network in the box is taken (weights/README.md)")
    return IN_THE_BOX
