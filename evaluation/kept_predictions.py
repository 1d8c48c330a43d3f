"""Predictions of scans, kept beside the weights they were made with, and made once.

Networks come in as a function from a scan to its probabilities: nothing here needs a framework.
"""

import hashlib
import json
import zlib
from functools import partial

import nibabel

from evaluation.choosing import probability_levels
from prediction.inference import predict_probability
from prediction.network import load_networks
from scans.nifti import save_nifti
from scans.volumes import load_lesion, load_volume, read_voxels, to_original_grid
from system.files import InputError, Problem, file_hash
from system.parallel import WRITERS, in_parallel


def predict_missing(cases, flips):
    """Predict the cases that have no prediction yet, or one made in another way."""
    missing = {
        predictor: missing_predictions(predictor, own, flips[predictor])
        for predictor, own in cases.items()
    }
    missing = {predictor: own for predictor, own in missing.items() if own}
    if not missing:
        return
    # All are looked at before the first is asked; only those that are asked are held.
    for predictor in missing:
        load_networks(predictor.weights)
    for predictor, own in missing.items():
        predict = partial(predict_probability, load_networks(predictor.weights))
        predict_cases(predictor, own, flips[predictor], predict)


def missing_predictions(predictor, cases, flip):
    """List the cases of which there is no prediction yet, or one made in another way."""
    maker = _maker(predictor, flip)
    return [
        case
        for case in cases
        if _stored_origin(predictor.prediction_of(case)) != _origin(maker, case)
    ]


def predict_cases(predictor, cases, flip, predict):
    """Predict scans and keep the probabilities.

    ``<scan>_levels.nii.gz`` in the predictor's folder lies on the scan's own grid and holds the
    `evaluation.choosing.probability_levels`. It names the weights and the scan that it was made
    from, so that a new start goes on where an earlier one stopped, and a stale file is never
    mistaken for a new one. `predict` goes from a `Volume`, `flip` and an `Alignment` to the
    probability, as `prediction.inference.predict_probability`.
    """
    maker = _maker(predictor, flip)

    def predicted():
        for case in cases:
            volume = load_volume(case.image)
            try:
                probability = predict(volume, flip, case.alignment)
            except InputError as error:
                raise InputError(str(Problem.of(error, case.image))) from error
            image = to_original_grid(probability_levels(probability), volume)
            image.header["descrip"] = _origin(maker, case)
            yield image, predictor.prediction_of(case)

    label = f"{predictor.name}: scans"
    processes = WRITERS if len(cases) > 1 else 1
    for _ in in_parallel(_save_prediction, predicted(), label, processes, len(cases)):
        pass


def _save_prediction(image_and_path):
    save_nifti(*image_and_path, compresslevel=1)


def _maker(predictor, flip):
    """Name what predicts by the hash of its weights, or of their hashes, and by `flip`."""
    hashes = [file_hash(path) for path in predictor.weights]
    weights = hashes[0]
    if len(hashes) > 1:
        weights = hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]
    return f"weights {weights}{' flip' if flip else ''}"


def _origin(maker, case):
    # A header has 80 bytes for it.
    origin = f"{maker}, scan {case.image.stat().st_mtime_ns}"
    if case.alignment:
        facts = json.dumps(case.alignment.as_facts()).encode()
        origin += f", aligned {hashlib.sha256(facts).hexdigest()[:8]}"
    return origin.encode()


def _stored_origin(file):
    try:
        return nibabel.load(file).header["descrip"].item()
    except (OSError, EOFError, zlib.error, nibabel.filebasedimages.ImageFileError):
        return None


def load_scored(predictor, case):
    """Read a scan, its reference mask, and its prediction as `probability_levels`."""
    volume = load_volume(case.image)
    reference = load_lesion(case.masks, case.labels, volume)
    file = predictor.prediction_of(case)
    try:
        return volume, reference, read_voxels(file).voxels
    except InputError as error:
        raise InputError(
            f"{file}: cannot be read; delete it, and the same command makes it anew"
        ) from error
