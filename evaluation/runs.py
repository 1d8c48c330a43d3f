"""Finished runs, the scans they are scored on, and the folds that belong together."""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from scans.alignment import Alignment
from scans.find import scan_name
from scans.manifest import load_manifest, metadata_columns
from scans.splits import find_split, rows_of
from system.files import InputError, load_json
from training.provenance import differences, identity_of


@dataclass(frozen=True, eq=False)
class Predictor:
    """A network, or several whose average predicts.

    `fold` is what it validates, if its run has a network for each of several folds; `folder` is
    where its predictions are kept; `split` is from `scans.splits.load_split`.
    """

    run: str
    fold: int | None
    weights: tuple
    folder: Path
    split: dict

    @property
    def name(self):
        return self.run if self.fold is None else f"{self.run}, fold {self.fold}"

    def prediction_of(self, case):
        """Return the file with the probabilities that it predicts for a case."""
        return self.folder / f"{case.name}_levels.nii.gz"


@dataclass(frozen=True)
class Case:
    """A scan with the lesion, drawn by hand, that a prediction is scored against.

    It is the union of `masks`, whose `labels` count as lesion. `image` is None where it is not at
    hand. The network's axial slices are those of `alignment`, or the scan's own where it is None;
    training left out `skip` of them at either end, with `lesion_outside_ml` of lesion, of which
    `lesion_below_ml` at the bottom (NaN where not known). `metadata` is what else is known of the
    person, by column; see `scans.metadata`.
    """

    subject: str
    session: str
    site: str
    image: Path | None
    masks: tuple[Path, ...]
    labels: list | None
    skip: int = 0
    lesion_outside_ml: float = math.nan
    lesion_below_ml: float = math.nan
    alignment: Alignment | None = None
    metadata: dict = field(default_factory=dict)

    @property
    def name(self):
        return scan_name(self.subject, self.session)


class Fold(NamedTuple):
    """A finished run folder: the fold that validated, and the settings it was made with."""

    number: int
    folder: Path
    split: dict
    recipe: dict


def find_runs(folders, prepared, subset):
    """Find what predicts the scans of one subset of the split, and check that it can be compared.

    Folders that differ by ``fold_*`` alone, as ``runs/fold_0/train`` and ``runs/fold_1/train``, are
    one run, cross-validated: each network predicts the subjects it validates on, and the average of
    all predicts the test subset, which none of them saw.

    Returns
    -------
    dict of str to list of Predictor
        The runs, named by their folders; by their paths if two have one name.

    Raises
    ------
    InputError
        If a run is missing, not finished, learnt no lesions, or has another split than `prepared`
        or the first run; if the folds of a run were trained with different settings. Names it.
    """
    folders = [Path(folder) for folder in folders]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError(f"{', '.join(map(str, folders))}: name each run once")
    places = {}
    for folder in folders:
        in_fold = re.fullmatch(r"fold_\d+", folder.parent.name)
        place = folder.parent.with_name("fold_*") / folder.name if in_fold else folder
        places.setdefault(place, []).append(folder)
    unique = len({place.resolve().name for place in places}) == len(places)
    runs, first = {}, None
    for place, own in places.items():
        folds = _read_folds(own, prepared)
        first = first or folds
        if subset == "validation" and [f.number for f in folds] != [f.number for f in first]:
            raise InputError(
                f"{folds[0].folder}: validates on another fold than {first[0].folder}, or one of "
                "them on more folds; runs are compared on the same subjects"
            )
        name = place.resolve().name if unique else str(place if len(folds) > 1 else own[0])
        runs[name] = _predictors(name, place, folds, subset)
    return runs


def finished_runs(folder):
    """List the run folders of the lesion stages that have come to their end."""
    stages = [Path(folder, stage) for stage in ("train", "transfer")]
    found = [
        stage
        for stage in stages
        if (stage / "run.json").exists()
        and load_json(stage / "run.json", "train anew with --restart").get("finished")
    ]
    if not found:
        raise InputError(f"neither {stages[0]} nor {stages[1]} is finished; run train_model.py")
    return found


