"""Scans are found and told apart, however deep they lie and whatever lies beside them."""

import itertools
import os
from pathlib import Path

import pytest

from config import load_settings
from scans.find import find_scans
from scans.names import identify, scan_name

ATLAS = ("atlas", "_T1w", ("_label-L_desc-T1lesion_mask",))
BRATS = ("brats17", "_t1", ("_seg",))
BOTH_RELEASES = load_settings().atlas.mask_suffixes


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
        (
            "sub-r001s001/anat/sub-r001s001_ses-1_acq-mprage_rec-norm_run-2_T1w.nii.gz",
            ("sub-r001s001", "1_acq-mprage_rec-norm_run-2", "R001"),
        ),
        (
            "R039/sub-r039s001/ses-1/anat/sub-r039s001_ses-1_space-orig_desc-brain_T1w.nii.gz",
            ("sub-r039s001", "1_space-orig", "R039"),
        ),
        ("sub-5_run-2_T1w.nii.gz", ("sub-5", "run-2", "unknown")),
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
    (scan,), problems, _ = find_scans(tmp_path, *ATLAS)
    assert problems == []
    assert (scan.dataset, scan.name) == ("atlas", "sub-1")
    assert scan.image == folder / f"sub-1_T1w{ending}"
    assert scan.masks == (folder / f"sub-1_label-L_desc-T1lesion_mask{ending}",)


def test_all_scans_of_the_trees_are_found_and_no_hidden_file(tiny_trees):
    settings = load_settings()
    for dataset, subjects, scans in (("atlas", 8, 9), ("brats17", 8, 8)):
        layout = getattr(settings, dataset)
        found, problems, _ = find_scans(
            getattr(tiny_trees, dataset), dataset, layout.image_suffix, layout.mask_suffixes
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
    scans, problems, _ = find_scans(tmp_path, *BRATS)
    assert ([scan.image.name for scan in scans], problems) == (["a_t1.nii"], [])


def test_a_hidden_folder_above_the_data_set_does_no_harm(tmp_path):
    touch(tmp_path / ".cache", "a_t1.nii", "a_seg.nii")
    assert len(find_scans(tmp_path / ".cache", *BRATS)[0]) == 1


def test_other_modalities_are_not_taken_for_the_image(tmp_path):
    name = "HGG/Brats17_CBICA_AAB_1/Brats17_CBICA_AAB_1"
    touch(tmp_path, *(f"{name}_{kind}.nii.gz" for kind in ("t1", "t1ce", "t2", "flair", "seg")))
    (scan,), *_ = find_scans(tmp_path, *BRATS)
    assert scan.image.name == "Brats17_CBICA_AAB_1_t1.nii.gz"


def test_a_folder_named_like_a_scan_is_not_taken_for_one(tmp_path):
    touch(tmp_path, "a_t1.nii/a_t1.nii", "a_seg.nii/a_seg.nii")
    (scan,), problems, _ = find_scans(tmp_path, *BRATS)
    assert (scan.image, problems) == (tmp_path / "a_t1.nii/a_t1.nii", [])


def test_a_mask_may_lie_in_another_folder(tmp_path):
    touch(tmp_path, "raw/a_t1.nii", "derivatives/a_seg.nii")
    (scan,), *_ = find_scans(tmp_path, *BRATS)
    assert scan.masks == (tmp_path / "derivatives/a_seg.nii",)


def test_the_mask_beside_the_image_is_preferred(tmp_path):
    touch(tmp_path, "a/x_t1.nii", "a/x_seg.nii", "b/x_seg.nii")
    (scan,), problems, _ = find_scans(tmp_path, *BRATS)
    assert (scan.masks[0].parent, problems) == (tmp_path / "a", [])


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
    scans, ((file, why),), _ = find_scans(tmp_path, *BRATS)
    assert "a" in {scan.image.name[0] for scan in scans}
    assert Path(file).name == "b_t1.nii"
    assert why.startswith(reason)


def test_the_sessions_of_a_subject_have_names_of_their_own():
    assert scan_name("sub-1", "1") == "sub-1_1" != scan_name("sub-1", "2")
    assert scan_name("sub-1", "") == "sub-1"


def atlas_scan(subject, *entities):
    name = "_".join([subject, "ses-1", *entities])
    return [f"{subject}/ses-1/anat/{name}{suffix}.nii.gz" for suffix in (ATLAS[1], *ATLAS[2])]


def test_linked_folders_are_followed_and_each_scan_found_once(tmp_path):
    touch(tmp_path / "store", *atlas_scan("sub-1"), *atlas_scan("sub-2"))
    for subject in ("sub-1", "sub-2"):
        (tmp_path / "linked").mkdir(exist_ok=True)
        (tmp_path / "linked" / subject).symlink_to(tmp_path / "store" / subject)
    # A loop, and a folder that is reached both ways.
    (tmp_path / "store" / "sub-1" / "loop").symlink_to(tmp_path)
    for folder in (tmp_path / "linked", tmp_path):
        scans, problems, notes = find_scans(folder, *ATLAS)
        assert [scan.subject for scan in scans] == ["sub-1", "sub-2"]
        assert (problems, notes) == ([], [])
    assert all(scan.image.is_relative_to(tmp_path / "store") for scan in scans)


def test_a_scan_linked_into_another_folder_is_no_duplicate(tmp_path):
    touch(tmp_path / "store", *atlas_scan("sub-1"))
    for name in atlas_scan("sub-1"):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / Path(name).name).symlink_to(tmp_path / "store" / name)
    scans, problems, _ = find_scans(tmp_path, *ATLAS)
    assert (len(scans), problems) == (1, [])


