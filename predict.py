"""Outline the lesion in T1-weighted scans, each on its own grid.

Reads   NIfTI files, or folders of them at any depth (BIDS, ATLAS without masks, or any names);
        weights in their run folder, by default <paths.runs>/transfer/best.weights.h5
Writes  a mask, a picture and a json file a scan, and predictions.csv, below --output

A bad scan is named and left out, and the exit code is 1. Started again, it goes on with the scans
that are not done yet.

    python predict.py patient_T1w.nii.gz --output predictions
"""

import gzip
import json
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prediction.outputs import Job, find_jobs
from system.console import read_settings, run, starting_tensorflow
from system.files import (
    InputError,
    file_hash,
    load_json,
    make_folder,
    one_line,
    save_csv,
    save_json,
    whole_file,
)
from system.parallel import WRITERS, in_parallel

CHALLENGE = "atlas2_prediction"


def add_arguments(parser):
    parser.add_argument("scans", nargs="+", type=Path, help="NIfTI files, or folders of them")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument(
        "--weights", nargs="+", type=Path, metavar="FILE", help="several are averaged"
    )
    parser.add_argument(
        "--threshold", type=float,
        help="lesion is what is more probable; if not given, as evaluate.py chose, or 0.5",
    )  # fmt: skip
    parser.add_argument(
        "--smallest-ml", type=float,
        help="smaller lesions are left out; if not given, as evaluate.py chose, or 0",
    )  # fmt: skip
    parser.add_argument(
        "--all-slices", action="store_true",
        help="mark lesions also in slices that evaluate.py chose to leave empty",
    )  # fmt: skip
    parser.add_argument(
        "--flip", action="store_true",
        help="average with the mirrored head, also where evaluate.py did not",
    )  # fmt: skip
    parser.add_argument("--probability", action="store_true", help="write the probabilities too")
    parser.add_argument(
        "--challenge", action="store_true", help=f"pack all masks as {CHALLENGE}.zip for ATLAS"
    )


def main(argv=None):
    settings, arguments = read_settings(__doc__, argv, add_arguments)
    make_folder(arguments.output)
    jobs, problems = find_jobs(arguments.scans, settings.atlas, arguments.output)
    weights = arguments.weights or [Path(settings.paths.runs, "transfer", "best.weights.h5")]
    options = choose_options(arguments, weights)
    waiting = [job for job in jobs if not job.is_done(options, arguments.probability)]
    if len(waiting) < len(jobs):
        print(f"{len(jobs) - len(waiting)} of {len(jobs)} scans are done already")
    if waiting:
        networks, training_scales = load_networks(weights)
        problems += predict_all(waiting, networks, options, training_scales, arguments.probability)
    rows = [
        load_json(path, "delete it") for path in sorted(arguments.output.rglob("*lesion*.json"))
    ]
    rows = [row["prediction"] for row in rows if isinstance(row, dict) and "prediction" in row]
    if rows:
        save_csv(arguments.output / "predictions.csv", rows)
    for file, reason in problems:
        print(one_line(f"left out {file}: {reason}"))
    if arguments.challenge and not problems:
        pack_challenge(jobs, arguments.output / f"{CHALLENGE}.zip")
    elif arguments.challenge:
        print(f"{CHALLENGE}.zip was not made: the challenge wants every scan")
    return 1 if problems else 0


def choose_options(arguments, weights):
    """Collect what decides a mask; what is not given is the operating point of the weights."""
    from prediction.inference import read_run_settings
    from prediction.operating_point import read_operating_point

    for path in weights:
        read_run_settings(path)
    points = [read_operating_point(path) for path in weights]
    options = {"weights": [file_hash(path) for path in weights]}
    options["flip"] = arguments.flip or any(point["flip"] for point in points)
    for name in (name for name in points[0] if name != "flip"):
        given = getattr(arguments, name, None)
        options[name] = np.mean([point[name] for point in points]) if given is None else given
        options[name] = float(options[name])
    # Where one of the networks is trusted with all slices, so is the average.
    if arguments.all_slices or not all(point["ends_mm"] for point in points):
        options["ends_mm"] = 0.0
    if not (0 <= options["threshold"] < 1 and 0 <= options["smallest_ml"] < np.inf):
        raise InputError(
            "--threshold must be in 0 to 1 (1 is never passed), --smallest-ml 0 or more"
        )
    return options


def load_networks(weights):
    """Load the networks, and the grey levels of the first one's training scans if at hand."""
    with starting_tensorflow():
        from prediction.inference import load_network
    from prediction.quality import read_training_scales

    networks = [load_network(path) for path in weights]
    training_scales = read_training_scales(networks[0])
    if training_scales is None:
        print("the training slices are not at hand: intensities are not compared with theirs")
    return networks, training_scales


