"""The weights that are taken where none are named: the user's own, or those in the box."""

from argparse import ArgumentTypeError
from pathlib import Path

IN_THE_BOX = Path(__file__).parents[1] / "weights" / "best.weights.h5"


def add_weights_argument(parser, default=None):
    """Let a script take ``--weights``."""
    parser.add_argument(
        "--weights",
        nargs="+",
        type=_weights_file,
        metavar="FILE",
        default=default,
        help="best.weights.h5 of finished runs, given after the scans; several are averaged",
    )


def _weights_file(name):
    """Refuse what is not named like weights: ``--weights`` takes all that follows it."""
    if not name.endswith(".h5"):
        raise ArgumentTypeError(
            f"{name} is not a weights file; name a best.weights.h5, and all else before --weights"
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
