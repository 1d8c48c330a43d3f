"""Make the folder that travels to a borrowed GPU: wheels, code, and a prepared data set.

Reads   a prepared folder (from prep.py), the repository
Writes  FOLDER: trip.py, the modules it needs, data.npz, wheels/
        with --contest: the program, prepared.tar.bz2, wheels/, for contenders with --train-only

    python -m benchmarks.gpu.pack FOLDER --prepared output/prepared --wheels keras namex optree
"""

import argparse
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np

from scans.manifest import load_manifest
from scans.reader import SliceReader
from scans.splits import load_split, rows_of

ROOT = Path(__file__).parents[2]
MODULES = (
    "unet.py",
    "losses.py",
    "augmentation.py",
    "system/cores.py",
    "system/files.py",
    "system/devices.py",
    "system/single_device.py",
    "system/jax_devices.py",
    "system/torch_devices.py",
    "system/__init__.py",
    "training/layers.py",
    "training/stored_weights.py",
    "training/weights.py",
    "training/__init__.py",
)


def save_data(prepared, path):
    """Save slices, masks, standardisation and split of both data sets."""
    arrays = {}
    for dataset in ("atlas", "brats17"):
        rows = load_manifest(prepared, dataset)
        subsets = rows_of(rows, load_split(prepared, dataset, 0))
        reader = SliceReader(prepared, rows)
        has_lesion = rows.lesion_pixels.to_numpy() > 0
        training = subsets["training"]
        # Half of the slices without lesion: all of them would not fit the trip.
        empty = training[~has_lesion[training]][::2]
        training = np.union1d(training[has_lesion[training]], empty)
        needed = np.concatenate([training, subsets["validation"]])
        images, masks = zip(*map(reader.read, needed), strict=True)
        place = {row: i for i, row in enumerate(needed)}
        own = {
            "images": np.stack(images),
            "masks": np.stack(masks),
            "mean": np.array([reader.mean[row] for row in needed]),
            "factor": np.array([1 / reader.std[row] for row in needed]),
            "validation": np.array([place[row] for row in subsets["validation"]]),
            "lesion": np.array([place[row] for row in training[has_lesion[training]]]),
            "empty": np.array([place[row] for row in training[~has_lesion[training]]]),
        }
        arrays |= {f"{dataset}/{name}": values for name, values in own.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, values)


def save_trip(prepared, folder):
    """Copy trip.py and the modules it needs, and save the slices of both data sets."""
    for name in MODULES:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for name in ("trip.py", "../torch_unet.py"):
        source = Path(__file__).parent / name
        shutil.copy(source, folder / source.name)
    save_data(prepared, folder / "data.npz")


def save_contest(prepared, folder):
    """Copy the program, and pack what training and validation read of the strokes; not the held-back."""
    command = ["git", "ls-files", "-z", "*.py", "*.yaml"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.rstrip("\0").split("\0"):
        if not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    rows = load_manifest(prepared, "atlas")
    subsets = rows_of(rows, load_split(prepared, "atlas", 0))
    own = rows.iloc[np.concatenate([subsets["training"], subsets["validation"]])]
    files = ["slices.csv", "splits.json", *sorted({*own.image, *own["mask"]})]
    with tarfile.open(folder / "prepared.tar.bz2", "w:bz2") as archive:
        for name in files:
            archive.add(prepared / name, Path("prepared", name))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--contest", action="store_true", help="for benchmarks/contenders")
    parser.add_argument("--wheels", nargs="*", default=[], help="what the machine lacks")
    parser.add_argument("--python", default="3.12", help="of the machine; default: 3.12")
    arguments = parser.parse_args()
    folder = arguments.folder
    (folder / "wheels").mkdir(parents=True, exist_ok=True)
    if arguments.contest:
        save_contest(arguments.prepared, folder)
    else:
        save_trip(arguments.prepared, folder)
    for wheel in arguments.wheels:
        platforms = [f"--platform=manylinux{p}_x86_64" for p in ("_2_28", "_2_17", "2014", "1")]
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            f"--python-version={arguments.python}",
            "--implementation=cp",
            *platforms,
            "-d",
            folder / "wheels",
            wheel,
        ]
        subprocess.run(command, check=True)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
    print(f"{folder}: {size:.1f} MiB")


if __name__ == "__main__":
    main()
