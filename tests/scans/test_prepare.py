"""Prepared slices hold what the scans hold, in either format, and are redone when they must be."""

from dataclasses import replace
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pandas
import pytest
from conftest import ATLAS_SHAPE, RAS, SKIP, draw_head, refused, write_nifti

from config import Geometry, Slices, load_settings
from scans import prepare
from scans.find import Scan
from scans.manifest import load_manifest
from scans.reader import SliceReader
from scans.template import AFFINE, brain_and_margin
from scans.volumes import load_volume, volume_to_slices

OPTIONS = {"labels": None, "size": 32, "skip": SKIP, "format": "npy"}
OWN_GRID = Geometry(align="none", brain="keep")


def prepare_scan(scan, folder, labels, **slices):
    return prepare.prepare_scan(
        scan, folder, labels, Slices(empty_per_lesion=1.0, **slices), OWN_GRID
    )


def write_scan(folder, seed=0, session="1", affine=RAS):
    image, depth = draw_head(np.random.default_rng(seed), ATLAS_SHAPE, 0.4, background=5)
    return Scan(
        "atlas",
        "sub-1",
        session,
        "R001",
        write_nifti(folder / f"sub-1_ses-{session}_T1w.nii", image, affine),
        (
            write_nifti(
                folder / f"sub-1_ses-{session}_mask.nii", (depth < 1).astype(np.uint8), affine
            ),
        ),
    )


def read_all(folder, facts):
    rows = pandas.DataFrame(facts["slices"])
    reader = SliceReader(folder, rows)
    return map(np.stack, zip(*(reader.read(row) for row in range(len(reader))), strict=True))


def changed_files(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*") if path.is_file()}


@pytest.fixture(scope="module", params=["atlas", "brats17"])
def rows(request, prepared):
    return load_manifest(prepared, request.param)


def test_masks_are_binary_and_have_the_pixels_the_manifest_says(prepared, rows):
    reader = SliceReader(prepared, rows)
    assert len(reader) == len(rows) > 90
    for row, pixels in enumerate(rows.lesion_pixels):
        image, mask = reader.read(row)
        assert image.shape == mask.shape == (32, 32)
        assert image.dtype == mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 1}
        assert mask.sum() == pixels


def test_no_lesion_voxel_is_lost_or_added(tiny_trees, prepared, rows):
    ending = {"atlas": "_mask.nii.gz", "brats17": "_seg.nii*"}[rows.dataset[0]]
    counts = [
        np.count_nonzero(np.asarray(nibabel.load(path).dataobj)[:, :, SKIP:-SKIP])
        for path in getattr(tiny_trees, rows.dataset[0]).rglob(f"[!.]*{ending}")
    ]
    found = rows.groupby(["subject", "session"]).lesion_pixels.sum()
    assert sorted(counts) == sorted(found)


def test_both_data_sets_have_the_same_intensity_scale(prepared, rows):
    reader = SliceReader(prepared, rows)
    for _, scan in rows.groupby(["subject", "session"]):
        images = np.stack([reader.read(row)[0] for row in scan.index])
        standard = reader.standardise(scan.index[0], images)[images > 0]
        assert images.max() == 255
        assert abs(standard.mean()) < 0.25
        assert abs(standard.std() - 1) < 0.25


@pytest.mark.parametrize("format", ["npy", "png"])
def test_slices_come_back_exactly(tmp_path, format):
    scan = write_scan(tmp_path)
    facts = prepare_scan(scan, tmp_path / "out", **OPTIONS | {"format": format})
    scaled, _, _ = load_volume(scan.image).scaled
    lesion = np.asarray(nibabel.load(scan.masks[0]).dataobj)
    for found, whole in zip(read_all(tmp_path / "out", facts), (scaled, lesion), strict=True):
        np.testing.assert_array_equal(found, volume_to_slices(whole, 32)[SKIP:-SKIP])
    assert lesion.sum() > 50


def test_pictures_are_named_by_their_height_and_show_the_mask(tmp_path):
    facts = prepare_scan(write_scan(tmp_path), tmp_path, **OPTIONS | {"format": "png"})
    for row in facts["slices"]:
        assert row["image"] == f"atlas/images/sub-1_1/z{row['z']:03}.png"
        picture = cv2.imread(str(tmp_path / row["mask"]), cv2.IMREAD_UNCHANGED)
        assert np.count_nonzero(picture == 255) == np.count_nonzero(picture) == row["lesion_pixels"]


