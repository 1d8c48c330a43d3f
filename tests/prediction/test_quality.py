"""Scans unlike those of training are told from the others, and what was marked in them is measured."""

import numpy as np
import pytest
from conftest import RAS, draw_head, write_nifti
from nibabel.affines import from_matvec

from prediction.quality import measure_lesions, unlike_training
from scans.volumes import load_volume


def warnings(folder, voxels, affine, training_scales=None):
    volume = load_volume(write_nifti(folder / "scan.nii", voxels, affine))
    scaled, mean, std = volume.scaled
    return unlike_training(volume, scaled, mean, std, training_scales), (mean, std)


@pytest.fixture(scope="module")
def whole_head():
    return draw_head(np.random.default_rng(0), (160, 190, 130), 0.4, background=5)[0]


def test_a_whole_head_of_1_mm_is_no_reason_to_warn(whole_head, tmp_path):
    found, scale = warnings(tmp_path, whole_head, RAS)
    assert found == []
    found, _ = warnings(tmp_path, whole_head, RAS, np.array([scale, scale]))
    assert found == []


def test_a_piece_of_a_head_thick_slices_and_other_intensities_are_warned_of(whole_head, tmp_path):
    (piece,), _ = warnings(tmp_path, whole_head[:, :, 40:70], RAS)
    assert piece.startswith("not a whole brain") and "30 mm" in piece
    thick_slices = from_matvec(np.diag([1, 1, 3]), (0, 0, 0))
    (thick,), (mean, std) = warnings(tmp_path, whole_head[:, :, ::3], thick_slices)
    assert "1×1×3 mm" in thick
    elsewhere = np.array([(mean + 60, std), (mean + 62, std)])
    (other,), _ = warnings(tmp_path, whole_head, RAS, elsewhere)
    assert "unusual intensities" in other
    (flat,), _ = warnings(tmp_path, np.round(whole_head / 200), RAS)
    assert "grey levels" in flat


def test_lesions_are_counted_and_measured_left_and_right_of_the_middle_of_the_head():
    scaled = np.zeros((30, 20, 10), np.uint8)
    scaled[4:25] = 200  # a head whose middle is plane 14, not that of the frame
    mask = np.zeros_like(scaled)
    mask[6:8, 5:10, 4] = 1  # 10 voxels on the left
    mask[20, 5:8, 4] = 1  # 3 on the right
    mask[14, 12:16, 4] = 1  # 4 in the very middle
    assert measure_lesions(mask, scaled, 200.0, voxel_ml=0.5) == {
        "lesions": 3,
        "volume_ml": 8.5,
        "largest_ml": 5.0,
        "left_ml": 6.0,
        "right_ml": 2.5,
    }


def test_a_mask_without_lesion_measures_nothing():
    scaled = np.full((30, 20, 10), 200, np.uint8)
    found = measure_lesions(np.zeros_like(scaled), scaled, 200.0, voxel_ml=0.5)
    assert set(found.values()) == {0}
