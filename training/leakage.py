"""Whom weights have seen, so that nobody is tested on a network that learned from them.

A run keeps in run.json the subjects it trained on and those that chose its best epoch, with what it
inherited from its initial weights. A subject is recognised by the marks of its scans: its name, the
hash of its slices, and the name that nearly identical scans share (see `likeness`).
"""

from pathlib import Path

from system.files import InputError, load_json


def marks(rows):
    """List the subjects of some slices with the marks by which they are recognised.

    Parameters
    ----------
    rows : pandas.DataFrame
        From `scans.slices.load_manifest`.

    Returns
    -------
    dict of str to list of str
        ``<dataset>/<subject>`` to all its marks.
    """
    names = rows.dataset + "/" + rows.subject
    return {name: sorted({name, *own.content, *own.alike}) for name, own in rows.groupby(names)}


def whom_it_saw(weights):
    """Read from the run.json beside a weights file whom it has seen.

    Returns
    -------
    dict of dict, or None where nothing tells
        ``"training"`` and ``"validation"``: subjects with their marks.
    """
    path = Path(weights).with_name("run.json")
    if not path.is_file():
        return None
    facts = load_json(path, "choose weights in their whole run folder")
    seen = facts.get("subjects") if isinstance(facts, dict) else None
    if seen is None:
        return None
    try:
        return {
            part: {name: list(map(str, own)) for name, own in seen[part].items()}
            for part in ("training", "validation")
        }
    except (TypeError, KeyError, AttributeError):
        raise InputError(f"{path}: `subjects` is not as a run wrote it; train anew") from None


def check_unseen(subjects, weights):
    """Refuse weights that have seen a validation or test subject, and say what was checked.

    Validation subjects may have chosen the best epoch of the earlier run, as they will of this
    one; those of the test part must not have done even that.

    Parameters
    ----------
    subjects : dict of dict
        Of this run (`data.Parts.subjects`).
    weights : path-like
        What it starts from.

    Raises
    ------
    InputError
        Names up to five of the subjects.
    """
    seen = whom_it_saw(weights)
    if seen is None:
        print(
            f"not checked: no run.json beside {weights} tells whom it was trained on; make sure "
            "that none of them validates or is held back here"
        )
        return
    trained = set().union(*seen["training"].values())
    chosen = trained.union(*seen["validation"].values())
    for part, known, what in (
        ("validation", trained, "was trained on"),
        ("test", chosen, "was trained on, or its best epoch chosen by,"),
    ):
        leaks = [subject for subject, own in subjects[part].items() if known & set(own)]
        if leaks:
            more = f" and {len(leaks) - 5} more" if len(leaks) > 5 else ""
            raise InputError(
                f"{weights}: {what} {', '.join(leaks[:5])}{more} of this split's {part} part; choose "
                "other weights, or the split (split, seed, fold) they were trained with"
            )
    print(
        f"checked: {weights} was trained on {len(seen['training'])} subjects, none of whom "
        "validates or is held back here"
    )


def whom_a_run_sees(subjects, initial_weights):
    """Join the subjects of a run with those that its initial weights have seen."""
    seen = whom_it_saw(initial_weights) if initial_weights else None
    joined = {}
    for part in ("training", "validation"):
        own, earlier = subjects[part], seen[part] if seen else {}
        joined[part] = {
            name: sorted({*earlier.get(name, []), *own.get(name, [])})
            for name in sorted(earlier | own)
        }
    return joined