def test_the_facts_tell_the_lesion_volume(tmp_path):
    scan = write_scan(tmp_path, affine=RAS * (2, 1, 1, 1))
    lesion = np.asarray(nibabel.load(scan.masks[0]).dataobj)
    facts = prepare_scan(scan, tmp_path / "out", **OPTIONS | {"skip": 6})
    assert facts["voxel_mm"] == [2, 1, 1]
    assert facts["lesion_ml"] == pytest.approx(lesion.sum() * 2 / 1000)
    outside = lesion.sum() - lesion[:, :, 6:-6].sum()
    assert outside > 0
    assert facts["lesion_outside_ml"] == pytest.approx(outside * 2 / 1000)


@pytest.mark.parametrize("place", ["in the brain", "in the skull", "both"])
def test_lesion_that_the_brain_mask_hides_is_counted_and_warned_of(tmp_path, place):
    brain = brain_and_margin()
    image = np.full(brain.shape, 100, np.float32)
    lesion = np.zeros(brain.shape, np.uint8)
    if place != "in the skull":
        lesion[95:105, 110:120, 90:100] = 1
    if place != "in the brain":
        lesion[:4, :5, 90:100] = 1
    image[lesion > 0] = 60
    files = [tmp_path / "sub-1_T1w.nii", tmp_path / "sub-1_mask.nii"]
    for file, voxels in zip(files, (image, lesion), strict=True):
        write_nifti(file, voxels, AFFINE)
    scan = Scan("atlas", "sub-1", "1", "R001", files[0], (files[1],))
    slices = Slices(empty_per_lesion=1.0, size=240, skip=50)
    facts = prepare.prepare_scan(scan, tmp_path / "out", None, slices, load_settings().geometry)
    assert facts["lesion_hidden_ml"] == {"in the brain": 0}.get(place, 0.2)
    told = [warning for warning in facts["warnings"] if "nothing of the lesion" in warning]
    assert bool(told) == (place == "in the skull")


def test_a_name_that_the_manifest_could_not_hold_costs_that_scan(tmp_path):
    scan = replace(write_scan(tmp_path), subject="a\\b")
    with refused(scan.image, "has a backslash", "rename it"):
        prepare_scan(scan, tmp_path / "out", **OPTIONS)


def test_a_mended_mask_makes_other_data_of_the_same_scan(tmp_path):
    scan = write_scan(tmp_path)
    before = prepare_scan(scan, tmp_path / "out", **OPTIONS)["slices"][0]
    lesion = nibabel.load(scan.masks[0])
    mirrored = np.asarray(lesion.dataobj)[::-1].copy()
    write_nifti(scan.masks[0], mirrored, lesion.affine)
    after = prepare_scan(scan, tmp_path / "out", **OPTIONS)["slices"][0]
    assert after["content"] == before["content"]
    assert after["mask_content"] != before["mask_content"]


def test_a_finished_scan_is_not_done_again(tmp_path):
    scan = write_scan(tmp_path)
    facts = prepare_scan(scan, tmp_path / "out", **OPTIONS)
    before = changed_files(tmp_path / "out")
    assert prepare_scan(scan, tmp_path / "out", **OPTIONS) == facts
    assert changed_files(tmp_path / "out") == before
    assert len(before) == 3


