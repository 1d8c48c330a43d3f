"""Scans unlike those of training are told from the others, and what was marked in them is measured."""

import re
from dataclasses import replace

import numpy as np
import pytest
from conftest import RAS, draw_head, write_nifti
from nibabel.affines import from_matvec
from scipy.ndimage import gaussian_filter

from prediction.quality import (
    certainty,
    describe_lesions,
    measure_lesions,
    reaches_edge,
    read_intensities,
    unlike_training,
)
from scans.alignment import Alignment
from scans.geometry import Seen
from scans.template import AFFINE, SHAPE
from scans.volumes import Volume, load_volume
from system.files import InputError


def warnings(folder, voxels, affine, intensities=None):
    volume = load_volume(write_nifti(folder / "scan.nii", voxels, affine))
    _, mean, std = volume.scaled
    return unlike_training(Seen(volume, volume, None), intensities), (mean, std)


def seen_of(voxels, mean, spacing_mm):
    """A scan on its own grid, whose 8-bit image and mean are given."""
    volume = Volume(voxels, from_matvec(np.diag(spacing_mm)), None)
    volume.__dict__["scaled"] = voxels, mean, 1.0
    return Seen(volume, volume, None)


def intensities_about(mean, std):
    return {"mean": {"mean": mean, "std": 1.0}, "std": {"mean": std, "std": 1.0}}


@pytest.fixture(scope="module")
def whole_head():
    return draw_head(np.random.default_rng(0), (160, 190, 130), 0.4, background=5)[0]


def test_a_whole_head_of_1_mm_is_no_reason_to_warn(whole_head, tmp_path):
    found, scale = warnings(tmp_path, whole_head, RAS)
    assert found == []
    found, _ = warnings(tmp_path, whole_head, RAS, intensities_about(*scale))
    assert found == []


def test_a_piece_of_a_head_thick_slices_and_other_intensities_are_warned_of(whole_head, tmp_path):
    (piece,), _ = warnings(tmp_path, whole_head[:, :, 40:70], RAS)
    assert piece.startswith("not a whole brain") and "30 mm" in piece
    thick_slices = from_matvec(np.diag([1, 1, 3]), (0, 0, 0))
    (thick,), (mean, std) = warnings(tmp_path, whole_head[:, :, ::3], thick_slices)
    assert "1×1×3 mm" in thick
    elsewhere = intensities_about(mean + 60, std)
    (other,), _ = warnings(tmp_path, whole_head, RAS, elsewhere)
    assert "unusual intensities" in other
    (flat,), _ = warnings(tmp_path, np.round(whole_head / 200), RAS)
    assert "grey levels" in flat


def test_an_aligned_scan_is_judged_as_the_scanner_gave_it(tmp_path):
    voxels = np.random.default_rng(0).integers(0, 9, (50, 60, 20)).astype(np.uint8)
    scan = load_volume(write_nifti(tmp_path / "scan.nii", voxels, np.diag([3, 3, 6, 1.0])))
    smooth = Volume(gaussian_filter(voxels.astype(np.float32), 2), np.eye(4), None)
    seen = Seen(scan, smooth, Alignment(np.eye(4), 0.2, 1.0, ("its edges agree by 0.20",)))
    doubt, coarse, levels = unlike_training(seen, None)
    assert doubt == "alignment is doubtful: its edges agree by 0.20"
    assert coarse.startswith("voxels of 3×3×6 mm")
    assert levels.startswith("only 9 grey levels")
    fine = Volume(scan.voxels, np.diag([0.5, 0.5, 2, 1.0]), None)
    assert len(unlike_training(replace(seen, scan=fine), None)) == 2


def test_without_a_record_there_are_none_and_a_broken_one_is_named(tmp_path):
    weights, record = tmp_path / "best.weights.h5", tmp_path / "run.json"
    assert read_intensities(weights) is None
    record.write_text('{"stage": "train"}')
    assert read_intensities(weights) is None
    for broken in ("[]", '{"intensities": 3}', '{"intensities": {"mean": {"mean": "x"}}}'):
        record.write_text(broken)
        with pytest.raises(InputError, match=re.escape(str(record))):
            read_intensities(weights)