def test_several_scans_of_a_session_are_scans_of_one_subject(tmp_path):
    touch(tmp_path, *atlas_scan("sub-1"), *atlas_scan("sub-1", "run-2"))
    touch(tmp_path, *atlas_scan("sub-1", "acq-mprage"))
    scans, problems, _ = find_scans(tmp_path, *ATLAS)
    assert {scan.subject for scan in scans} == {"sub-1"}
    assert {scan.name for scan in scans} == {"sub-1_1", "sub-1_1_run-2", "sub-1_1_acq-mprage"}
    assert problems == []


def test_a_folder_without_any_mask_is_a_note_and_a_mask_missing_among_others_a_problem(tmp_path):
    images = (
        "Training/R001/sub-1",
        "Testing/R002/sub-3",
        "Testing/R002/sub-4",
        "Training/R001/sub-2",
    )
    for image in images:
        touch(tmp_path / "data" / image[:-6], *atlas_scan(image[-5:]))
    for image in images[1:]:
        (
            tmp_path / "data" / image / "ses-1/anat" / f"{image[-5:]}_ses-1{ATLAS[2][0]}.nii.gz"
        ).unlink()
    scans, problems, (note,) = find_scans(tmp_path, *ATLAS)
    assert [scan.subject for scan in scans] == ["sub-1"]
    assert [Path(problem.file).name for problem in problems] == ["sub-2_ses-1_T1w.nii.gz"]
    assert (
        note
        == f"scans without a mask, not used: 2 below {tmp_path / 'data/Testing'}: for predict.py"
    )


def test_masks_that_are_img_pairs_are_no_missing_masks(tmp_path):
    touch(tmp_path, *atlas_scan("sub-1"), "Site/R9/sub-2/sub-2_T1w.nii")
    touch(tmp_path, *(f"Site/R9/sub-2/sub-2{ATLAS[2][0]}{ending}" for ending in (".hdr", ".img")))
    scans, (problem,), notes = find_scans(tmp_path, *ATLAS)
    assert (len(scans), notes) == (1, [])
    assert problem.reason.endswith("is an .hdr/.img pair; convert it to .nii.gz")