@pytest.mark.parametrize(
    "change", [{"size": 48}, {"skip": 3}, {"format": "png"}, {"labels": [1]}, "image", "mask"]
)
def test_a_scan_is_done_again_when_a_setting_or_its_file_changes(tmp_path, change):
    scan = write_scan(tmp_path)
    prepare_scan(scan, tmp_path / "out", **OPTIONS)
    before = changed_files(tmp_path / "out")
    if isinstance(change, str):
        other = write_scan(tmp_path / "other", seed=1)
        new, old = ((own.image, *own.masks)[change == "mask"] for own in (other, scan))
        new.replace(old)
        change = {}
    facts = prepare_scan(scan, tmp_path / "out", **OPTIONS | change)
    fresh = prepare_scan(scan, tmp_path / "fresh", **OPTIONS | change)
    assert facts == fresh
    for found, expected in zip(
        read_all(tmp_path / "out", facts), read_all(tmp_path / "fresh", fresh), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    after = changed_files(tmp_path / "out")
    assert all(after[path] > before[path] for path in before if path.suffix == ".json")


@pytest.mark.parametrize("content", ['{"EchoTime": 0.003}', "[1]", "no json"])
def test_a_sidecar_of_the_user_that_has_the_name_of_ours_stays(tmp_path, content):
    scan = write_scan(tmp_path / "atlas")
    sidecar = tmp_path / "atlas" / f"{scan.name}.json"
    sidecar.write_text(content)
    with refused(sidecar, "choose another paths.prepared"):
        prepare_scan(scan, tmp_path, **OPTIONS)
    assert sidecar.read_text() == content


def test_the_lesion_is_the_union_of_several_masks(tmp_path):
    scan = write_scan(tmp_path)
    lesion = np.asarray(nibabel.load(scan.masks[0]).dataobj)
    second = np.zeros_like(lesion)
    second[10:13, 10:13, 6:9] = 1
    both = (*scan.masks, write_nifti(tmp_path / "second.nii", second, RAS))
    facts = prepare_scan(replace(scan, masks=both), tmp_path / "out", **OPTIONS)
    assert facts["lesion_ml"] == np.count_nonzero(lesion | second) / 1000 > lesion.sum() / 1000


def test_a_change_that_was_stopped_halfway_is_not_taken_for_done(tmp_path, monkeypatch):
    """The slices of other settings lie there already, without the json that calls them whole."""

    def stop(*_):
        raise KeyboardInterrupt

    scan = write_scan(tmp_path)
    prepare_scan(scan, tmp_path, **OPTIONS)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("scans.prepare.save_json", stop)
        prepare_scan(scan, tmp_path, **OPTIONS | {"size": 48})
    images, _ = read_all(tmp_path, prepare_scan(scan, tmp_path, **OPTIONS))
    assert images.shape[1:] == (32, 32)


def test_sessions_do_not_overwrite_each_other(tmp_path):
    scans = [write_scan(tmp_path, seed=number, session=str(number)) for number in (1, 2)]
    facts = [prepare_scan(scan, tmp_path / "out", **OPTIONS) for scan in scans]
    assert len(changed_files(tmp_path / "out")) == 6
    for scan, fact in zip(scans, facts, strict=True):
        _, masks = read_all(tmp_path / "out", fact)
        lesion = np.asarray(nibabel.load(scan.masks[0]).dataobj)[:, :, SKIP:-SKIP]
        np.testing.assert_array_equal(masks.sum(axis=(1, 2)), lesion.sum(axis=(0, 1)))


def test_the_same_scan_under_two_names_is_recognised(tmp_path):
    scan = write_scan(tmp_path)
    twin = replace(scan, subject="sub-2")
    contents = {
        prepare_scan(s, tmp_path / "out", **OPTIONS)["slices"][0]["content"] for s in (scan, twin)
    }
    assert len(contents) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"skip": 8}, "slices.skip leaves out 16"), ({"size": 16}, "set slices.size to 128")],
)
def test_a_scan_that_does_not_fit_the_settings_is_refused(tmp_path, change, reason):
    scan = write_scan(tmp_path)
    with refused(reason):
        prepare_scan(scan, tmp_path / "out", **OPTIONS | change)
    assert not (tmp_path / "out").exists()


# --- masks that are none, and thick slices ---


def test_a_mask_that_cannot_be_that_of_a_lesion_is_refused(tmp_path):
    scan = write_scan(tmp_path)
    lesion = np.array(nibabel.load(scan.masks[0]).dataobj)
    write_nifti(scan.masks[0], 1 - lesion, RAS)
    with refused(scan.masks[0], "covers more than half of the head"):
        prepare_scan(scan, tmp_path / "out", **OPTIONS)
    image = np.array(nibabel.load(scan.image).dataobj)
    image[lesion > 0] = 0
    write_nifti(scan.image, image, RAS)
    write_nifti(scan.masks[0], lesion, RAS)
    with refused(scan.masks[0], "lies mostly where the image is 0"):
        prepare_scan(scan, tmp_path / "out", **OPTIONS)


def test_a_very_large_lesion_is_warned_of(tmp_path):
    # Voxels of 11 mm make 1331 times the lesion's volume.
    scan = write_scan(tmp_path, affine=RAS @ np.diag([11, 11, 11, 1]))
    facts = prepare_scan(scan, tmp_path / "out", **OPTIONS)
    assert facts["lesion_ml"] > 600
    assert facts["warnings"] == ["a lesion of more than 600 ml"]
    assert prepare_scan(write_scan(tmp_path / "b"), tmp_path / "c", **OPTIONS)["warnings"] == []


@pytest.mark.parametrize(("mm", "left_out"), [(5, 1), (2, 2), (0.5, 6)])
def test_the_same_height_is_left_out_of_thick_and_of_thin_slices(tmp_path, mm, left_out):
    scan = write_scan(tmp_path, affine=RAS @ np.diag([1, 1, mm, 1]))
    facts = prepare_scan(scan, tmp_path / "out", **OPTIONS | {"skip": 3})
    places = [row["z"] for row in facts["slices"]]
    assert places == list(range(left_out, ATLAS_SHAPE[2] - left_out))
    assert facts["left_out"] == left_out
