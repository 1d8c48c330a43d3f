"""How cost grows: prep, the loader's start, an epoch's slices and memory at 10, 100, 1,000 scans.

The scans of prep are small (48 × 56 × 110 voxels, noise in an ellipsoid), so that a thousand are soon
made and what grows faster than linearly is not hidden behind unzipping. The loader's stacks are of
full size, 89 × 240 × 240, but a few files are hard-linked under all names: what a scan costs is its
rows, its open files and the reading of its slices, and that is the same.

    ./run bench growth
"""

import os
import shutil
import time
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.bench import Contestant, arguments, brief, compare, prepare, report, scratch, spread
from system.parallel import in_parallel
from system.yaml_files import quoted

COUNTS = (10, 100, 1000)
SMALL, SLICES = (48, 56, 110), 89
LINKED_STACKS = 10
TRAINING_STEPS = 20
# The heads are too small to be aligned.
SETTINGS = ("geometry.align=none", "geometry.brain=keep", "split.folds=2")


def make_scan(number, folder):
    """Write a small scan and its mask in ATLAS's layout; no two are alike."""
    import nibabel
    from scipy.ndimage import zoom

    rng = np.random.default_rng(number)
    place = (np.indices(SMALL).T - np.array(SMALL) / 2).T
    head = sum((p / (0.45 * n)) ** 2 for p, n in zip(place, SMALL, strict=True)) < 1
    coarse = zoom(rng.standard_normal((6, 7, 11)), np.array(SMALL) / (6, 7, 11), order=1)
    image = np.where(head, 500 + 100 * coarse + 20 * rng.standard_normal(SMALL), 0)
    lesion = ((place - rng.uniform(-8, 8, (3, 1, 1, 1))) ** 2).sum(0) < rng.uniform(2, 6) ** 2
    name = f"sub-r{number % 33:03}s{number:04}"
    anat = folder / "Training" / f"R{number % 33:03}" / name / "ses-1" / "anat"
    anat.mkdir(parents=True)
    stem = anat / f"{name}_ses-1_space-MNI152NLin2009aSym"
    for voxels, ending in (
        (image.astype(np.int16), "T1w"),
        (lesion.astype(np.uint8), "label-L_desc-T1lesion_mask"),
    ):
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), f"{stem}_{ending}.nii.gz")


def run_prep(scans, output):
    """prep.py on all scans of a folder, from nothing."""

    def work():
        shutil.rmtree(output, ignore_errors=True)
        prepare(scans, output, changes=SETTINGS)
        return memory()

    return work


def make_stacks(prepared, folder):
    """Give all scans of a manifest stacks of full size: a few files, linked under every name."""
    import pandas

    shutil.copytree(prepared, folder, ignore=shutil.ignore_patterns("*.npy"))
    rows = pandas.read_csv(folder / "slices.csv", keep_default_na=False)
    rng = np.random.default_rng(0)
    stacks = []
    for number in range(LINKED_STACKS):
        stacks.append(folder / f"stack{number}.npy")
        np.save(stacks[-1], rng.integers(0, 256, (SLICES, 240, 240), dtype=np.uint8))
    blank = folder / "blank.npy"
    np.save(blank, np.zeros((SLICES, 240, 240), np.uint8))
    table = []
    for number, (image, of_scan) in enumerate(rows.groupby("image", sort=False)):
        mask = of_scan["mask"].iloc[0]
        for name, source in ((image, stacks[number % LINKED_STACKS]), (mask, blank)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(source, folder / name)
        first = of_scan.iloc[[0] * SLICES].assign(position=range(SLICES), z=range(50, 50 + SLICES))
        table.append(first.assign(lesion_pixels=[100, 0] * (SLICES // 2) + [0] * (SLICES % 2)))
    pandas.concat(table).to_csv(folder / "slices.csv", index=False)


def memory():
    """Return this process's own memory in MB; what is mapped from files the system may take back."""
    status = Path("/proc/self/status").read_text()
    own = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return {"own_mb": int(own.split()[1]) / 1024}


def load_epoch(folder):
    """Open the slices as a stage does, then go through one epoch of training slices."""
    from config import load_settings
    from data import load_stage_data

    settings = load_settings(overrides=[f"paths.prepared={quoted(folder)}", *SETTINGS])

    def work():
        started = time.perf_counter()
        data = load_stage_data("atlas", settings, settings.transfer.batch_size, augmented=True)
        opened = time.perf_counter() - started
        started = time.perf_counter()
        slices = sum(len(images) for images, _ in data.training.stream())
        epoch = time.perf_counter() - started
        return {"start_s": opened, "epoch_s": epoch, "slices": slices} | memory()

    return work


def train_some(folder):
    """Train the default network on some batches of a folder, for its memory."""
    from benchmarks.step import build_keras, make_keras_step
    from config import load_settings
    from data import load_stage_data

    settings = load_settings(overrides=[f"paths.prepared={quoted(folder)}", *SETTINGS])
    data = load_stage_data("atlas", settings, settings.train.batch_size, augmented=False)
    model = build_keras(filters=8)
    make_keras_step(model)

    def work():
        for images, masks in islice(data.training.stream(), TRAINING_STEPS):
            model.train_on_batch(images, masks)
        return memory()

    return work


def main():
    options = arguments(__doc__, 3, counts={"type": int, "nargs": "+", "default": list(COUNTS)})
    rows, samples = [], {}
    with scratch() as folder:
        for count in options.counts:
            scans, small = folder / f"scans{count}", folder / f"small{count}"
            list(
                in_parallel(partial(make_scan, folder=scans), list(range(count)), f"{count} scans")
            )
            # A thousand scans are many enough to be measured once.
            rounds = options.rounds if count < 1000 else 1
            prepping = Contestant("prep", run_prep, (scans, small), warm_up=False)
            turns = compare([prepping], rounds)
            stacks = folder / f"stacks{count}"
            make_stacks(small, stacks)
            contestants = [
                Contestant("load", load_epoch, (stacks,)),
                Contestant("train", train_some, (stacks,)),
            ]
            turns |= compare(contestants, rounds)
            load = turns["load"]
            rows.append(
                {
                    "scans": f"{count:,}",
                    "prep s": spread(s["wall_s"] for s in turns["prep"]),
                    "prep CPU ms a scan": spread(1000 * s["cpu_s"] / count for s in turns["prep"]),
                    "loader start s": spread(s["start_s"] for s in load),
                    "slices an epoch": f"{load[0]['slices']:,}",
                    "epoch of the loader s": spread(s["epoch_s"] for s in load),
                    "slices/s": spread(s["slices"] / s["epoch_s"] for s in load),
                    "own memory MB: prep": brief(max(s["own_mb"] for s in turns["prep"])),
                    "loader": brief(max(s["own_mb"] for s in load)),
                    "training": brief(max(s["own_mb"] for s in turns["train"])),
                }
            )
            samples |= {f"{count} scans, {name}": group for name, group in turns.items()}
            for done in (scans, small, stacks):
                shutil.rmtree(done, ignore_errors=True)
    report("growth", rows, samples, counts=options.counts)


if __name__ == "__main__":
    main()
