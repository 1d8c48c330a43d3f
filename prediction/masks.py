"""Scans predicted one by one, the results of each written while the next is predicted."""

import time

import numpy as np
from tqdm import tqdm

from config import load_run_settings
from prediction.inference import predict_volume, shared_geometry
from prediction.network import load_networks
from prediction.operating_point import (
    empty_ends,
    mask_of,
    read_operating_point,
    slices_left_empty,
)
from prediction.outputs import leave_out_foreign
from prediction.quality import (
    COPY_ANEW,
    certainty,
    describe_lesions,
    measure_lesions,
    reaches_edge,
    read_intensities,
    unlike_training,
)
from prediction.saving import Prediction, save_outcome
from scans.alignment import aligner
from scans.volumes import NO_ORIENTATION, load_volume, to_original_grid
from system.files import InputError, Problem, file_hash
from system.parallel import WRITERS, attempt, in_parallel
from training.provenance import run_facts


def choose_options(weights, threshold=None, smallest_ml=None, flip=False, all_slices=False):
    """Collect what decides a mask; what is not given is the operating point of the weights.

    Returns
    -------
    dict
        ``weights`` (their hashes), ``flip``, ``threshold``, ``smallest_ml``, ``ends_mm``,
        ``height_mm``, ``aligner`` where scans are aligned, and ``empty_map``, 0: the probability that is
        written where a mask is empty, by which results of versions that wrote another are made again.
    """
    geometry = shared_geometry({path: load_run_settings(path) for path in weights})
    for path in weights:
        if run_facts(path.parent, COPY_ANEW).get("finished") is False:
            print(f"{path}: its training has not come to its end; its best so far is taken")
    points = [read_operating_point(path) for path in weights]
    given = {"threshold": threshold, "smallest_ml": smallest_ml}
    options = {
        "weights": [file_hash(path) for path in weights],
        "flip": flip or any(point["flip"] for point in points),
    }
    for name in (name for name in points[0] if name != "flip"):
        mean = np.mean([point[name] for point in points])
        options[name] = float(mean if given.get(name) is None else given[name])
    # Where one of the networks is trusted with all slices, so is the average.
    if all_slices or not all(point["ends_mm"] for point in points):
        options["ends_mm"] = 0.0
    options["empty_map"] = 0.0
    if geometry.align == "template":
        options["aligner"] = aligner()
    if not (0 <= options["threshold"] < 1 and 0 <= options["smallest_ml"] < np.inf):
        raise InputError("--threshold must be at least 0 and below 1, --smallest-ml 0 or more")
    return options


def predict_scans(planned, weights, options, with_probability):
    """Predict the scans of some `Outputs` that are not done yet, and write their results.

    The networks of several weights are averaged. `options` are from `choose_options`. Returns the
    problems.
    """
    waiting = [outputs for outputs in planned if not outputs.are_current(options, with_probability)]
    if len(waiting) < len(planned):
        print(f"{len(planned) - len(waiting)} of {len(planned)} scans are done already")
    waiting, problems = leave_out_foreign(waiting)
    if not waiting:
        return problems
    networks = load_networks(weights)
    intensities = read_intensities(weights[0])
    if intensities is None:
        print(
            f"intensities are not compared with those of training: no run.json beside {weights[0]} "
            "tells them"
        )

    def predict(outputs):
        return predict_scan(outputs, networks, options, intensities, with_probability)

    # A process would take longer to start than a single scan to be written.
    processes = WRITERS if len(waiting) > 1 else 1
    predicted = (attempt(predict, outputs) for outputs in waiting)
    saved = in_parallel(save_outcome, predicted, "scans", processes, len(waiting))
    for outputs, outcome in zip(waiting, saved, strict=True):
        if outcome.error:
            problems.append(Problem.of(outcome.error, outputs.scan))
        else:
            tqdm.write(outcome.result)
    return problems


def predict_scan(outputs, networks, options, intensities, with_probability):
    """Read a scan and mark its lesions; return a `Prediction`."""
    started = time.perf_counter()
    volume = load_volume(outputs.scan)
    seen, probability = predict_volume(networks, volume, options["flip"])
    mask = mask_of(probability, options["threshold"], options, volume, seen.alignment)
    # ISLES'26 asks for a map without contrast where there is no lesion.
    soft = probability if mask.any() else np.zeros_like(probability)
    images, texts = outputs.further_results(mask, soft, seen)
    images[outputs.mask] = to_original_grid(mask, volume)
    if with_probability:
        images[outputs.probability] = to_original_grid(soft, volume)
    ends = slices_left_empty(options, volume, seen.alignment)
    kept = empty_ends(probability, volume, seen.alignment, ends)
    warnings = unlike_training(seen, intensities)
    if options["ends_mm"] and not ends:
        warnings.append(
            f"not {options['height_mm']:g} mm high, as the scans of training are: lesions are marked in "
            "its outermost slices, too"
        )
    if reaches_edge(mask):
        warnings.append("a lesion reaches the edge of the scan")
    if not mask.any():
        warnings.append(_why_empty(kept, options))
    row = {"scan": str(outputs.scan), "mask": str(outputs.mask)}
    row |= measure_lesions(mask, seen)
    if NO_ORIENTATION in volume.warnings:
        row |= {"left_ml": None, "right_ml": None}
    row["similarity"] = round(seen.alignment.similarity, 3) if seen.alignment else None
    row["certainty"] = round(certainty(kept, mask), 3)
    row |= {"seconds": time.perf_counter() - started, "warnings": "; ".join(warnings)}
    return Prediction(
        outputs=outputs,
        images=images,
        texts=texts,
        scaled=volume.scaled[0],
        spacing_mm=volume.spacing_mm,
        mask=mask,
        aligned=seen.bring(volume.voxels) if seen.alignment and seen.alignment.doubts else None,
        made_from=outputs.made_from(options),
        row=row,
        warnings=warnings,
        lesions=describe_lesions(mask, seen),
    )


def _why_empty(probability, options):
    """Say why no lesion was marked: nothing is probable enough, or all that is is too small."""
    highest = probability.max()
    if highest > options["threshold"]:
        return f"no lesion found: what is probable enough is smaller than {options['smallest_ml']:g} ml"
    return f"no lesion found: no voxel is more probable than {highest:.2f}"
