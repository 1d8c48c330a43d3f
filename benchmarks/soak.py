"""Kill prep and the three training stages again and again, and compare with runs left alone.

Makes tiny scans in the layouts of ATLAS v2.0 and BraTS17 in a temporary folder, runs every stage
once undisturbed, then kills it (-9) at random moments of its life until all kills are spent. A
stage that comes through is compared to the last bit and starts from nothing again. Exit code 1 if
anything differs.

    python benchmarks/soak.py --kills 100 --seed 0
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import nibabel
import numpy as np
from scipy.ndimage import gaussian_filter

ROOT = Path(__file__).parents[1]
STAGES = ("prep", "pre_train", "train", "transfer")
SCRIPTS = {
    "prep": "prep",
    "pre_train": "pre_train_model",
    "train": "train_model",
    "transfer": "transfer_learning",
}
SUBJECTS, SHAPE, EPOCHS = 12, (28, 30, 16), 4
ATLAS_NAME = "Training/R001/sub-r001s{0:03}/ses-1/anat/sub-r001s{0:03}_ses-1_space-MNI_"
BRATS_NAME = "HGG/Brats17_TCIA_{0:03}_1/Brats17_TCIA_{0:03}_1_"


def make_scans(folder):
    """Write textured heads with a round lesion: enough to train on, not to learn from."""
    place = (np.indices(SHAPE).T - np.array(SHAPE) / 2).T
    radius = np.sqrt(sum((p / (n / 2)) ** 2 for p, n in zip(place, SHAPE, strict=True)))
    for number in range(2 * SUBJECTS):
        rng = np.random.default_rng(number)
        centre = rng.uniform(-3, 3, (3, 1, 1, 1))
        lesion = ((place - centre) ** 2).sum(0) < rng.uniform(2, 4) ** 2
        image = 600 + 300 * gaussian_filter(rng.standard_normal(SHAPE), 1.2) - 250 * lesion
        image = np.where(radius < 0.85, image, 0).astype(np.float32)
        name = folder / (ATLAS_NAME if number < SUBJECTS else BRATS_NAME).format(number)
        name.parent.mkdir(parents=True)
        endings = ("T1w", "label-L_desc-T1lesion_mask") if number < SUBJECTS else ("t1", "seg")
        for voxels, ending in zip((image, lesion.astype(np.uint8)), endings, strict=True):
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), f"{name}{ending}.nii.gz")


def command(stage, scans, folder):
    settings = {
        "paths.atlas": scans / "Training",
        "paths.brats17": scans / "HGG",
        "paths.prepared": folder / "prepared",
        "paths.runs": folder,
        "slices.size": 32,
        "geometry.align": "none",
        "geometry.brain": "keep",
        "slices.skip": 2,
        "split.folds": 3,
        "unet.filters": 2,
    }
    for name in STAGES[1:]:
        settings |= {f"{name}.epochs": EPOCHS, f"{name}.batch_size": 4}
        settings |= {f"{name}.learning_rate": 0.01}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return [sys.executable, str(ROOT / f"{SCRIPTS[stage]}.py"), *words]


def life(words, seconds=None, whole_group=True):
    """Run a process, for so many seconds at most; return whether it came through."""
    with tempfile.TemporaryFile("w+") as shown:
        process = subprocess.Popen(words, stdout=shown, stderr=shown, start_new_session=True)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            if whole_group:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            process.wait()
            return False
        if code != 0:
            shown.seek(0)
            raise SystemExit(f"{' '.join(words)}\nended with {code}:\n{shown.read()}")
        return True


def content(path):
    """Return what must be the same in two runs: of a json file all but times and places."""
    if path.suffix == ".h5":
        found = {}
        with h5py.File(path) as file:
            file.visititems(
                lambda name, item: (
                    found.update({name: item[()].tobytes()}) if hasattr(item, "dtype") else None
                )
            )
        return found
    if path.name in ("run.json", "state.json"):
        facts = json.loads(path.read_text())
        kept = ("history", "finished", "epochs", "best", "identity", "subjects")
        return {key: facts[key] for key in kept if key in facts}
    return path.read_bytes()


def differences(one, other):
    """Name the files in which two folders differ."""
    files = [
        {p.relative_to(f) for p in f.rglob("*") if p.is_file()} - {Path("config.yaml")}
        for f in (one, other)
    ]
    both = sorted(files[0] & files[1])
    return [str(name) for name in sorted(files[0] ^ files[1])] + [
        str(name) for name in both if content(one / name) != content(other / name)
    ]


def soak(stage, kills, scans, whole, killed, rng):
    """Spend the kills of one stage; return how often it came through, and what differed."""
    result = "prepared" if stage == "prep" else stage
    started = time.monotonic()
    life(command(stage, scans, whole))
    seconds = time.monotonic() - started
    spent, through, different = 0, 0, []
    while True:
        moment = rng.uniform(0, seconds)
        patience, whole_group = (moment, rng.random() < 0.5) if spent < kills else (None, True)
        if not life(command(stage, scans, killed), patience, whole_group):
            spent += 1
            what = "all its processes" if whole_group else "the parent alone"
            print(f"{stage}: kill {spent} of {kills} after {moment:.2f} s, {what}", flush=True)
            continue
        through += 1
        found = differences(whole / result, killed / result)
        print(f"{stage}: came through, {len(found)} differences {found or ''}", flush=True)
        different += found
        if spent == kills:
            return through, different
        shutil.rmtree(killed / result)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}, {arguments.kills} kills")
    rng, started = random.Random(arguments.seed), time.monotonic()
    through, different = 0, []
    with tempfile.TemporaryDirectory() as folder:
        scans, whole, killed = (Path(folder, name) for name in ("scans", "whole", "killed"))
        make_scans(scans)
        for number, stage in enumerate(STAGES):
            share = arguments.kills * (number + 1) // 4 - arguments.kills * number // 4
            one, more = soak(stage, share, scans, whole, killed, rng)
            through, different = through + one, different + more
    print(
        f"{arguments.kills} kills, {through} runs compared, {len(different)} differences, "
        f"{(time.monotonic() - started) / 60:.1f} minutes"
    )
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