def test_where_no_scan_has_a_mask_each_is_named(tmp_path):
    touch(tmp_path, "Testing/R1/sub-1/sub-1_T1w.nii", "Testing/R2/sub-2/sub-2_T1w.nii")
    scans, problems, notes = find_scans(tmp_path, *ATLAS)
    assert (scans, len(problems), notes) == ([], 2, [])


def test_further_masks_of_a_scan_are_joined_or_named(tmp_path):
    first, second = "LesionSmooth_stx", "LesionSmooth_1_stx"
    touch(tmp_path, *(f"c01_{name}.nii.gz" for name in ("t1w_stx", first, second)))
    touch(tmp_path, *(f"c02_{name}.nii.gz" for name in ("t1w_stx", first)))
    for suffixes, masks in (([f"_{first}"], 1), ([f"_{first}", f"_{second}"], 2)):
        scans, problems, notes = find_scans(tmp_path, "atlas", "_t1w_stx", suffixes)
        assert [len(scan.masks) for scan in scans] == [masks, 1]
        assert problems == []
        assert len(notes) == 1
    assert notes == [f"masks end in _{first} (2) and _{second} (1)"]
    assert find_scans(tmp_path, "atlas", "_t1w_stx", [f"_{first}"]).notes == [
        f"1 further mask not used: c01_{second}.nii.gz; make atlas.mask_suffix a list to join them"
    ]


def release_2(subject):
    start = f"ATLAS_2/Training/{subject[4:8].upper()}/{subject}/ses-1/anat/{subject}_ses-1_space-MNI152NLin2009aSym"
    return [f"{start}_T1w.nii.gz", f"{start}_label-L_desc-T1lesion_mask.nii.gz"]


def release_3(subject):
    start = f"ATLAS_R3.0/{subject[4:8].upper()}/{subject}/ses-1/anat/{subject}_ses-1"
    endings = (
        "space-orig_desc-brain_T1w.nii.gz",
        "space-orig_label-lesion_desc-T1lesion_mask.nii.gz",
        "metadata.csv",
    )
    return [f"{start}_{ending}" for ending in endings]


@pytest.mark.parametrize("release", [release_2, release_3])
def test_either_release_of_atlas_needs_no_setting_and_its_ending_is_said(tmp_path, release):
    names = [release(f"sub-r001s00{i}") for i in range(3)]
    touch(tmp_path, *itertools.chain(*names))
    scans, problems, (note,) = find_scans(tmp_path, "atlas", "_T1w", BOTH_RELEASES)
    assert problems == []
    assert [scan.image for scan in scans] == [tmp_path / own[0] for own in names]
    assert [scan.masks for scan in scans] == [(tmp_path / own[1],) for own in names]
    used = BOTH_RELEASES[release is release_3]
    assert note == f"masks end in {used} (3)"


def test_a_subject_of_both_releases_is_one_subject_with_two_scans(tmp_path):
    touch(tmp_path, *release_2("sub-r001s001"), *release_3("sub-r001s001"))
    touch(tmp_path, *release_2("sub-r001s002"), *release_3("sub-r039s001"))
    scans, problems, (note,) = find_scans(tmp_path, "atlas", "_T1w", BOTH_RELEASES)
    assert problems == []
    assert sorted(scan.name for scan in scans) == [
        "sub-r001s001_1",
        "sub-r001s001_1_space-orig",
        "sub-r001s002_1",
        "sub-r039s001_1_space-orig",
    ]
    assert all(scan.masks[0].parent == scan.image.parent for scan in scans)
    assert note == f"masks end in {BOTH_RELEASES[0]} (2) and {BOTH_RELEASES[1]} (2)"


def test_a_mask_with_the_description_of_its_image_is_preferred(tmp_path):
    touch(tmp_path, "sub-1_desc-brain_t1.nii", "sub-1_desc-brain_seg.nii", "sub-1_seg.nii")
    touch(tmp_path, "sub-2_desc-brain_t1.nii", "sub-2_desc-other_seg.nii")
    scans, (problem,), _ = find_scans(tmp_path, *BRATS)
    assert scans[0].masks == (tmp_path / "sub-1_desc-brain_seg.nii",)
    assert problem.reason.startswith("its mask sub-2_seg.nii.gz is missing")


