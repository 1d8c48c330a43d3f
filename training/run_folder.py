"""The folder of one training run: what it was made from, how far it has come, and its results.

config.yaml, run.json           settings; seed, versions, command, hashes, times, best figures
best.weights.h5                 of the epoch with the best validation Dice, to hand on
history.csv                     one row an epoch
learning_curves.png             redrawn every epoch
predictions.png                 made at the end, with the best weights
state.json, state-N.weights.h5  what going on after epoch N needs
operating_point.json            threshold and smallest lesion, chosen by evaluate.py
predictions/                    probabilities of the scans that evaluate.py scored
"""

import contextlib
import json
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from config import without_retired
from system.files import InputError, file_hash, load_json, save_csv, save_json
from training.leakage import whom_a_run_sees
from training.pictures import print_results, save_learning_curves

PACKAGES = ("tensorflow", "keras", "numpy", "nibabel", "opencv-python-headless")


class Run:
    """The folder of one stage's run, and what it has come to.

    Parameters
    ----------
    stage : {"pre_train", "train", "transfer"}
    settings : config.Settings
    parts : data.Parts
        Its `identity` holds the hashes of what else decides the result, its `subjects` whom the
        weights will have seen.
    initial_weights : path-like, optional
        What the run starts from; from scratch when omitted.
    restart : bool
        Set an existing folder aside, as ``<stage>-<date>``, and start anew.

    Attributes
    ----------
    folder : pathlib.Path
    settings : config.Stage
        Of this stage.
    finished : bool
    history : list of dict
        One entry a finished epoch.
    kept : int
        So many epochs are safe on disk.

    Raises
    ------
    InputError
        If the folder holds a run made from other settings, data or weights; names them.
    """

    def __init__(self, stage, settings, parts, initial_weights=None, restart=False):
        self.stage, self.settings = stage, getattr(settings, stage)
        self.seed = settings.seed
        self.folder = Path(settings.paths.runs, stage)
        everything = settings.model_dump()
        names = ("seed", "fold", "slices", "unet", "augmentation", stage)
        self.identity = {name: everything[name] for name in names} | parts.identity
        # Not the devices: a run may go on on other ones.
        self.identity["precision"] = settings.hardware.precision
        if initial_weights is not None:
            self.identity["initial_weights"] = file_hash(initial_weights)
        self.facts = {
            "stage": stage, "finished": False, "seed": settings.seed, "fold": settings.fold,
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "started": datetime.now().isoformat(timespec="seconds"),
            "versions": {"python": sys.version.split()[0]} | {p: version(p) for p in PACKAGES},
            "initial_weights": None if initial_weights is None else str(initial_weights),
            "identity": self.identity,
            "subjects": whom_a_run_sees(parts.subjects, initial_weights),
        }  # fmt: skip
        self.history, self.seconds, self.kept = [], 0.0, 0
        # Here, for it imports Keras, which who only reads runs does not wait for.
        from system.devices import in_turns

        with in_turns(self.folder) as self.folder:
            if restart and self.folder.exists():
                aside = self.folder.with_name(f"{stage}-{datetime.now():%Y%m%d-%H%M%S}")
                self.folder.rename(aside)
                print(f"{stage}: the earlier run is kept as {aside}")
            if (self.folder / "run.json").exists():
                self._take_up()
            else:
                settings.save(self.folder / "config.yaml")
                save_json(self.folder / "run.json", self.facts)

    def _take_up(self):
        """Go on with what the folder holds, if it is the very same run."""
        earlier = load_json(self.folder / "run.json", "start anew with --restart")
        identity = json.loads(json.dumps(self.identity))
        if differing := differences(without_retired(earlier.get("identity", {})), identity):
            raise InputError(
                f"{self.folder}: holds a run with another {', '.join(differing)}; add --restart to "
                "start anew (the old folder is kept aside), or choose another paths.runs"
            )
        self.facts = earlier
        if (self.folder / "state.json").exists():
            state = load_json(self.folder / "state.json", "start anew with --restart")
            self.history, self.seconds = state["history"], state["seconds"]
            self.kept = len(self.history)
        if self.finished:
            print(f"{self.stage}: finished already in {self.folder}; add --restart to train anew")
        elif self.history:
            print(f"{self.stage}: goes on after epoch {len(self.history)}")

    @contextlib.contextmanager
    def saying_what_is_kept(self):
        """Let a Ctrl-C in this block carry how far the run has come (see `system.console.run`)."""
        try:
            yield
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"after epoch {self.kept} of {self.settings.epochs}, kept in {self.folder}"
            ) from None

    def commit(self):
        """Declare the last entry of the history done: before it a second start repeats the epoch.

        Its weights must be whole in `state_weights` by now.
        """
        save_json(self.folder / "state.json", {"history": self.history, "seconds": self.seconds})
        self.kept = len(self.history)

    def save_what_follows(self):
        """Delete and write what follows from the history; a kill may have come before it."""
        for state in self.folder.glob("state-*.weights.h5"):
            if state != self.state_weights:
                state.unlink()
        save_csv(self.folder / "history.csv", self.history)
        save_learning_curves(self.history, self.stage, self.folder / "learning_curves.png")

    @property
    def finished(self):
        return self.facts["finished"]

    @property
    def best(self):
        """The epoch with the highest validation Dice, the first of equals."""
        return max(self.history, key=lambda epoch: epoch["val_dice"])

    @property
    def best_weights(self):
        return self.folder / "best.weights.h5"

    @property
    def state_weights(self):
        return self.folder / f"state-{len(self.history)}.weights.h5"

    def finish(self):
        """Write the best figures into run.json and print the table of all stages so far."""
        self.facts |= {"finished": True, "epochs": len(self.history), "best": self.best}
        self.facts["seconds"] = round(self.seconds, 1)
        save_json(self.folder / "run.json", self.facts)
        print_results(self.folder.parent)
        print(
            f"\npictures: {self.folder / 'learning_curves.png'}, {self.folder / 'predictions.png'}"
        )


def differences(one, other, prefix=""):
    """Name the keys in which the identities of two runs differ."""
    names = []
    for key in sorted(one.keys() | other.keys()):
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(prefix + key)
    return names
