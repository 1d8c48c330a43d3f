"""The demo's scans have the promised layout, repeat exactly, and cannot be segmented by a band."""

import hashlib
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from synthetic import datasets, heads
from system.files import InputError


def scans(folder, image_ending, mask_ending):
    """Load the scans of a tree, in order of their names: list of (image, mask) of nibabel."""
    images = sorted(Path(folder).rglob(f"*{image_ending}.nii.gz"))
    return [
        (nib.load(path), nib.load(str(path).replace(image_ending, mask_ending))) for path in images
    ]


def digests(folder):
    """Name every scan file of a tree with the hash of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in Path(folder).rglob("*.nii.gz")
    }


def grey_counts(image, mask):
    """Count voxels per 8-bit grey level, in the whole scan and in the lesion: (2, 256)."""
    volume = np.asarray(image.dataobj, np.float32)
    low, high = np.percentile(volume[volume > 0], [0.5, 99.5])
    grey = (np.clip((volume - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    lesion = np.asarray(mask.dataobj) > 0
    return np.stack([np.bincount(g.ravel(), minlength=256) for g in (grey, grey[lesion])])


def band_dice(counts, low, high):
    """Dice of calling every voxel with a grey level in `low` to `high` lesion."""
    predicted, found = counts[:, low : high + 1].sum(axis=1)
    return 2 * found / (predicted + counts[1].sum())


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "atlas"
    datasets.make_atlas(folder, 2, seed=0, processes=1)
    return folder


@pytest.fixture(scope="module")
def brats17(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "brats17"
    datasets.make_brats17(folder, 2, seed=0, processes=1)
    return folder


def test_atlas_layout_is_that_of_the_release(atlas):
    name = "sub-r001s001_ses-1_space-MNI152NLin2009aSym"
    anat = atlas / "Training/R001/sub-r001s001/ses-1/anat"
    assert {path.name for path in anat.iterdir()} == {
        f"{name}_T1w.nii.gz",
        f"{name}_label-L_desc-T1lesion_mask.nii.gz",
    }
    assert len({path.name for path in (atlas / "Training").iterdir()}) == 2  # one site each


def test_atlas_scans_lie_on_the_template_grid(atlas):
    for image, mask in scans(atlas, "_T1w", "_label-L_desc-T1lesion_mask"):
        assert image.shape == mask.shape == (197, 233, 189)
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        np.testing.assert_array_equal(image.affine[:3, 3], [-98, -134, -72])
        np.testing.assert_array_equal(image.affine, mask.affine)
        assert set(np.unique(mask.dataobj)) == {0, 1}


def test_masks_have_the_volume_drawn_for_them(atlas):
    for index, (_, mask) in enumerate(scans(atlas, "_T1w", "_label-L_desc-T1lesion_mask")):
        volume_ml = np.asarray(mask.dataobj).sum() / 1000
        assert 0.1 <= volume_ml <= 200
        assert volume_ml == pytest.approx(datasets.lesion_volume_ml(index, seed=0), rel=0.1)


def test_lesion_volumes_of_a_small_set_have_the_promised_median():
    volumes_ml = [datasets.lesion_volume_ml(index, seed=3) for index in range(30)]
    assert 5 < np.median(volumes_ml) < 7
    assert min(volumes_ml) < 1
    assert max(volumes_ml) > 50


def test_lesions_are_darker_than_the_white_matter(atlas):
    for image, mask in scans(atlas, "_T1w", "_label-L_desc-T1lesion_mask"):
        volume, lesion = np.asarray(image.dataobj), np.asarray(mask.dataobj) > 0
        assert np.median(volume[lesion]) < 0.8 * np.percentile(volume[volume > 0], 85)


def test_no_band_of_grey_levels_finds_the_lesions(atlas):
    known, unseen = [
        grey_counts(*scan) for scan in scans(atlas, "_T1w", "_label-L_desc-T1lesion_mask")
    ]
    bands = [(low, high) for low in range(1, 256, 3) for high in range(low, 256, 3)]
    best = max(bands, key=lambda band: band_dice(known, *band))
    assert band_dice(unseen, *best) < 0.25


def test_brats17_scans_have_its_grid_and_labels(brats17):
    assert sorted(str(path.relative_to(brats17)) for path in brats17.glob("*/*")) == [
        "HGG/Brats17_2013_1_1",
        "HGG/Brats17_CBICA_AAB_1",
    ]
    for image, labels in scans(brats17, "_t1", "_seg"):
        assert image.shape == labels.shape == (240, 240, 155)
        np.testing.assert_array_equal(image.affine, datasets.BRATS_AFFINE)
        np.testing.assert_array_equal(labels.affine, datasets.BRATS_AFFINE)
        assert set(np.unique(labels.dataobj)) == {0, 1, 2, 4}
        assert image.get_data_dtype() == np.int16
        assert (np.asarray(image.dataobj)[labels.get_fdata() > 0] > 0).mean() > 0.99
        assert 0.7 < (np.asarray(image.dataobj) == 0).mean() < 0.9  # air is exactly 0
        assert 15 <= (labels.get_fdata() > 0).sum() / 1000 <= 150


def test_both_sets_look_the_same_way_in_ras(atlas, brats17):
    """Both brains are the template's: in RAS a scan fits it better than its 180 degree turn."""
    template = heads.head()
    brain = template[..., 1] < 0
    for image, _ in scans(brats17, "_t1", "_seg"):
        stripped = np.asarray(nib.as_closest_canonical(image).dataobj) > 0
        stripped = stripped[21:218, 3:236]  # the template's 197 x 233 in the middle of 240 x 240
        upright = (stripped & brain[..., :155]).sum()
        turned = (stripped[::-1, ::-1] & brain[..., :155]).sum()
        upside_down = (stripped[..., ::-1] & brain[..., :155]).sum()
        assert upright > 0.9 * stripped.sum()
        assert upright > 1.02 * max(turned, upside_down)


def test_same_seed_gives_identical_scans_whatever_their_number(atlas, tmp_path):
    datasets.make_atlas(tmp_path / "one", 1, seed=0, processes=1)
    (name, digest), *_ = sorted(digests(tmp_path / "one").items())
    assert digests(atlas)[name] == digest


def test_another_seed_gives_other_scans(atlas, tmp_path):
    datasets.make_atlas(tmp_path / "one", 1, seed=1, processes=1)
    other = digests(tmp_path / "one")
    assert all(digests(atlas)[name] != digest for name, digest in other.items())


def test_finished_subjects_are_skipped_and_others_restored(atlas):
    before = digests(atlas)
    first, second = sorted(atlas.rglob("*_T1w.nii.gz"))
    untouched = first.stat().st_mtime_ns
    second.unlink()
    datasets.make_atlas(atlas, 2, seed=0, processes=1)
    assert digests(atlas) == before
    assert first.stat().st_mtime_ns == untouched


def test_scans_of_others_are_never_mixed_with(atlas, tmp_path):
    with pytest.raises(InputError, match="seed 5"):
        datasets.make_atlas(atlas, 1, seed=5, processes=1)
    (tmp_path / "sub-real_T1w.nii.gz").touch()
    with pytest.raises(InputError):
        datasets.make_atlas(tmp_path, 1, seed=0, processes=1)
