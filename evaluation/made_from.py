"""What the runs of a report were made from: stages, settings, versions."""

import json
from pathlib import Path

from prediction.operating_point import describe_point
from system.files import load_json
from training.provenance import run_facts


def read_stages(folders, later=()):
    """Read run.json and history of run folders, each after the run whose weights it began with.

    `later` are those that began with weights of these, which must not come again: a copied run may
    name its own folder.
    """
    stages = {}
    for folder in folders:
        facts = run_facts(folder, "train anew with --restart")
        if not facts:
            continue
        following = (*later, folder.resolve())
        if facts.get("initial_weights"):
            earlier = Path(facts["initial_weights"]).parent
            if earlier.resolve() not in following:
                stages = read_stages([earlier], following) | stages
        state = folder / "state.json"
        history = load_json(state, "train anew")["history"] if state.exists() else []
        stages[folder] = facts | {"history": history}
    return stages


def tables_of_settings(runs, stages, titles, scored_on):
    """Make the tables of what was run: the stages with their settings, then what they share.

    Each is a dictionary of ``columns``, or None, and ``rows``.
    """
    if not stages:
        rows = [(name, ", ".join(run["folders"])) for name, run in runs.items()]
        return [{"columns": None, "rows": rows}]
    facts = list(stages.values())
    settings = [own["identity"][own["stage"]] for own in facts]
    keys = dict.fromkeys(key for own in settings for key in own if key != "initial_weights")
    rows = [["folder", *map(str, stages)]]
    rows += [[_in_words(key), *(_written(own.get(key, "")) for own in settings)] for key in keys]
    rows += [[title, *map(text_of, facts)] for title, text_of in STAGE_FACTS.items()]
    common = [[f"{name} is scored on", text] for name, text in scored_on.items()]
    cross_validated = {
        n: run for n, run in runs.items() if max(map(len, run["folds"].values())) > 1
    }
    common += [[f"folds of {name}", folds_of(run)] for name, run in cross_validated.items()]
    for run in runs.values():
        for name, point in run.get("operating_points", {}).items():
            common.append([f"operating point of {name}", describe_point(point)])
    for title, text_of in SHARED_FACTS.items():
        texts = [text_of(own) for own in facts]
        if len(set(texts)) == 1:
            common.append([title, texts[0]])
        else:
            rows.append([title, *texts])
    return [
        {"columns": list(titles.values()), "rows": rows},
        {"columns": None, "rows": common},
    ]


def folds_of(run):
    """List the folds of a run that are there, and those that are not, by seed."""
    listed = []
    for seed, folds in run["folds"].items():
        lacking = sorted(set(range(run["of_folds"])) - set(folds))
        text = f"seed {seed}: {_listed(folds)} of {run['of_folds']}"
        listed.append(text + (f", without {_listed(lacking)}" if lacking else ""))
    return "; ".join(listed)


def _listed(folds):
    return ", ".join(map(str, folds))


def _when_finished(text_of):
    return lambda facts: text_of(facts) if facts["finished"] else ""


STAGE_FACTS = {
    "split": lambda facts: (
        f"seed {facts['seed']}, fold {facts['fold']}, identity {facts['identity']['split']}"
    ),
    "starts from": lambda facts: facts["initial_weights"] or "scratch",
    "best epoch": _when_finished(lambda facts: f"{facts['best']['epoch']} of {facts['epochs']}"),
    "Dice watched, best": _when_finished(lambda facts: f"{facts['best']['val_dice']:.3f}"),
    "seconds": _when_finished(lambda facts: f"{facts['seconds']:.0f}"),
    "command": lambda facts: " ".join(facts["command"]),
}


# In most reports the same for all stages.
SHARED_FACTS = {
    "network": lambda facts: _written(facts["identity"]["unet"]),
    "slices": lambda facts: f"identity {facts['identity']['slices']}",
    "versions": lambda facts: _written(facts["versions"]),
}


def _in_words(key):
    return key.replace("_", " ")


def _written(value):
    if isinstance(value, dict):
        return ", ".join(f"{_in_words(name)} {_written(own)}" for name, own in value.items())
    return str(value) if isinstance(value, str) else json.dumps(value)