def test_an_image_does_not_take_the_mask_of_another_session(tmp_path):
    touch(
        tmp_path,
        "sub-1/ses-1/anat/sub-1_T1w.nii.gz",
        "sub-1/ses-2/anat/sub-1_T1w.nii.gz",
        "sub-1/ses-2/anat/sub-1_label-L_desc-T1lesion_mask.nii.gz",
        "sub-2/ses-1/anat/sub-2_T1w.nii.gz",
        "sub-2/ses-1/anat/sub-2_label-L_desc-T1lesion_mask.nii.gz",
    )
    scans, (problem,), _ = find_scans(tmp_path, *ATLAS)
    assert [scan.name for scan in scans] == ["sub-1_2", "sub-2_1"]
    assert "sub-1/ses-1" in problem.file and "is missing" in problem.reason


def test_masks_elsewhere_are_told_apart_by_the_session_in_their_path(tmp_path):
    for session in "12":
        touch(
            tmp_path,
            f"sub-1/ses-{session}/anat/sub-1_T1w.nii.gz",
            f"derivatives/ses-{session}/sub-1_label-L_desc-T1lesion_mask.nii.gz",
        )
    scans, problems, _ = find_scans(tmp_path, *ATLAS)
    assert problems == []
    for scan in scans:
        assert f"ses-{scan.session}" in scan.masks[0].as_posix()


def test_an_image_without_mask_does_not_take_that_of_a_namesake(tmp_path):
    touch(tmp_path, "p1/anat_T1w.nii", "p2/anat_T1w.nii", "p2/anat_lesion.nii")
    scans, problems, _ = find_scans(tmp_path, "atlas", "_T1w", ("_lesion",))
    assert [scan.image.parent.name for scan in scans] == ["p2"]
    assert [Path(problem.file).parent.name for problem in problems] == ["p1"]


def test_a_mask_named_as_an_image_is_not_an_image(tmp_path):
    touch(tmp_path, "sub-1_T1w.nii", "sub-1_lesion_T1w.nii")
    (scan,), problems, _ = find_scans(tmp_path, "atlas", "_T1w", ("_lesion_T1w",))
    assert problems == []
    assert (scan.image.name, scan.masks[0].name) == ("sub-1_T1w.nii", "sub-1_lesion_T1w.nii")


def test_a_wrong_ending_of_masks_is_named_with_its_setting(tmp_path):
    for subject in "12":
        touch(tmp_path, f"sub-{subject}_T1w.nii", f"sub-{subject}_label-L_lesion_mask.nii")
    scans, (problem,), _ = find_scans(tmp_path, *ATLAS)
    assert scans == []
    assert "set atlas.mask_suffix" in problem.reason
    assert "sub-1_label-L_lesion_mask.nii, sub-2_label-L_lesion_mask.nii" in problem.reason


def test_a_session_is_a_word_of_its_own_and_the_name_goes_before_the_folder():
    assert identify(Path("analyses-v2/sub-1/ses-3/sub-1_T1w.nii")) == ("sub-1", "3", "unknown")
    assert identify(Path("ses-3/sub-1_ses-4_T1w.nii")) == ("sub-1", "4", "unknown")


def test_a_folder_that_may_be_listed_but_not_entered_is_a_problem(tmp_path, monkeypatch):
    """Also where the tests run as root, who may enter every folder."""
    touch(tmp_path, "a/sub-1_T1w.nii", "a/sub-1_label-L_desc-T1lesion_mask.nii", "b/sub-2_T1w.nii")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "b")
    scans, (problem,), _ = find_scans(tmp_path, *ATLAS)
    assert [scan.subject for scan in scans] == ["sub-1"]
    assert "cannot be opened (Permission denied)" in problem.reason
