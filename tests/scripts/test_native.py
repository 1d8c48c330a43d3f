"""Scans of other grids, from the data set to masks on their own grid, and what training skipped."""

import csv
import sys
from dataclasses import replace
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from conftest import predict_by_rule, quickly, refused, write_nifti
from native_scans import BRIGHT, INSIDE, MM, align_once, native_scan

import predict
import prep
from config import load_settings
from evaluation.cases import find_cases
from evaluation.kept_predictions import missing_predictions, predict_cases
from evaluation.runs import Predictor, read_fold
from evaluation.scoring import load_view, score_case
from prediction.operating_point import PLAIN
from scans import preparation
from scans.alignment import align
from scans.geometry import look_at
from scans.manifest import load_manifest
from scans.splits import fingerprint, load_split
from system.files import load_json, save_json

STORED = {"sub-1": "RAS", "sub-2": "PSR", "sub-3": "LAS"}


def prepare(*arguments, align=align_once):
    """Run `prep.py`, which would find that all these heads are one."""
    with pytest.MonkeyPatch.context() as patch:
        quickly(patch)
        patch.setattr(preparation, "find_near_duplicates", lambda found: range(len(found)))
        patch.setattr("scans.geometry.align", align)
        return prep.main([*arguments])


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    """`prep.py` over a tree of native scans, one of them only a piece of a head."""
    folder = tmp_path_factory.mktemp("native")
    subjects = [*STORED.items(), ("sub-4", "RAS")]
    for seed, (subject, orientation) in zip((0, 1, 2, 0), subjects, strict=True):
        image, mask = native_scan(seed, orientation)
        for scan, ending in ((image, "T1w"), (mask, "label-L_desc-T1lesion_mask")):
            voxels = np.asarray(scan.dataobj)
            if subject == "sub-4":
                voxels = voxels[:, :, 20:40]
            write_nifti(
                folder / "tree" / subject / f"{subject}_{ending}.nii.gz", voxels, scan.affine
            )
    values = [
        f"paths.atlas={folder / 'tree'}",
        "paths.brats17=none",
        f"paths.prepared={folder / 'prepared'}",
        "split.folds=2",
        "split.test_fraction=0",
    ]
    arguments = [word for value in values for word in ("--set", value)]
    code = prepare(*arguments)
    settings = load_settings(None, values)
    return SimpleNamespace(folder=folder, arguments=arguments, settings=settings, code=code)


def facts_of(native, subject):
    return load_json(native.folder / "prepared" / "atlas" / f"{subject}.json", "")


def test_scans_of_any_orientation_are_cut_at_the_heights_of_the_template(native):
    rows = load_manifest(native.folder / "prepared", "atlas")
    assert native.code == 1  # for the piece
    assert set(rows.subject) == set(STORED)
    assert (rows["align"].unique(), rows.brain.unique()) == ("template", "template")
    wanted = np.zeros((189, 240, 240), bool)
    # Front at the top, left on the left, in the middle of the square.
    x, y, z = INSIDE
    wanted[z, 3 + 233 - y.stop : 3 + 233 - y.start, 21 + x.start : 21 + x.stop] = True
    for subject in STORED:
        assert rows[rows.subject == subject].z.tolist() == list(range(50, 139))
        mask = np.load(native.folder / "prepared" / "atlas" / "masks" / f"{subject}.npy") > 0
        image = np.load(native.folder / "prepared" / "atlas" / "images" / f"{subject}.npy")
        assert dice(mask, wanted[50:139]) > 0.8
        assert mask.sum() == pytest.approx(wanted[50:139].sum(), rel=0.1)
        assert image[mask].mean() > 2 * image[(image > 0) & ~mask].mean()


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def test_lesions_are_measured_on_the_scan_s_own_grid(native):
    for subject in STORED:
        facts = facts_of(native, subject)
        mask = nibabel.load(facts["made_from"]["masks"][0]).get_fdata()
        assert facts["lesion_ml"] == pytest.approx(mask.sum() * np.prod(MM) / 1000)
        below = 14**3 / (14**3 + 16 * 18 * 18)
        assert facts["lesion_below_ml"] / facts["lesion_ml"] == pytest.approx(below, abs=0.06)
        assert facts["lesion_outside_ml"] == facts["lesion_below_ml"]


def test_a_doubtful_scan_is_used_when_asked_for_and_a_split_error_comes_after_its_reason(
    native, capsys
):
    with refused("too few for 4 folds"):
        prepare(*native.arguments, "--set", "split.folds=4")
    shown = capsys.readouterr().out
    assert "sub-4_T1w.nii.gz: alignment is doubtful" in shown
    assert str(native.folder / "prepared" / "atlas" / "doubtful" / "sub-4.png") in shown
    assert prepare(*native.arguments, "--keep-doubtful") == 0
    assert "sub-4" in set(load_manifest(native.folder / "prepared", "atlas").subject)
    assert prepare(*native.arguments) == 1


@pytest.mark.parametrize(("option", "code"), [("--strict", 2), ("--shard=1/1", 1)])
def test_a_doubtful_scan_is_a_problem_with_each_option(native, option, code, capsys):
    if code == 2:
        with refused("sub-4_T1w.nii.gz: alignment is doubtful"):
            prepare(*native.arguments, option)
    else:
        assert prepare(*native.arguments, option) == code
        assert "sub-4_T1w.nii.gz: alignment is doubtful" in capsys.readouterr().out


