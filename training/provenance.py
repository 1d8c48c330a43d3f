"""What a run was made from, above all which subjects its weights have seen.

A run keeps in run.json the subjects it trained on and those that chose its best epoch, with those
that its initial weights had seen, or the name of these weights where nobody knows. A subject is recognised by any of its identifiers: its name, the hash
of its slices, and the name that nearly identical scans share (see `scans.near_duplicates`).
"""

from pathlib import Path

from system.files import InputError, first_few, load_json
from system.retired import ADDED, STAGES, without_retired
from system.yaml_files import read_yaml

SEEN = ("training", "validation", "unknown")


def identifiers_of_subjects(rows):
    """List the identifiers of each subject, ``<dataset>/<subject>``, of a manifest's rows."""
    names = rows.dataset + "/" + rows.subject
    return {name: sorted({name, *own.content, *own.alike}) for name, own in rows.groupby(names)}


def is_finished(folder):
    """Say whether a folder holds a run that has come to its end."""
    return bool(run_facts(folder, "train anew with --restart").get("finished"))


def run_facts(folder, how_to_get_it, required=False):
    """Read the run.json of a run's folder; empty where there is none, unless it is `required`."""
    file = Path(folder) / "run.json"
    facts = load_json(file, how_to_get_it) if required or file.exists() else {}
    if not isinstance(facts, dict):
        raise InputError(f"{file}: is not as a run wrote it; {how_to_get_it}")
    return facts


def seen_by(weights):
    """Read from the run.json beside weights which subjects, with their identifiers, they have seen.

    From ``"training"`` and ``"validation"``; ``"unknown"`` names the weights before them that had no
    such record. None where these have none.
    """
    path = Path(weights).with_name("run.json")
    seen = run_facts(path.parent, "choose weights in their whole run folder").get("subjects")
    if seen is None:
        return None
    try:
        recorded = {"unknown": {}} | seen
        return {
            subset: {name: list(map(str, own)) for name, own in recorded[subset].items()}
            for subset in SEEN
        }
    except (TypeError, KeyError, AttributeError):
        raise InputError(f"{path}: `subjects` is not as a run wrote it; train anew") from None


def check_unseen(subjects, weights):
    """Refuse weights that have seen a validation or test subject, and print what was checked.

    Validation subjects may have chosen the best epoch of the earlier run, as they will of this one;
    test subjects must not have done even that. `subjects` are those of this run
    (`data.StageData.subjects`).
    """
    seen = seen_by(weights) or _seen_by_unknown(weights)
    trained = set().union(*seen["training"].values())
    chosen = trained.union(*seen["validation"].values())
    for subset, known, what in (
        ("validation", trained, "was trained on"),
        ("test", chosen, "was trained on, or its best epoch chosen by,"),
    ):
        leaks = [subject for subject, own in subjects[subset].items() if known & set(own)]
        if leaks:
            raise InputError(
                f"{weights}: {what} {first_few(leaks)} of this split's {subset} subset; "
                "choose other weights, or the split (split, seed, fold) they were trained with; if these "
                "are other people of the same name, rename them in one data set"
            )
    if seen["unknown"]:
        print(
            f"not checked: no run.json beside {first_few(list(seen['unknown']))} tells whom it was trained "
            "on; make sure that none of them validates or is held back here"
        )
        return
    count = len(seen["training"])
    print(
        f"checked: {weights} was trained on {count} subject{'s' * (count != 1)}, none of whom "
        "validates or is held back here"
    )


def _seen_by_unknown(weights):
    return {"training": {}, "validation": {}, "unknown": {str(weights): []}}


def seen_by_a_run(subjects, initial_weights):
    """Join the subjects of a run with those that its initial weights have seen."""
    seen = {subset: subjects.get(subset, {}) for subset in SEEN}
    if not initial_weights:
        return seen
    earlier = seen_by(initial_weights) or _seen_by_unknown(initial_weights)
    return {
        subset: {
            name: sorted({*earlier[subset].get(name, []), *seen[subset].get(name, [])})
            for name in sorted(earlier[subset] | seen[subset])
        }
        for subset in SEEN
    }


def identity_of(facts, folder):
    """Return from the facts of run.json in a folder what decides the result of a run."""
    identity = facts.get("identity", {})
    if not isinstance(identity, dict):
        raise InputError(f"{folder / 'run.json'}: `identity` is not as a run wrote it; train anew")
    identity = without_retired(identity)
    # Earlier versions wrote down more than decides the result.
    for stage in STAGES:
        if isinstance(own := identity.get(stage), dict):
            identity[stage] = {key: own[key] for key in own.keys() - {"initial_weights"}}
            if own.get("augmentation") is False:
                identity.pop("augmentation", None)
    # Earlier versions did not write down how slices are drawn, but in config.yaml.
    if "training_slices" not in identity and (folder / "config.yaml").exists():
        section = read_yaml(folder / "config.yaml").get("slices", {})
        drawn = section.keys() - {"size", "skip", "format"}
        identity["training_slices"] = {name: section[name] for name in drawn}
    for section, added in ADDED.items():
        if isinstance(identity.get(section), dict):
            identity[section] = added | identity[section]
    return identity


def differences(one, other, prefix=""):
    """Name the keys, dotted, in which two nested dictionaries differ."""
    names = []
    for key in sorted(one.keys() | other.keys()):
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(prefix + key)
    return names
