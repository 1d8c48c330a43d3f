"""Preparing scans: milliseconds a scan against unzipping alone, one core against two, 300 for real.

./run bench prep
.venv/bin/python -m benchmarks.prep --scans /data/ATLAS_2
"""

import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

from benchmarks.bench import (
    ROOT,
    SCANS,
    Contestant,
    arguments,
    brief,
    compare,
    find_or_make_scans,
    report,
    scratch,
    spread,
    times_ours,
)
from system.cores import CORES
from system.parallel import use_one_thread
from system.yaml_files import quoted

SYNTHETIC_SCANS, AT_LEAST = 10, 300
SCANS_A_TURN = 6
ALL_OF_ATLAS = 655


def list_scans(folder):
    from config import load_settings
    from scans.find import find_scans

    layout = load_settings().atlas
    return find_scans(folder, "atlas", layout.image_suffix, layout.mask_suffixes)[0]


def ours(folder, output):
    """Cut some scans in one process, from nothing, with one thread as in each process of prep.py."""
    from config import load_settings
    from scans.prepare import prepare_scan

    use_one_thread()
    settings = load_settings()
    scans = list_scans(folder)[:SCANS_A_TURN]

    def work():
        shutil.rmtree(output, ignore_errors=True)
        for scan in scans:
            prepare_scan(scan, output, None, settings.slices, settings.geometry)
        return {"scans": len(scans)}

    return work


def gunzip(folder):
    """Inflate the same files, image and mask, by zlib and do nothing with them."""
    scans = list_scans(folder)[:SCANS_A_TURN]
    gzip_format = 16 + zlib.MAX_WBITS

    def work():
        for scan in scans:
            for path in (scan.image, scan.masks[0]):
                zlib.decompress(path.read_bytes(), gzip_format)
        return {"scans": len(scans)}

    return work


def multiply(scans, folder, at_least):
    """Link the scans under names of other subjects until there are enough; no copies are made.

    The split keeps all links to one scan in one subset, as many people as there are scans to link.
    """
    originals = list_scans(scans)
    for number in range(-(-at_least // len(originals))):
        for i, scan in enumerate(originals):
            name = f"sub-r{number + 1:03}s{i + 1:03}"
            anat = folder / "Training" / f"R{number + 1:03}" / name / "ses-1" / "anat"
            anat.mkdir(parents=True)
            stem = f"{name}_ses-1_space-MNI152NLin2009aSym"
            (anat / f"{stem}_T1w.nii.gz").symlink_to(scan.image.resolve())
            (anat / f"{stem}_label-L_desc-T1lesion_mask.nii.gz").symlink_to(scan.masks[0].resolve())
    return (number + 1) * len(originals)


def whole_script(scans, output, cores):
    """Run prep.py itself on some cores, from nothing to slices.csv and splits.json."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    command = [
        sys.executable,
        "prep.py",
        "--set",
        f"paths.atlas={quoted(scans)}",
        "--set",
        "paths.brats17=/nowhere",
        "--set",
        f"paths.prepared={quoted(output)}",
        "--set",
        "split.folds=2",
    ]

    def work():
        shutil.rmtree(output, ignore_errors=True)
        subprocess.run(
            command,
            cwd=ROOT,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, allowed),
        )
        return {"scans": len(list(Path(output).glob("atlas/*.json")))}

    return work


def main():
    options = arguments(__doc__, 5, scans=SCANS)
    with scratch() as folder:
        scans = find_or_make_scans(options.scans, folder, SYNTHETIC_SCANS)
        single = compare(
            [
                Contestant("prep", ours, (scans, folder / "single")),
                Contestant("gunzip alone", gunzip, (scans,)),
            ],
            options.rounds,
        )
        many = folder / "many"
        count = multiply(scans, many, AT_LEAST)
        script = compare(
            [
                Contestant(
                    f"prep.py, {cores} cores",
                    whole_script,
                    (many, folder / f"on{cores}", cores),
                    warm_up=False,
                )
                for cores in sorted({CORES, 1}, reverse=True)
            ],
            2,
        )
    rows = []
    for name, turns in (single | script).items():
        rows.append(
            {
                "what": name,
                "scans": turns[0]["scans"],
                "CPU ms a scan": spread(1000 * s["cpu_s"] / s["scans"] for s in turns),
                "wall ms a scan": spread(1000 * s["wall_s"] / s["scans"] for s in turns),
            }
        )
    report("prep", rows, single | script, scans=options.scans, linked_to=count)
    ratio = times_ours(single["gunzip alone"], single["prep"])
    print(f"prep takes {ratio} times the CPU time of gunzip alone")
    on_all, *on_one = script.values()
    if on_one:
        print(f"{CORES} cores are {times_ours(on_all, on_one[0], 'wall_s')} times as fast as one")
    seconds = spread(s["wall_s"] / s["scans"] * ALL_OF_ATLAS for s in on_all).median
    print(f"{ALL_OF_ATLAS} scans would take {brief(seconds)} s on {CORES} cores")


if __name__ == "__main__":
    main()