def test_lesions_are_counted_and_measured_left_and_right_of_the_middle_of_the_head():
    scaled = np.zeros((30, 20, 10), np.uint8)
    scaled[4:25] = 200  # a head whose middle is plane 14, not that of the frame
    mask = np.zeros_like(scaled)
    mask[6:8, 5:10, 4] = 1  # 10 voxels on the left
    mask[20, 5:8, 4] = 1  # 3 on the right
    mask[14, 12:16, 4] = 1  # 4 in the very middle
    assert measure_lesions(mask, seen_of(scaled, 200.0, (10, 10, 5))) == {
        "lesions": 3,
        "volume_ml": 8.5,
        "largest_ml": 5.0,
        "left_ml": 6.0,
        "right_ml": 2.5,
    }


def test_a_mask_without_lesion_measures_nothing():
    scaled = np.full((30, 20, 10), 200, np.uint8)
    found = measure_lesions(np.zeros_like(scaled), seen_of(scaled, 200.0, (10, 10, 5)))
    assert set(found.values()) == {0}


def test_lesions_are_described_by_side_and_place_in_mni_space():
    mask = np.zeros(SHAPE, np.uint8)
    mask[120:124, 100:110, 90:100] = 1  # 400 voxels on the right
    mask[60:64, 50:52, 30:33] = 1  # 24 on the left
    mask[96:101, 150:154, 80:90] = 1  # 200 across the middle
    volume = Volume(mask, AFFINE, None)
    right, middle, left = describe_lesions(mask, Seen(volume, volume, None))
    assert [row["side"] for row in (right, middle, left)] == ["right", "both", "left"]
    assert [row["volume_ml"] for row in (right, middle, left)] == [0.4, 0.2, 0.024]
    assert (right["x_mm"], right["y_mm"], right["z_mm"]) == (23.5, -29.5, 22.5)
    elsewhere = Volume(mask[:-1], np.diag([2, 2, 2, 1.0]), None)
    unknown = describe_lesions(elsewhere.voxels, Seen(elsewhere, elsewhere, None))[0]
    assert unknown == {"volume_ml": 3.2, "side": None, "x_mm": None, "y_mm": None, "z_mm": None}
    assert describe_lesions(mask * 0, Seen(volume, volume, None)) == []


def test_both_tables_say_the_same_side_of_a_scan_on_the_template():
    """However the head lies in its frame: this one is dark on its right."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[91:95, 100:110, 90:100] = 1  # left of x = 0, which is plane 98
    scaled = np.zeros(SHAPE, np.uint8)
    scaled[20:160] = 200
    volume = Volume(scaled, AFFINE, None)
    seen = Seen(volume, volume, None)
    (lesion,) = describe_lesions(mask, seen)
    found = measure_lesions(mask, seen)
    assert lesion["side"] == "left"
    assert (found["left_ml"], found["right_ml"]) == (0.4, 0)


def test_certainty_is_of_what_is_marked_or_of_nothing():
    probability = np.zeros((4, 5, 6), np.float32)
    probability[1, 2, 3:5] = 0.6, 0.9
    mask = (probability > 0.5).astype(np.uint8)
    assert certainty(probability, mask) == pytest.approx(0.75)
    assert certainty(probability / 10, mask * 0) == pytest.approx(0.91)


@pytest.mark.parametrize("place", [(0, 2, 3), (3, 2, 3), (1, 4, 3), (1, 2, 0), (1, 2, 5)])
def test_a_lesion_at_the_edge_is_told(place):
    mask = np.zeros((4, 5, 6), np.uint8)
    mask[1:3, 1:4, 1:5] = 1
    assert not reaches_edge(mask)
    mask[place] = 1
    assert reaches_edge(mask)