def test_a_missing_niimath_ends_prep_once_and_not_for_each_scan(native, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "niimath", None)
    with refused("niimath: cannot be imported", "geometry.align"):
        prepare(*native.arguments, "--set", f"paths.prepared={tmp_path}", align=align)


@pytest.fixture
def weights(native, tmp_path, monkeypatch):
    monkeypatch.setattr("scans.geometry.align", align_once)
    native.settings.save(tmp_path / "run" / "config.yaml")
    (tmp_path / "run" / "best.weights.h5").write_bytes(b"not read")
    return tmp_path / "run" / "best.weights.h5"


@pytest.mark.parametrize("subject", STORED)
def test_a_mask_comes_back_to_the_scan_s_own_grid(native, subject, weights, tmp_path, monkeypatch):
    predict_by_rule(monkeypatch, lambda volume, flip: volume.voxels > BRIGHT / 2)
    scan = native.folder / "tree" / subject / f"{subject}_T1w.nii.gz"
    words = [scan, "--output", tmp_path / "out", "--weights", weights]
    assert predict.main([str(word) for word in words]) == 0
    (path,) = (tmp_path / "out").rglob("*_mask.nii.gz")
    found, image = nibabel.load(path), nibabel.load(scan)
    assert found.shape == image.shape
    np.testing.assert_array_equal(found.affine, image.affine)
    reference = nibabel.load(facts_of(native, subject)["made_from"]["masks"][0]).get_fdata() > 0
    assert dice(found.get_fdata() > 0, reference) > 0.85
    with (tmp_path / "out" / "predictions.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["right_ml"]) / float(row["volume_ml"]) == pytest.approx(0.65, abs=0.08)
    assert float(row["similarity"]) > 0.4
    assert "doubtful" not in row["warnings"]
    assert not list((tmp_path / "out").rglob("*_alignment.png"))


def test_a_doubtful_alignment_is_predicted_and_named_with_a_picture(
    native, weights, tmp_path, monkeypatch
):
    predict_by_rule(monkeypatch, lambda volume, flip: volume.voxels > BRIGHT / 2)
    scan = native.folder / "tree" / "sub-4" / "sub-4_T1w.nii.gz"
    words = [str(w) for w in (scan, "--output", tmp_path / "out", "--weights", weights)]
    assert predict.main(words) == 0
    with (tmp_path / "out" / "predictions.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert "alignment is doubtful: it covers" in row["warnings"]
    (picture,) = (tmp_path / "out").rglob("*_alignment.png")
    assert predict.main(words) == 0
    picture.write_bytes(b"the user's own")
    assert predict.main([*words, "--threshold", "0.3"]) == 1
    assert picture.read_bytes() == b"the user's own"


def test_evaluation_takes_the_alignment_of_preparation_and_scores_on_the_own_grid(
    native, weights, tmp_path, monkeypatch
):
    prepared = native.folder / "prepared"
    cases = find_cases(prepared, load_split(prepared, "atlas", 0), "validation")
    monkeypatch.setattr("scans.geometry.align", None)
    predictor = Predictor("train", "train", 0, 0, (weights,), tmp_path, {})

    def answer(volume, flip, alignment):
        seen = look_at(volume, native.settings.geometry, alignment)
        return seen.bring_back((seen.volume.voxels > BRIGHT / 2).astype(np.float32))

    predict_cases(predictor, cases, False, answer)
    assert missing_predictions(predictor, cases, False) == []
    moved = replace(cases[0].alignment, to_scan=cases[0].alignment.to_scan * 1.001)
    anew = replace(cases[0], alignment=moved)
    assert missing_predictions(predictor, [anew, *cases[1:]], False) == [anew]
    skipped = PLAIN | {"ends_mm": 50.0, "height_mm": 189.0}
    for case in cases:
        assert score_case((predictor, case, PLAIN))["dice"] > 0.85
        # What lies below is missed, and nothing else.
        view = load_view(predictor, case, skipped)
        missed = (view.reference > 0) & (view.prediction == 0)
        lost_ml = np.count_nonzero(missed) * np.prod(view.volume.spacing_mm) / 1000
        assert lost_ml == pytest.approx(case.lesion_below_ml, rel=0.35)
        assert case.lesion_below_ml > 1


def test_a_run_of_another_geometry_than_the_slices_is_refused(native, tmp_path):
    prepared = native.folder / "prepared"
    split = load_split(prepared, "atlas", 0)
    facts = {"stage": "train", "finished": True, "seed": 0, "fold": 0}
    own = {"align": "template", "brain": "template"}
    for geometry, wrong in (
        (own, None),
        (own | {"brain": "keep"}, "geometry.brain"),
        (None, "geometry.align"),
    ):
        identity = {"split": fingerprint(split)} | ({"geometry": geometry} if geometry else {})
        save_json(tmp_path / "run.json", facts | {"identity": identity})
        if wrong:
            with refused(tmp_path, wrong, prepared):
                read_fold(tmp_path, prepared, load_manifest(prepared, "atlas"))
        else:
            assert read_fold(tmp_path, prepared, load_manifest(prepared, "atlas")).number == 0
