"""Scans are brought to the template and back; a position that is not right is called doubtful."""

import subprocess
import sys

import nibabel
import niimath
import numpy as np
import pytest
from conftest import refused, write_nifti
from nibabel.affines import from_matvec
from nilearn.datasets import load_mni152_template
from scipy.spatial.transform import Rotation

from config import Geometry, Slices
from scans import alignment
from scans.alignment import FEWEST_SLICES, Alignment, align
from scans.find import Scan
from scans.geometry import in_kept_slices, look_at, places_seen
from scans.prepare import alignment_picture, prepare_scan
from scans.resampling import interpolate, resample
from scans.template import (
    AFFINE,
    MARGIN_MM,
    SHAPE,
    brain_and_margin,
    is_on_template,
    load_template,
)
from scans.volumes import Volume

TEMPLATE, KEEP = "template", "keep"


@pytest.fixture(scope="module")
def turned():
    """The template as a scan of 1.5 mm, turned by 15 degrees and moved, and the way it was moved."""
    template = load_template()
    turn = Rotation.from_rotvec(np.radians((9, -8, 9))).as_matrix() * 0.93
    moved = from_matvec(turn, (12, -20, 25))
    shape = (140, 170, 130)
    affine = from_matvec(np.eye(3) * 1.5, (-100, -150, -80))
    to_template = np.linalg.inv(moved) @ affine
    voxels = resample(template.voxels, AFFINE, shape, to_template)
    return Volume(voxels, affine, None), moved


@pytest.fixture(scope="module")
def found(turned):
    return align(turned[0])


@pytest.fixture(scope="module")
def upside_down(turned):
    """That scan put upside down by its header, and where it was found."""
    scan = Volume(turned[0].voxels[::-1, :, ::-1], turned[0].affine, None)
    return scan, align(scan)


def distance_mm(found, true):
    template = load_template()
    points = nibabel.affines.apply_affine(AFFINE, np.argwhere(template.brain)[::5003])
    there = nibabel.affines.apply_affine(np.linalg.inv(true) @ found, points)
    return np.linalg.norm(there - points, axis=1).mean()


def test_a_turned_head_of_another_voxel_size_is_found(turned, found):
    assert distance_mm(found.to_scan, turned[1]) < 1.5
    assert found.doubts == ()
    assert found.similarity > 0.8 and found.covered > 0.99


def test_a_piece_of_a_head_is_doubtful(turned):
    scan = turned[0]
    doubts = align(Volume(scan.voxels[:, :, :25], scan.affine, None)).doubts
    assert any(doubt.startswith("it covers") for doubt in doubts)


def test_a_head_far_from_the_template_is_found_by_its_brightness_at_once(turned, monkeypatch):
    scan, moved = turned
    away, commands, run = from_matvec(np.eye(3), (250, -300, 280)), [], subprocess.run

    def note(command, **options):
        commands.append(command)
        return run(command, **options)

    monkeypatch.setattr(alignment.subprocess, "run", note)
    found = align(Volume(scan.voxels, away @ scan.affine, None))
    assert distance_mm(found.to_scan, away @ moved) < 1.5
    assert found.doubts == ()
    # From where the header puts it niimath would search for half a minute.
    assert ["-com" in command for command in commands] == [True]


def test_niimath_keeps_the_user_s_environment_and_one_thread(turned, monkeypatch):
    monkeypatch.setenv("LACUNA_TEST", "kept")

    def run(command, env, **options):
        assert (env["LACUNA_TEST"], env["OMP_NUM_THREADS"]) == ("kept", "1")
        return subprocess.CompletedProcess(command, 134, "", "no memory")

    monkeypatch.setattr(alignment.subprocess, "run", run)
    with refused("exit code 134", "no memory", "niimath"):
        align(turned[0])


def test_what_went_to_the_template_comes_back_in_place(turned, found):
    scan = turned[0]
    seen = look_at(scan, Geometry(align=TEMPLATE, brain=KEEP), found)
    assert is_on_template(seen.volume.voxels.shape, seen.volume.affine)
    back = seen.bring_back(seen.volume.voxels)
    assert back.shape == scan.voxels.shape
    assert np.corrcoef(back.ravel(), scan.voxels.ravel())[0, 1] > 0.99


