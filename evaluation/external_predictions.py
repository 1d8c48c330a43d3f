"""Masks that another program, or a person, made: paired with the reference masks by their names."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from evaluation.cases import Case
from evaluation.metrics import subject_metrics
from evaluation.scoring import Scores, View, metrics_row
from evaluation.strata import check_strata
from prediction.bids_outputs import SPACE
from scans.find import list_files
from scans.metadata import Metadata
from scans.names import NIFTI_ENDINGS, identify, session_label, shared_names, stem_of
from scans.volumes import load_lesion, load_mask, load_volume, read_voxels
from system.files import InputError, first_few
from system.parallel import attempt, in_parallel


@dataclass(frozen=True)
class ExternalPrediction:
    """A mask that another program made, and the case it belongs to."""

    file: Path
    case: Case


def score_external(folder, masks, layout, strata=()):
    """Score the masks, 0/1 or 0/255, of another program against the reference masks of a folder.

    `strata` are columns of the tables beside the masks that will be asked for.
    """
    predictions = pair_masks(folder, masks, layout)
    check_strata(strata, [prediction.case for prediction in predictions])
    name = Path(folder).resolve().name
    metrics = in_parallel(_score, predictions, f"{name}: masks")
    rows = [
        metrics_row(name, prediction.case, own)
        for prediction, own in zip(predictions, metrics, strict=True)
    ]
    views = {(p.case.subject, p.case.session): partial(load_view, p) for p in predictions}
    return Scores(rows, {name: {"folders": [str(folder)]}}, views)


def pair_masks(predictions, masks, layout):
    """Find the prediction of each mask by equal file name, else by equal subject and session.

    Where names in `masks` end with the layout's mask suffix, only those are masks: images may lie
    beside them. Predictions without a mask are not used, and no mask is a prediction of itself.

    Raises
    ------
    InputError
        If predictions are missing (names the first few), if a mask or a prediction could be several,
        or if two masks are of the same subject and session.
    """
    stems, suffixes = _nifti_files(masks), layout.mask_suffixes
    named = {file: name for file, name in stems.items() if name.endswith(suffixes)}
    wanted = {}
    for file, name in (named or stems).items():
        wanted.setdefault((file.parent, _without_suffix(name, suffixes)), []).append(file)
    images = {
        (file.parent, start): file
        for file in stems
        if file not in named and file.is_file()
        for start in shared_names(file, layout.image_suffix)
    }
    by_name, by_scan = {}, {}
    references = {file.resolve() for own in wanted.values() for file in own}
    for file, name in _nifti_files(predictions).items():
        if file.resolve() in references:
            continue
        by_name.setdefault(name, []).append(file)
        by_scan.setdefault(identify(file.relative_to(predictions))[:2], []).append(file)
    pairs, missing, used, scans, metadata = [], [], {}, {}, Metadata(masks)
    for place, (file, *others) in wanted.items():
        subject, session, site = identify(file.relative_to(masks))
        # Another program may have dropped what tells the scans of a session apart.
        short = "".join(session_label(file.relative_to(masks)))
        found = by_scan.get((subject, session)) or by_scan.get((subject, short), [])
        if named := by_name.get(stem_of(file)):
            # Folders may tell apart what all have one name.
            both = [path for path in named if path in found]
            found = both or (named if len(named) == 1 else found)
        if not found and place in images:  # as predict.py calls what is not of BIDS
            found = by_name.get(f"{stem_of(images[place])}_lesion", [])
        if not found:
            missing.append(file.name)
            continue
        # Beside a mask on the scan's own grid may lie the same mask in MNI space.
        in_mni = f"_space-{SPACE}_" in file.name
        found = [path for path in found if (f"_space-{SPACE}_" in path.name) == in_mni] or found
        # Beside a mask may lie its probability map.
        found = [path for path in found if path.name.split(".")[0].endswith("_mask")] or found
        # And what a person made of it (see prediction/mending.py).
        found = [path for path in found if "_desc-lesion_" in path.name] or found
        if len(found) > 1 or found[0] in used:
            several = found if len(found) > 1 else [file, used[found[0]]]
            raise InputError(
                f"{' and '.join(map(str, several))}: the same subject and session; leave one, or "
                "give mask and prediction the same file name"
            )
        used[found[0]] = file
        if other := scans.get((subject, session)):
            raise InputError(
                f"{file} and {other}: two masks of the same subject and session; score them apart, or "
                "tell them apart by ses-, acq- or run- in their names"
            )
        scans[subject, session] = file
        own = (file, *others)
        known = metadata.of(file, subject, session)
        site = known.pop("site", site)
        image = images.get(place)
        case = Case(subject, session, site, image, own, layout.labels, metadata=known)
        pairs.append(ExternalPrediction(found[0], case))
    for problem in metadata.problems:
        print(problem)
    if surplus := [path.name for own in by_name.values() for path in own if path not in used]:
        print(f"predictions that are not scored, {len(surplus)}: {first_few(surplus)}")
    if missing:
        raise InputError(
            f"{predictions}: no prediction for {len(missing)} of {len(wanted)} masks: "
            f"{first_few(missing)}; predict them, or give each prediction the name of its mask"
        )
    return pairs


def _nifti_files(folder):
    """Map the NIfTI files below a folder, hidden ones passed over, to their names' stems."""
    everything, _ = list_files(folder)
    files = {path: stem_of(path) for path in everything if path.name.endswith(NIFTI_ENDINGS)}
    if not files:
        raise InputError(f"{folder}: no .nii or .nii.gz file is in this folder")
    return files


def _without_suffix(name, suffixes):
    return next((name.removesuffix(suffix) for suffix in suffixes if name.endswith(suffix)), name)


def _score(prediction):
    grid, reference, mask = _load(prediction)
    return subject_metrics(reference, mask, grid.spacing_mm)


def _load(prediction):
    grid = read_voxels(prediction.case.masks[0])
    reference = load_lesion(prediction.case.masks, prediction.case.labels, grid)
    return grid, reference, load_mask(prediction.file, None, grid)


def load_view(prediction):
    """Read a mask and its prediction, and the image; black where none is at hand that can be read."""
    grid, reference, mask = _load(prediction)
    black = replace(grid, voxels=np.zeros_like(grid.voxels))
    image = prediction.case.image
    if image is None:
        return View(black, reference, mask)
    volume, error = attempt(load_volume, image)
    if volume and volume.voxels.shape != grid.voxels.shape:
        error = f"{image}: has another shape than its mask"
    if error:
        print(f"shown black: {error}")
    return View(black if error else volume, reference, mask)
