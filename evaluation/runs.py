"""Finished runs: the folds and the seeds that belong together."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from evaluation.layout import home_of, place_of
from scans.manifest import load_manifest
from scans.splits import count_folds, find_split
from system.files import InputError
from training.provenance import differences, identity_of, is_finished, run_facts


@dataclass(frozen=True, eq=False)
class Predictor:
    """A network, or several whose average predicts.

    `run` and `name` are what its run and itself are called. `seed` and `fold` are those that it was
    trained with, `fold` None if it is the average over folds; `folder` is where its predictions are
    kept; `split` is from `scans.splits.load_split`.
    """

    run: str
    name: str
    seed: int
    fold: int | None
    weights: tuple
    folder: Path
    split: dict

    def prediction_of(self, case):
        """Return the file with the probabilities that it predicts for a case."""
        return self.folder / f"{case.name}_levels.nii.gz"


@dataclass(frozen=True, eq=False)
class Run:
    """What was trained with the same settings: a network, or one for each of several folds and seeds.

    `folds` are the numbers of those that are there, by seed, of `of_folds`. With `sites_held_out`
    each network validates on sites that it never saw. `recipe` are the settings.
    """

    name: str
    stage: str
    predictors: list
    folds: dict
    of_folds: int
    sites_held_out: bool
    recipe: dict

    def by_seed(self):
        """List the predictors of each seed."""
        return [[p for p in self.predictors if p.seed == seed] for seed in self.folds]

    @property
    def is_cross_validated(self):
        return max(map(len, self.folds.values())) > 1

    def count_left_out(self):
        """Count the subjects that no fold of a cross-validated run validates on."""
        if not self.is_cross_validated or self.predictors[0].fold is None:
            return 0
        return len(set(self.predictors[0].split["training"]) - validating(self.predictors))


class Fold(NamedTuple):
    """A finished run folder, and the settings it was made with; `of` folds by subject or by site."""

    folder: Path
    stage: str
    seed: int
    number: int
    of: int
    split: dict
    recipe: dict


def find_runs(folders, prepared, subset):
    """Find what predicts the scans of one subset of the split, and check that it can be compared.

    Folders that differ by ``fold_*`` alone, as ``runs/fold_0/train`` and ``runs/fold_1/train``, are
    one run, cross-validated: each network predicts the subjects it validates on, and the average of
    all predicts the test subset, which none of them saw. So are those that differ by ``seed_*``, as
    ``runs/train`` and ``runs/seed_1/train``: each seed predicts all scans.

    Returns
    -------
    list of Run
        Named by their folders, and by their paths if two have one name.

    Raises
    ------
    InputError
        If a run is missing, not finished, learnt no lesions, or has another split than `prepared`
        or scores other subjects than the first run; if the folds of a run were trained with
        different settings. Names it.
    """
    folders = [Path(folder) for folder in folders]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError(f"{', '.join(map(str, folders))}: name each run once")
    places = {}
    for folder in folders:
        places.setdefault(place_of(folder), []).append(folder)
    rows = load_manifest(prepared, "atlas")
    found = {place: _read_folds(own, prepared, rows) for place, own in places.items()}
    sites = rows.groupby("subject").site.agg(set).to_dict()
    held_out = {p: all(_holds_sites_out(f.split, sites) for f in own) for p, own in found.items()}
    names = {p: p.resolve().name + (" by site" if held_out[p] else "") for p in places}
    if len(set(names.values())) < len(names):
        names = {p: str(p if len(own) > 1 else own[0].folder) for p, own in found.items()}
    first = next(iter(found.values()))
    runs = []
    for place, folds in found.items():
        if subset == "validation" and validating(folds) != validating(first):
            raise InputError(
                f"{folds[0].folder}: validates on other subjects than {first[0].folder}, on another "
                "fold or on more of them; runs are compared on the same subjects"
            )
        numbers = {fold.seed: [f.number for f in folds if f.seed == fold.seed] for fold in folds}
        predictors = _predictors(names[place], folds, subset)
        by_site = held_out[place] and subset == "validation"
        recipe = {name: value for name, value in folds[0].recipe.items() if name != "seed"}
        run = Run(names[place], folds[0].stage, predictors, numbers, folds[0].of, by_site, recipe)
        runs.append(run)
    return runs


def validating(folds):
    """Collect the subjects that folds, or predictors, validate on."""
    return {subject for fold in folds for subject in fold.split["validation"]}


def finished_runs(folder):
    """List the run folders of the lesion stages that have come to their end."""
    stages = [Path(folder, stage) for stage in ("train", "transfer")]
    found = [stage for stage in stages if is_finished(stage)]
    if not found:
        raise InputError(f"neither {stages[0]} nor {stages[1]} is finished; run train_model.py")
    return found


def _read_folds(folders, prepared, rows):
    """Read the folds of a run, of all its seeds, in their order."""
    folds = [read_fold(folder, prepared, rows) for folder in folders]
    folds = sorted(folds, key=lambda fold: (fold.seed, fold.number))
    for fold, other in pairwise(folds):
        if (fold.seed, fold.number) == (other.seed, other.number):
            raise InputError(
                f"{fold.folder} and {other.folder}: both are fold {fold.number} of seed {fold.seed}"
            )
        differing = set(differences(fold.recipe, other.recipe))
        if home_of(fold.folder) != home_of(other.folder):
            differing.discard("seed")
        if differing:
            raise InputError(
                f"{other.folder}: was trained with another {', '.join(sorted(differing))} than "
                f"{fold.folder}; the folds of a run share all settings"
            )
    of_seed = {fold.seed: [f for f in folds if f.seed == fold.seed] for fold in folds}
    alone = [own[0] for own in of_seed.values() if len(own) == 1]
    if alone and len(alone) < len(of_seed):
        raise InputError(
            f"{alone[0].folder}: is the only fold of seed {alone[0].seed}, so that it would choose its own "
            "operating point; name more folds of this seed, or leave it out"
        )
    return folds


def read_fold(folder, prepared, rows):
    facts = run_facts(folder, "name the folder of a finished run", required=True)
    if facts.get("stage") == "pre_train":
        raise InputError(f"{folder}: learnt tumours; evaluate runs that learnt lesions")
    if not facts.get("finished"):
        raise InputError(f"{folder}: not finished; the command that began it goes on")
    try:
        stage, seed, number = facts["stage"], int(facts["seed"]), int(facts["fold"])
        identity = dict(facts["identity"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{folder}/run.json: is not as a run wrote it; train anew") from None
    found = find_split(prepared, "atlas", number, identity.get("split"))
    if found is None:
        raise InputError(
            f"{folder}: was trained with another split than {Path(prepared) / 'splits.json'}, "
            "so it may know these subjects; name its own folder by --set paths.prepared=FOLDER"
        )
    by, split = found
    # Runs without the section were made on each scan's own grid.
    trained = identity.get("geometry", {"align": "none", "brain": "keep"})
    for name, value in trained.items():
        if rows[name].iloc[0] != value:
            raise InputError(
                f"{folder}: was trained with geometry.{name} = {value}, and {prepared} was prepared "
                f"with {rows[name].iloc[0]}; name its own folder by --set paths.prepared=FOLDER"
            )
    # A fold may have initial weights of its own, and be trained on another machine.
    own = ("fold", "split", "initial_weights", "backend")
    recipe = {n: value for n, value in identity_of(facts, folder).items() if n not in own}
    of = count_folds(prepared, "atlas", by)
    return Fold(folder, stage, seed, number, of, split, recipe)


def _predictors(name, folds, subset):
    """Make what predicts a subset: each fold, or the average over the folds of each seed."""
    seeds = {fold.seed: [f for f in folds if f.seed == fold.seed] for fold in folds}
    predictors = []
    for seed, own in seeds.items():
        named = f"{name}, seed {seed}" if len(seeds) > 1 else name
        weights = [fold.folder / "best.weights.h5" for fold in own]
        if subset == "test" and len(own) > 1:
            kept = home_of(own[0].folder) / "evaluation" / "predictions" / own[0].folder.name
            average = Predictor(name, named, seed, None, tuple(weights), kept, own[0].split)
            predictors.append(average)
            continue
        for fold, file in zip(own, weights, strict=True):
            own_name = f"{named}, fold {fold.number}" if len(own) > 1 else named
            kept = fold.folder / "predictions"
            one = Predictor(name, own_name, seed, fold.number, (file,), kept, fold.split)
            predictors.append(one)
    return predictors


def _holds_sites_out(split, sites):
    """Say whether no site of a validation subject is that of a training subject, by the data alone."""
    training, validation = (
        set().union(*(sites.get(subject, ()) for subject in split[subset]))
        for subset in ("training", "validation")
    )
    return training.isdisjoint(validation)