def test_left_stays_left_and_the_height_is_that_of_the_template(turned, found):
    scan = turned[0]
    seen = look_at(scan, Geometry(align=TEMPLATE, brain=KEEP), found)
    marked = np.zeros(load_template().voxels.shape, np.float32)
    marked[120:130, 100:110, 60:70] = 1  # right of the middle, above the lowest 50 slices
    there = seen.bring_back(marked) > 0.5
    assert there.sum() == pytest.approx(1000 * 0.93**3 / 1.5**3, rel=0.15)
    places = places_seen(there, scan, found)
    middle = (np.array(marked.shape) - 1) / 2
    assert (places - middle)[:, 0].min() > 20 and (places - middle)[:, 0].max() < 34
    assert places[:, 2].min() > 58 and places[:, 2].max() < 71
    kept = np.broadcast_to(in_kept_slices(scan, found, 50), there.shape)
    assert kept[there].all()
    assert not np.broadcast_to(in_kept_slices(scan, found, 72), there.shape)[there].any()


def test_the_grid_is_that_of_the_template_of_nilearn():
    image = load_mni152_template(resolution=1)
    assert image.shape == SHAPE
    np.testing.assert_array_equal(image.affine, AFFINE)


def test_prep_imports_no_nilearn_before_a_scan_needs_the_template():
    code = "import sys, scans.preparation, scans.template as t; " + (
        "t.is_on_template(t.SHAPE, t.AFFINE); print(*sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    loaded = printed.stdout.decode().split()
    assert "scans.alignment" in loaded and "nilearn" not in loaded


def test_a_scan_on_the_grid_of_the_template_stays_as_it_is(monkeypatch):
    monkeypatch.setattr("scans.geometry.align", None)
    template = load_template()
    voxels = np.random.default_rng(0).integers(1, 255, template.voxels.shape).astype(np.uint8)
    scan = Volume(voxels, AFFINE, None)
    seen = look_at(scan, Geometry(align=TEMPLATE, brain=KEEP))
    assert seen.volume is scan and seen.bring_back(voxels) is voxels
    brain = look_at(scan, Geometry(align=TEMPLATE, brain=TEMPLATE)).volume.voxels
    np.testing.assert_array_equal(brain, np.where(brain_and_margin(), voxels, 0))


def test_the_margin_around_the_brain_is_as_wide_as_it_says():
    template = load_template()
    assert brain_and_margin()[template.brain].all()
    highest = [np.flatnonzero(m.any((0, 1)))[-1] for m in (template.brain, brain_and_margin())]
    assert highest[1] - highest[0] == MARGIN_MM


def test_thick_slices_are_means_and_keep_their_place():
    voxels = np.zeros((6, 6, 12), np.float32)
    voxels[2:4, 2:4, 3:6] = 9
    thick = resample(voxels, np.eye(4), (6, 6, 4), from_matvec(np.diag([1, 1, 3]), (0, 0, 1)))
    np.testing.assert_allclose(thick[2, 2], [0, 9, 0, 0], atol=1e-5)
    voxels[:, :, 5] = 0  # a third of a thick slice, away from its middle
    thick = resample(voxels, np.eye(4), (6, 6, 4), from_matvec(np.diag([1, 1, 3]), (0, 0, 1)))
    np.testing.assert_allclose(thick[2, 2], [0, 6, 0, 0], atol=1e-5)
    fine = from_matvec(np.diag([0.5, 0.5, 0.5]), (-0.25, -0.25, -0.25))
    doubled = voxels.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    np.testing.assert_allclose(resample(doubled, fine, voxels.shape, np.eye(4)), voxels, atol=1e-5)


def test_an_alignment_is_read_as_it_was_written(found):
    again = Alignment.from_facts(found.as_facts())
    np.testing.assert_allclose(again.to_scan, found.to_scan, atol=1e-6)
    assert again.doubts == found.doubts


def test_a_missing_niimath_is_one_line(turned, monkeypatch, tmp_path):
    monkeypatch.setattr(niimath, "bin", str(tmp_path / "niimath"))
    with refused("niimath", "cannot be run", "geometry.align"):
        align(turned[0])
    monkeypatch.setitem(sys.modules, "niimath", None)
    with refused("niimath: cannot be imported", "geometry.align"):
        align(turned[0])


def test_without_niimath_scans_are_prepared_that_need_no_alignment(scan_on_template, monkeypatch):
    monkeypatch.setitem(sys.modules, "niimath", None)
    assert prepare(scan_on_template, Geometry(align=TEMPLATE, brain=KEEP))["alignment"] is None
    assert prepare(scan_on_template, Geometry(align="none", brain=KEEP))["alignment"] is None


def test_too_few_slices_are_refused_before_niimath_is_asked(turned, monkeypatch):
    monkeypatch.setattr(alignment.subprocess, "run", None)
    voxels = turned[0].voxels
    for piece in (voxels[:, :, : FEWEST_SLICES - 1], voxels[: FEWEST_SLICES - 1]):
        with refused(f"has {FEWEST_SLICES - 1} slices, too few of a head"):
            align(Volume(piece, turned[0].affine, None))


def test_an_image_of_which_nothing_would_be_seen_is_refused():
    voxels = np.where(brain_and_margin(), 0, 100).astype(np.uint8)
    scan = Volume(voxels, AFFINE, None)
    with refused("is 0 wherever the template has its brain"):
        look_at(scan, Geometry(align=TEMPLATE, brain=TEMPLATE))
    assert look_at(scan, Geometry(align=TEMPLATE, brain=KEEP)).volume is scan


def test_the_outer_half_of_the_outermost_voxels_counts():
    thick = np.ones((3, 3, 3), np.float32)
    to_voxel = from_matvec(np.diag([1, 1, 1 / 6]), (0, 0, -1.25))
    fine = interpolate(thick, to_voxel, (3, 3, 30))
    height = np.arange(30) / 6 - 1.25
    np.testing.assert_array_equal(fine[1, 1], (height >= -0.5) & (height <= 2.5))
    beside = interpolate(thick, from_matvec(np.eye(3), (0.75, 0, 0)), (3, 3, 3))
    np.testing.assert_array_equal(beside[:, 1, 1], [1, 1, 0])


@pytest.fixture
def scan_on_template(tmp_path):
    """A scan on the template's grid with a lesion, half of it in the brain, and half beyond."""
    head = np.maximum(load_template().voxels, 0.1).astype(np.float32)
    lesion = np.zeros(SHAPE, np.uint8)
    edge = np.flatnonzero(brain_and_margin()[:, 116, 90])[-1]
    lesion[edge - 9 : edge + 11, 111:121, 85:95] = 1
    image = write_nifti(tmp_path / "sub-1_T1w.nii", head, AFFINE)
    mask = write_nifti(tmp_path / "sub-1_mask.nii", lesion, AFFINE)
    return Scan("atlas", "sub-1", "", "R001", image, (mask,))


def prepare(scan, geometry):
    slices = Slices(size=240, skip=50, empty_per_lesion=1.0)
    return prepare_scan(scan, scan.image.parent / "out", None, slices, geometry)


def test_lesion_where_the_network_sees_nothing_is_not_taught(scan_on_template):
    shown = {}
    for brain in (KEEP, TEMPLATE):
        facts = prepare(scan_on_template, Geometry(align=TEMPLATE, brain=brain))
        assert facts["lesion_ml"] == pytest.approx(2)
        shown[brain] = sum(row["lesion_pixels"] for row in facts["slices"])
    assert shown[KEEP] == 2000
    assert 900 <= shown[TEMPLATE] <= 1500


def test_slices_are_cut_again_when_what_decides_an_alignment_has_changed(
    scan_on_template, monkeypatch
):
    record = scan_on_template.image.parent / "out" / "atlas" / "sub-1.json"
    changed = []
    for geometry in (Geometry(align=TEMPLATE, brain=KEEP), Geometry(align="none", brain=KEEP)):
        for version in ("niimath 1", "niimath 1", "niimath 2"):
            monkeypatch.setattr("scans.prepare.aligner", lambda version=version: version)
            prepare(scan_on_template, geometry)
            changed.append(record.stat().st_mtime_ns)
    assert changed[0] == changed[1] != changed[2]
    assert changed[3] == changed[4] == changed[5]


def test_a_head_put_upside_down_is_doubtful_and_its_picture_goes_with_the_doubt(
    upside_down, tmp_path, monkeypatch
):
    scan, found = upside_down
    monkeypatch.setattr("scans.geometry.align", lambda volume: found)
    image = write_nifti(tmp_path / "sub-1_T1w.nii", scan.voxels, scan.affine)
    lesion = np.zeros(scan.voxels.shape, np.uint8)
    lesion[70:74, 80:84, 60:64] = 1
    mask = write_nifti(tmp_path / "sub-1_mask.nii", lesion, scan.affine)
    scan = Scan("atlas", "sub-1", "", "R001", image, (mask,))
    facts = prepare(scan, Geometry(align=TEMPLATE, brain=KEEP))
    assert "edges agree" in facts["alignment"]["doubts"][0]
    picture = alignment_picture(tmp_path / "out", scan).read_bytes()
    assert len(facts["slices"]) == 89
    # The outline tells nothing where all but what lies within it is cut out.
    prepare(scan, Geometry(align=TEMPLATE, brain=TEMPLATE))
    assert alignment_picture(tmp_path / "out", scan).read_bytes() == picture
    prepare(scan, Geometry(align="none", brain=KEEP))
    assert not alignment_picture(tmp_path / "out", scan).exists()