def _read_folds(folders, prepared):
    folds = sorted((_read_fold(folder, prepared) for folder in folders), key=lambda f: f.number)
    for fold, other in zip(folds[1:], folds, strict=False):
        if fold.number == other.number:
            raise InputError(f"{fold.folder} and {other.folder}: both are fold {fold.number}")
        if differing := differences(fold.recipe, other.recipe):
            raise InputError(
                f"{fold.folder}: was trained with another {', '.join(differing)} than "
                f"{other.folder}; the folds of a run share all settings"
            )
    return folds


def _read_fold(folder, prepared):
    facts = load_json(folder / "run.json", "name the folder of a finished run")
    if facts.get("stage") == "pre_train":
        raise InputError(f"{folder}: learnt tumours; evaluate runs that learnt lesions")
    if not facts.get("finished"):
        raise InputError(f"{folder}: not finished; the command that began it goes on")
    split = find_split(prepared, "atlas", facts["fold"], facts["identity"].get("split"))
    if split is None:
        raise InputError(
            f"{folder}: was trained with another split than {Path(prepared) / 'splits.json'}, "
            "so it may know these subjects; name its own folder by --set paths.prepared=FOLDER"
        )
    rows = load_manifest(prepared, "atlas")
    # Runs without the section were made on each scan's own grid.
    trained = facts["identity"].get("geometry", {"align": "none", "brain": "keep"})
    for name, value in trained.items():
        if rows[name].iloc[0] != value:
            raise InputError(
                f"{folder}: was trained with geometry.{name} = {value}, and {prepared} was prepared "
                f"with {rows[name].iloc[0]}; name its own folder by --set paths.prepared=FOLDER"
            )
    # A fold may have initial weights of its own, and be trained on another machine.
    own = ("fold", "split", "initial_weights", "backend")
    recipe = {n: value for n, value in identity_of(facts, folder).items() if n not in own}
    return Fold(facts["fold"], folder, split, recipe)


def _predictors(name, place, folds, subset):
    weights = [fold.folder / "best.weights.h5" for fold in folds]
    if subset == "test" and len(folds) > 1:
        kept = place.parents[1] / "evaluation" / "predictions" / place.name
        return [Predictor(name, None, tuple(weights), kept, folds[0].split)]
    return [
        Predictor(
            name,
            fold.number if len(folds) > 1 else None,
            (file,),
            fold.folder / "predictions",
            fold.split,
        )
        for fold, file in zip(folds, weights, strict=True)
    ]


def count_left_out(run):
    """Count the subjects that no fold of a cross-validated run validates on."""
    if len(run) == 1:
        return 0
    validating = {subject for fold in run for subject in fold.split["validation"]}
    return len(set(run[0].split["training"]) - validating)


def find_cases(prepared, split, subset):
    """List the scans of one subset of a split, with all their sessions, each a `Case`."""
    rows = load_manifest(prepared, "atlas")
    rows = rows.iloc[rows_of(rows, split)[subset]]
    if rows.empty:
        raise InputError(
            f"{prepared}: no subject is in the {subset} subset; see split in config.yaml"
        )
    cases = []
    for row in rows.drop_duplicates(["subject", "session"]).to_dict("records"):
        name = scan_name(row["subject"], row["session"])
        facts = load_json(Path(prepared, "atlas", f"{name}.json"), "run prep.py again")
        made_from = facts["made_from"]
        files = [Path(made_from["image"]), *map(Path, made_from["masks"])]
        for file, changed_ns in zip(files, made_from["changed_ns"], strict=True):
            if not file.is_file() or file.stat().st_mtime_ns != changed_ns:
                raise InputError(f"{file}: gone or changed since prep.py read it; run it again")
        cases.append(
            Case(
                row["subject"],
                row["session"],
                row["site"],
                files[0],
                tuple(files[1:]),
                made_from["labels"],
                facts["left_out"],
                facts["lesion_outside_ml"],
                facts["lesion_below_ml"],
                Alignment.from_facts(facts["alignment"]) if facts["alignment"] else None,
                {name: row[name] for name in metadata_columns(rows) if row[name]},
            )
        )
    return cases
