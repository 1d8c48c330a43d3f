"""The folder of one training run: what it was made from, how far it has come, and its results.

config.yaml, run.json           settings; seed, versions, command, hashes, times, best metrics
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
import os
import sys
from datetime import datetime
from importlib import import_module
from pathlib import Path

import keras

from system.devices import in_turns
from system.files import InputError, file_hash, load_json, save_csv, save_json
from system.locks import take_lock
from training.before_start import lock_of
from training.pictures import save_learning_curves
from training.provenance import differences, identity_of, run_facts, seen_by_a_run
from training.results import print_results
from training.stored_weights import read_weights

PACKAGES = (keras.backend.backend(), "keras", "numpy", "nibabel", "cv2")


class RunFolder:
    """The folder of one stage's run, and what it has come to.

    A run without `initial_weights` starts from scratch; `restart` sets an existing folder aside as
    ``<stage>-<date>``. `history` has one entry a finished epoch, of which `kept` are safe on disk.

    Raises
    ------
    InputError
        If the folder holds a run made from other settings, data or weights, or files of the user,
        or if another process is training in it; names them.
    """

    def __init__(self, stage, settings, data, initial_weights=None, restart=False):
        self.stage, self.seed = stage, settings.seed
        self.epochs = getattr(settings, stage).epochs
        self.history, self.seconds, self.kept = [], 0.0, 0
        identity = settings.identity(stage) | data.identity
        # No other one ends a run with the same bits.
        identity["backend"] = keras.backend.backend()
        if initial_weights is not None:
            identity["initial_weights"] = file_hash(initial_weights)
        self.facts = {
            "stage": stage,
            "finished": False,
            "seed": settings.seed,
            "fold": settings.fold,
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "started": datetime.now().isoformat(timespec="seconds"),
            "versions": {"python": sys.version.split()[0]}
            | {name: import_module(name).__version__ for name in PACKAGES},
            "initial_weights": None if initial_weights is None else str(initial_weights),
            "identity": identity,
            "subjects": seen_by_a_run(data.subjects, initial_weights),
            "intensities": data.intensities,
        }
        with (
            in_turns(Path(settings.paths.runs, stage)) as self.folder,
            contextlib.ExitStack() as refused,
        ):
            lock = take_lock(lock_of(self.folder), self.folder)
            refused.enter_context(lock)
            # A job that Slurm has queued again, with the same arguments, goes on.
            if restart and "SLURM_RESTART_COUNT" not in os.environ and self.folder.exists():
                aside = self.folder.with_name(f"{stage}-{datetime.now():%Y%m%d-%H%M%S}")
                self.folder.rename(aside)
                print(f"{stage}: the earlier run is kept as {aside}")
            if (self.folder / "run.json").exists():
                self._take_up()
            elif foreign := sorted(self.folder.glob("[!.]*")):
                raise InputError(
                    f"{foreign[0]}: no run wrote it, as {self.folder} has no run.json; move it, or "
                    "choose another paths.runs"
                )
            else:
                save_json(self.folder / "run.json", self.facts)
            if not (self.folder / "config.yaml").exists():
                settings.save(self.folder / "config.yaml")
            refused.pop_all()
        self._lock = lock

    def __enter__(self):
        return self

    def __exit__(self, *error):
        """Let other processes train in this folder."""
        self._lock.close()

    def _take_up(self):
        """Go on with what the folder holds, if it is the very same run."""
        earlier = run_facts(self.folder, "start anew with --restart", required=True)
        ours = json.loads(json.dumps(self.facts["identity"]))
        # What runs of earlier versions did not write down.
        theirs = {name: ours[name] for name in ("backend", "masks")}
        theirs |= identity_of(earlier, self.folder)
        if differing := differences(theirs, ours):
            raise InputError(
                f"{self.folder}: holds a run with another {', '.join(differing)}; add --restart to "
                "start anew (the old folder is kept aside), or choose another paths.runs"
            )
        self.facts = earlier
        if (self.folder / "state.json").exists():
            self._read_state()
        if self.finished:
            print(f"{self.stage}: finished already in {self.folder}; add --restart to train anew")
        elif self.history:
            print(f"{self.stage}: goes on after epoch {len(self.history)}")

    def _read_state(self):
        """Read how far the run has come; refuse to go on where what that takes is gone or damaged."""
        file, anew = self.folder / "state.json", "start anew with --restart"
        state = load_json(file, anew)
        try:
            self.history, self.seconds = list(state["history"]), float(state["seconds"])
            best = self.best["epoch"] if self.history else 0
        except (TypeError, KeyError, ValueError):
            raise InputError(f"{file}: is not as a run wrote it; {anew}") from None
        self.kept = len(self.history)
        if self.finished or not self.history:
            return
        # The best weights follow from the last ones only where these are the best.
        needed = [self.state_weights] + [self.best_weights] * (best < self.kept)
        try:
            for weights in needed:
                read_weights(weights)
        except InputError as error:
            raise InputError(f"{error}; or {anew}") from None

    @contextlib.contextmanager
    def saying_what_is_kept(self):
        """Let a Ctrl-C in this block carry how far the run has come (see `run_script`)."""
        try:
            yield
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"after epoch {self.kept} of {self.epochs}, kept in {self.folder}"
            ) from None

    def commit(self):
        """Declare the last entry of the history done: before it a second start repeats the epoch.

        Its weights must be whole in `state_weights` by now.
        """
        save_json(self.folder / "state.json", {"history": self.history, "seconds": self.seconds})
        self.kept = len(self.history)

    def save_derived_files(self):
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
        """Write the best metrics into run.json and print the table of all stages so far."""
        self.facts |= {"finished": True, "epochs": len(self.history), "best": self.best}
        self.facts["seconds"] = round(self.seconds, 1)
        save_json(self.folder / "run.json", self.facts)
        print_results(self.folder.parent)
        print(
            f"\npictures: {self.folder / 'learning_curves.png'}, {self.folder / 'predictions.png'}"
        )