def predict_all(jobs, networks, options, training_scales, with_probability):
    """Predict scans, each written while the next is predicted; return problems: (file, reason)."""
    from tqdm import tqdm

    def predicted():
        for job in jobs:
            try:
                yield predict_scan(job, networks, options, training_scales, with_probability)
            except InputError as error:
                yield error

    # A process would take longer to start than a single scan to be written.
    processes = WRITERS if len(jobs) > 1 else 1
    saved, problems = in_parallel(save_scan, predicted(), "scans", processes, len(jobs)), []
    for job, result in zip(jobs, saved, strict=True):
        try:
            tqdm.write(result())
        except InputError as error:
            file, _, reason = str(error).partition(": ")
            problems.append((file, reason) if reason else (job.scan, file))
    return problems


@dataclass(frozen=True)
class Found:
    """What the networks found in a scan, and is to be written.

    Attributes
    ----------
    job : jobs.Job
    images : dict of pathlib.Path to nibabel.Nifti1Image
        On the scan's own grid: the mask, and the probability if it is wanted.
    scaled, mask : ndarray, uint8, shape (X, Y, Z)
    spacing_mm : ndarray, shape (3,)
    made_from, row : dict
        For the json file; the row of predictions.csv.
    """

    job: Job
    images: dict
    scaled: np.ndarray
    mask: np.ndarray
    spacing_mm: np.ndarray
    made_from: dict
    row: dict


def predict_scan(job, networks, options, training_scales, with_probability):
    """Read a scan and mark its lesions; return what was found."""
    from prediction.inference import predict_probability, segment
    from prediction.operating_point import ends_of, voxels, without_ends
    from prediction.quality import measure, unlike_training
    from scans.volumes import load_volume, to_original_grid

    started = time.perf_counter()
    volume = load_volume(job.scan)
    job.clear()
    probability = predict_probability(networks, volume, options["flip"])
    voxel_ml = float(np.prod(volume.spacing_mm)) / 1000
    smallest = voxels(options["smallest_ml"], volume.spacing_mm)
    ends = ends_of(options, probability.shape, volume.spacing_mm)
    mask = segment(without_ends(probability, ends), options["threshold"], smallest)
    scaled, mean, std = volume.scaled
    warnings = unlike_training(volume, scaled, mean, std, training_scales)
    if options["ends_mm"] and not ends:
        warnings.append(
            f"not {options['height_mm']:g} mm high, as the scans of training: all slices are marked"
        )
    if not mask.any():
        warnings.append(why_empty(without_ends(probability, ends), options))
    images = {job.mask: to_original_grid(mask, volume)}
    if with_probability:
        images[job.probability] = to_original_grid(probability, volume)
    row = {"scan": str(job.scan), "mask": str(job.mask)} | measure(mask, scaled, mean, voxel_ml)
    row |= {"seconds": time.perf_counter() - started, "warnings": "; ".join(warnings)}
    made_from = job.made_from(options)
    return Found(job, images, scaled, mask, volume.spacing_mm, made_from, row)


def why_empty(probability, options):
    """Say why no lesion was marked: nothing is probable enough, or all that is is too small."""
    highest = probability.max()
    if highest > options["threshold"]:
        return f"no lesion found: what is probable enough is smaller than {options['smallest_ml']:g} ml"
    return f"no lesion found: no voxel is more probable than {highest:.2f}"


def save_scan(found):
    """Write all results of one scan and return what to tell of it, or raise what was its problem."""
    if isinstance(found, InputError):
        raise found
    from training.pictures import save_overlay

    started = time.perf_counter()
    job, row = found.job, found.row
    for path, image in found.images.items():
        save_nifti(image, path)
    lesions = "1 lesion" if row["lesions"] == 1 else f"{row['lesions']} lesions"
    label = f"{job.scan.name}: {lesions}, {row['volume_ml']:.1f} ml"
    save_overlay(found.scaled, found.mask, found.spacing_mm, label, job.picture)
    row["seconds"] = round(row["seconds"] + time.perf_counter() - started, 2)
    save_json(job.facts, {"made_from": found.made_from, "prediction": row})
    return f"{label}; {row['warnings']}" if row["warnings"] else label


def save_nifti(image, path):
    """Write a .nii.gz whole or not at all: same bytes for same content."""
    with whole_file(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))


def pack_challenge(jobs, path):
    """Pack the masks as the ATLAS challenge takes them: same bytes for same masks."""
    from scans.find import identify

    about = {
        "Name": CHALLENGE, "BIDSVersion": "1.6.0",
        "PipelineDescription": {"Name": CHALLENGE}, "GeneratedBy": [{"Name": CHALLENGE}],
    }  # fmt: skip
    content = {"dataset_description.json": json.dumps(about, indent=2).encode()}
    for job in jobs:
        subject, session, _ = identify(Path(job.scan.name))
        if not subject.startswith("sub-"):
            raise InputError(f"{job.scan}: --challenge needs names as sub-r001s001_ses-1_..._T1w")
        name = job.mask.name.replace("_label-L_desc-lesion_mask", "_label-L_mask")
        content[f"{subject}/ses-{session or 1}/anat/{name}"] = job.mask.read_bytes()
    with whole_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in sorted(content):
            # No date: ZipInfo's own is 1980.
            archive.writestr(zipfile.ZipInfo(name), content[name])
    print(f"challenge: {path}")


if __name__ == "__main__":
    run(main)
