"""Scans are found and told apart, however deep they lie and whatever lies beside them."""

from pathlib import Path

import pytest

from config import load_settings
from scans.find import find_scans, identify, scan_name

ATLAS = ("atlas", "_T1w", "_label-L_desc-T1lesion_mask")
BRATS = ("brats17", "_t1", "_seg")


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (
            "Training/R001/sub-r001s002/ses-2/anat/sub-r001s002_ses-2_space-MNI_T1w.nii.gz",
            ("sub-r001s002", "2", "R001"),
        ),
        ("sub-r027s010_ses-1_T1w.nii", ("sub-r027s010", "1", "R027")),
        ("sub-03/anat/sub-03_T1w.nii.gz", ("sub-03", "", "unknown")),
        ("sub-03/ses-b/anat/T1w.nii.gz", ("sub-03", "b", "unknown")),
        ("R009/sub-x_T1w.nii.gz", ("sub-x", "", "R009")),
        (
            "HGG/Brats17_CBICA_AAB_1/Brats17_CBICA_AAB_1_t1.nii.gz",
            ("Brats17_CBICA_AAB", "1", "CBICA"),
        ),
        ("Brats17_2013_10_2_t1ce.nii", ("Brats17_2013_10", "2", "2013")),
        ("patient.7_t1.nii.gz", ("patient.7_t1", "", "unknown")),
    ],
)
def test_subject_session_and_site_are_read_from_the_path(path, found):
    assert identify(Path(path)) == found


@pytest.mark.parametrize("below", ["", "zip/ATLAS_2/Training"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_scans_are_found_however_deep_and_zipped_or_not(tmp_path, below, ending):
    folder = tmp_path / below
    touch(folder, *(f"sub-1_{s}{ending}" for s in ("T1w", "label-L_desc-T1lesion_mask", "T2w")))
    (scan,), problems = find_scans(tmp_path, *ATLAS)
    assert problems == []
    assert (scan.dataset, scan.name) == ("atlas", "sub-1")
    assert scan.image == folder / f"sub-1_T1w{ending}"
    assert scan.mask == folder / f"sub-1_label-L_desc-T1lesion_mask{ending}"


def test_all_scans_of_the_trees_are_found_and_no_hidden_file(tiny_trees):
    settings = load_settings()
    for dataset, subjects, scans in (("atlas", 8, 9), ("brats17", 8, 8)):
        layout = getattr(settings, dataset)
        found, problems = find_scans(
            getattr(tiny_trees, dataset), dataset, layout.image_suffix, layout.mask_suffix
        )
        assert problems == []
        assert [scan.image for scan in found] == sorted(scan.image for scan in found)
        assert len({scan.name for scan in found}) == len(found) == scans
        assert len({scan.subject for scan in found}) == subjects
        assert len({scan.site for scan in found}) == 3


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    touch(
        tmp_path,
        "a_t1.nii",
        "a_seg.nii",
        "._a_t1.nii",
        "._a_seg.nii",
        ".x/b_t1.nii",
        ".x/b_seg.nii",
    )
    scans, problems = find_scans(tmp_path, *BRATS)
    assert ([scan.image.name for scan in scans], problems) == (["a_t1.nii"], [])


def test_a_hidden_folder_above_the_data_set_does_no_harm(tmp_path):
    touch(tmp_path / ".cache", "a_t1.nii", "a_seg.nii")
    assert len(find_scans(tmp_path / ".cache", *BRATS)[0]) == 1


def test_other_modalities_are_not_taken_for_the_image(tmp_path):
    name = "HGG/Brats17_CBICA_AAB_1/Brats17_CBICA_AAB_1"
    touch(tmp_path, *(f"{name}_{kind}.nii.gz" for kind in ("t1", "t1ce", "t2", "flair", "seg")))
    (scan,), _ = find_scans(tmp_path, *BRATS)
    assert scan.image.name == "Brats17_CBICA_AAB_1_t1.nii.gz"


def test_a_folder_named_like_a_scan_is_not_taken_for_one(tmp_path):
    touch(tmp_path, "a_t1.nii/a_t1.nii", "a_seg.nii/a_seg.nii")
    (scan,), problems = find_scans(tmp_path, *BRATS)
    assert (scan.image, problems) == (tmp_path / "a_t1.nii/a_t1.nii", [])


def test_a_mask_may_lie_in_another_folder(tmp_path):
    touch(tmp_path, "raw/a_t1.nii", "derivatives/a_seg.nii")
    (scan,), _ = find_scans(tmp_path, *BRATS)
    assert scan.mask == tmp_path / "derivatives/a_seg.nii"


def test_the_mask_beside_the_image_is_preferred(tmp_path):
    touch(tmp_path, "a/x_t1.nii", "a/x_seg.nii", "b/x_seg.nii")
    (scan,), problems = find_scans(tmp_path, *BRATS)
    assert (scan.mask.parent, problems) == (tmp_path / "a", [])


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ([], "its mask b_seg.nii.gz is missing"),
        (["x/b_seg.nii", "y/b_seg.nii"], "its mask b_seg.nii.gz is found 2 times"),
        (["b_seg.nii", "other/b_t1.nii", "other/b_seg.nii"], "same subject and session as"),
    ],
)
def test_an_image_without_its_one_mask_is_a_problem_of_its_own(tmp_path, others, reason):
    touch(tmp_path, "a_t1.nii", "a_seg.nii", "b_t1.nii", *others)
    scans, ((file, why),) = find_scans(tmp_path, *BRATS)
    assert "a" in {scan.image.name[0] for scan in scans}
    assert Path(file).name == "b_t1.nii"
    assert why.startswith(reason)


def test_the_sessions_of_a_subject_have_names_of_their_own():
    assert scan_name("sub-1", "1") == "sub-1_1" != scan_name("sub-1", "2")
    assert scan_name("sub-1", "") == "sub-1"
