"""Slices come back exactly as they are stored, alone or with their neighbours, in either format."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas
import pytest
from conftest import refused

from scans.reader import SliceReader

SIDE = 32


@pytest.fixture(params=["npy", "png"])
def stored(request, tmp_path):
    """Rows of two scans of six slices in `tmp_path`, and their images and masks in that order."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 6, SIDE, SIDE), np.uint8)
    masks = rng.integers(0, 2, (2, 6, SIDE, SIDE), np.uint8)
    rows = []
    for session in (0, 1):
        files = {}
        for kind, stack in (("image", images[session]), ("mask", masks[session])):
            stem = f"{session}_{kind}"
            if request.param == "npy":
                np.save(tmp_path / f"{stem}.npy", stack)
                files[kind] = [f"{stem}.npy"] * 6
            else:
                files[kind] = [f"{stem}_{i}.png" for i in range(6)]
                for name, picture in zip(files[kind], stack, strict=True):
                    # Pictures show their mask: 0 and 255.
                    factor = 255 if kind == "mask" else 1
                    cv2.imwrite(str(tmp_path / name), picture * factor)
        rows += [
            {
                "dataset": "atlas",
                "subject": "sub-1",
                "session": str(session),
                "z": 2 + i,
                "image": files["image"][i],
                "mask": files["mask"][i],
                "position": i if request.param == "npy" else 0,
                "mean": 100.0 + session,
                "std": 40.0 + session,
            }
            for i in range(6)
        ]
    return pandas.DataFrame(rows), images.reshape(-1, SIDE, SIDE), masks.reshape(-1, SIDE, SIDE)


def test_image_and_mask_come_back_exactly_in_any_order(stored, tmp_path):
    rows, images, masks = stored
    reader = SliceReader(tmp_path, rows)
    assert len(reader) == 12
    for row in np.random.default_rng(0).permutation(12):
        image, mask = reader.read(row)
        assert image.dtype == mask.dtype == np.uint8
        np.testing.assert_array_equal(image, images[row])
        np.testing.assert_array_equal(mask, masks[row])


def test_each_slice_is_standardised_by_the_numbers_of_its_scan(stored, tmp_path):
    rows, images, _ = stored
    reader = SliceReader(tmp_path, rows)
    for row, (mean, std) in ((0, (100, 40)), (11, (101, 41))):
        standard = reader.standardise(row, images[row])
        assert standard.dtype == np.float32
        np.testing.assert_allclose(
            standard, (images[row] - float(mean)) / std, rtol=1e-5, atol=1e-6
        )
        assert reader.scale(row) == (mean, 1 / std)


@pytest.mark.parametrize("content", [None, b"", b"\x93NUMPY broken"])
def test_slices_that_cannot_be_read_are_named(stored, tmp_path, content):
    rows, *_ = stored
    path = tmp_path / rows.image[0]
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with refused(path, "run prep.py again"):
        SliceReader(tmp_path, rows).read(0)


def test_neighbours_are_the_slices_below_and_above_of_the_same_scan(stored, tmp_path):
    rows, *_ = stored
    # A slice is missing from the second scan.
    rows = rows.drop(index=len(rows) - 4).reset_index(drop=True)
    reader = SliceReader(tmp_path, rows, neighbours=2)
    assert reader.channels == 5
    heights = rows.groupby("session").z.agg(list)
    for row, (session, z) in enumerate(zip(rows.session, rows.z, strict=True)):
        image, mask = reader.read_channels(row)
        assert image.shape == (SIDE, SIDE, 5)
        np.testing.assert_array_equal(mask, reader.read(row)[1])
        for channel, away in enumerate((-2, -1, 0, 1, 2)):
            wanted = z
            for _ in range(abs(away)):
                if wanted + np.sign(away) in heights[session]:
                    wanted += np.sign(away)
                else:
                    break
            other = rows.index[(rows.session == session) & (rows.z == wanted)][0]
            np.testing.assert_array_equal(image[..., channel], reader.read(other)[0])


def many_stacks(folder, count):
    rows = []
    for number in range(count):
        files = {}
        for kind in ("image", "mask"):
            files[kind] = f"{number}_{kind}.npy"
            np.save(folder / files[kind], np.full((1, 2, 2), number % 2, np.uint8))
        whose = {"dataset": "atlas", "subject": f"s{number}", "session": ""}
        rows.append(whose | files | {"z": 0, "position": 0, "mean": 0.0, "std": 1.0})
    return pandas.DataFrame(rows)


READ_ALL = """
import resource, sys
import pandas
from scans.reader import SliceReader
from system.console import run_script

folder, allowed = sys.argv[1:]
rows = pandas.read_csv(f"{folder}/slices.csv", keep_default_na=False)

def main():
    # As on a system that allows few open files at first.
    resource.setrlimit(resource.RLIMIT_NOFILE, (90, int(allowed)))
    reader = SliceReader(folder, rows)
    print(*(reader.read(row)[0].max() for row in range(len(rows))))

run_script(main)
"""


@pytest.mark.parametrize("allowed", [2048, 170, 90])
def test_more_stacks_than_files_may_be_open_are_read_or_refused_at_once(tmp_path, allowed):
    many_stacks(tmp_path, 50).to_csv(tmp_path / "slices.csv", index=False)
    found = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(tmp_path), str(allowed)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    if allowed > 100:
        assert found.returncode == 0, found.stderr
        assert found.stdout.split() == [str(number % 2) for number in range(50)]
    else:
        assert found.returncode == 2
        assert "100 files are to be open at once" in found.stderr
        assert "the system allows 90" in found.stderr
        assert "ulimit -n" in found.stderr and "Traceback" not in found.stderr
