"""What can be found out about a training before its framework starts, which takes seconds."""

import os
from pathlib import Path

from system.files import InputError, require_file
from system.locks import take_lock
from training.provenance import run_facts


def check_before_start(stage, settings, initial_weights=None):
    """Refuse a stage whose slices or initial weights are missing, or that is being trained already."""
    require_file(Path(settings.paths.prepared, "slices.csv"), "run prep.py first")
    if initial_weights is not None:
        advice = "run pre_train_model.py first, or set transfer.initial_weights"
        if settings.transfer.initial_weights is not None:
            advice = "train these first, or set transfer.initial_weights to others"
        require_file(initial_weights, advice)
        earlier = run_facts(Path(initial_weights).parent, "train it anew with --restart")
        # Whose training goes on would exchange them, and then this run would be one of other weights.
        if settings.transfer.initial_weights is None and not earlier.get("finished", True):
            raise InputError(
                f"{initial_weights}: its training is not finished; pre_train_model.py goes on with it, "
                "or name these weights as transfer.initial_weights"
            )
    folder = Path(settings.paths.runs, stage)
    # On JAX several processes may train one run; the first takes the lock later.
    if folder.exists() and os.environ.get("KERAS_BACKEND") != "jax":
        take_lock(lock_of(folder), folder).close()


def lock_of(folder):
    """Name the file by which a run folder is locked, beside it: the folder itself may be renamed."""
    return folder.with_name(f".{folder.name}.lock")
