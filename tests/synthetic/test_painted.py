"""Scans of real heads and lesion shapes: alike by seed, unlike each other, true to what is given."""

import shutil

import nibabel as nib
import numpy as np
import pytest
from conftest import quickly, refused, write_nifti
from nibabel.affines import apply_affine, from_matvec

import demo
import prep
from scans import preparation
from scans.find import find_scans
from scans.manifest import load_manifest
from scans.metadata import Metadata
from scans.resampling import resample
from scans.template import AFFINE, SHAPE, load_template
from synthetic import painted
from synthetic.controls import anatomy_file, load_anatomy, prepare_control
from synthetic.heads import CSF_GREY, GM_GREY, WM_GREY, enlarge, head, signed_distance_mm
from synthetic.lesion_shapes import draw_tissue, fit_into, level_of, load_shape, vary_shape
from synthetic.lesions import Tissue, paint_region
from synthetic.variety import Protocol, acquire_by, draw_protocol, set_apart, sharpen, take_off
from system.files import InputError

# As most scanners store it: sagittal, 2 mm, the head turned by 8 degrees.
COSINE, SINE = np.cos(np.radians(8)), np.sin(np.radians(8))
TURNED = np.array([[0, 0, 1], [COSINE, SINE, 0], [SINE, -COSINE, 0]]) * 2


def write_control(path, gain=1.0):
    """Write the template's head, skull and all, as a scanner would; return the path."""
    anatomy = head()
    shape = (120, 100, 100)
    affine = from_matvec(TURNED, (3, -15, 10) - TURNED @ ((np.array(shape) - 1) / 2))
    write_nifti(path, resample(anatomy[..., 0], AFFINE, shape, affine) * gain, affine)
    return path


def write_shape(path, centre_mm, radius_mm, spacing_mm=1.0):
    """Write a ball as a mask in MNI space, on a grid of its own; return the path."""
    shape = np.array((160, 190, 140))
    affine = from_matvec(np.diag([-spacing_mm, spacing_mm, spacing_mm]), (78, -112, -60))
    places = apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
    inside = np.linalg.norm(places - centre_mm, axis=-1) <= radius_mm
    write_nifti(path, inside.astype(np.uint8), affine)
    return path


@pytest.fixture(scope="module")
def controls(tmp_path_factory):
    """One healthy head, and the folder of its anatomy."""
    folder = tmp_path_factory.mktemp("controls")
    path = write_control(folder / "control_T1w.nii.gz", gain=730)
    prepare_control(path, folder / "kept")
    return path, folder / "kept"


@pytest.fixture(scope="module")
def lesions(tmp_path_factory):
    """Twelve shapes, each elsewhere."""
    folder = tmp_path_factory.mktemp("lesions")
    places = [(x, y, 15) for x in (-40, -28, 28, 40) for y in (-50, -20, 10)]
    for number, place in enumerate(places):
        write_shape(folder / f"{number:02d}_mask.nii.gz", place, 6 + number)
    return painted.find_sources([folder], masks=True)


@pytest.fixture
def unscanned(monkeypatch):
    """Leave subjects as they are painted: a scanner takes as long as the painter."""
    monkeypatch.setattr(painted, "sharpen", lambda rng, image: image)
    monkeypatch.setattr(painted, "acquire_by", lambda protocol, rng, image: image)
    monkeypatch.setattr(painted, "take_off", lambda *_: None)


@pytest.fixture
def drawn_at_once(monkeypatch):
    """Take the template and some noise for every subject, with a lesion of 8 ml."""
    voxels, mask = (load_template().voxels * 1000).astype(np.int16), np.zeros(SHAPE, np.uint8)
    mask[120:140, 90:110, 80:100] = 1

    def draw(rng, *_):
        return voxels + rng.integers(100, size=SHAPE, dtype=np.int16), mask

    monkeypatch.setattr(painted, "draw_subject", draw)


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.nii.gz")}


def test_a_control_of_any_grid_becomes_an_anatomy_in_template_space(controls):
    anatomy, voxel_mm = load_anatomy(anatomy_file(*controls))
    assert voxel_mm == pytest.approx(2)
    assert anatomy.shape == (*SHAPE, 2) and anatomy.dtype == np.float32
    brain, found = load_template().brain, anatomy[..., 1] < 0
    reference = head()[..., 0]
    assert (found & brain).sum() > 0.99 * found.sum()
    tissue = brain & (reference > 0.6)  # fluid about the brain may be left out
    assert (found & tissue).sum() > 0.9 * tissue.sum()
    deep = anatomy[..., 1] < -8
    assert np.corrcoef(anatomy[deep, 0], reference[deep])[0, 1] > 0.9
    # White matter, grey matter and fluid are as bright as the template's.
    for low, high in ((0.84, 0.9), (0.6, 0.7), (0.2, 0.35)):
        tissue = deep & (reference > low) & (reference < high)
        assert low - 0.06 < np.median(anatomy[tissue, 0]) < high + 0.06


def test_an_anatomy_does_not_depend_on_the_scanner_s_units(controls, tmp_path):
    other = write_control(tmp_path / "other_T1w.nii.gz", gain=0.02)
    prepare_control(other, tmp_path)
    one, two = (load_anatomy(anatomy_file(*c))[0][..., 0] for c in (controls, (other, tmp_path)))
    assert np.abs(one - two).mean() < 0.01


def test_a_shape_lies_where_its_affine_says_and_is_as_large(tmp_path):
    for number, spacing_mm in enumerate((1.0, 1.2)):
        path = tmp_path / f"{number}_mask.nii.gz"
        shape = load_shape(write_shape(path, (-31, 22, 14), 9, spacing_mm))
        assert shape.sum() == pytest.approx(4 / 3 * np.pi * 9**3, rel=0.03)
        centre = apply_affine(AFFINE, np.argwhere(shape)).mean(axis=0)
        np.testing.assert_allclose(centre, (-31, 22, 14), atol=0.3)


def test_a_mask_outside_of_mni_space_is_refused(tmp_path):
    path = write_shape(tmp_path / "far_mask.nii.gz", (500, 0, 0), 5)
    with pytest.raises(InputError, match="marks nothing"):
        load_shape(path)


def test_a_shape_is_varied_but_keeps_its_place_and_size_within_bounds(lesions):
    shape = load_shape(lesions[-1])
    centre, volumes, sides = np.argwhere(shape).mean(axis=0), [], set()
    for seed in range(20):
        low, varied = vary_shape(np.random.default_rng(seed), shape)
        volumes.append(varied.sum() / shape.sum())
        place = low + np.argwhere(varied).mean(axis=0)
        mirrored = abs(place[0] - centre[0]) > 30
        sides.add(bool(mirrored))
        expected = [SHAPE[0] - 1 - centre[0], *centre[1:]] if mirrored else centre
        assert np.abs(place - expected).max() < 12
    assert sides == {True, False}
    assert 0.01 < min(volumes) < 0.2 and 1 < max(volumes) < 4
    assert 0.3 < np.mean(np.array(volumes) < 0.5) < 0.9  # small ones are the hard ones
    assert len({round(float(v), 3) for v in volumes}) > 15


def test_a_shape_at_the_edge_of_the_grid_is_cut_there():
    allowed = np.ones((20, 20, 20), bool)
    allowed[:, :, 10:] = False
    shape = np.ones((8, 8, 8), bool)
    box, left = fit_into(np.array((-3, 16, 6)), shape, allowed)
    assert box == (slice(0, 5), slice(16, 20), slice(6, 14))
    assert left.shape == (5, 4, 8) and left.sum() == 5 * 4 * 4


def test_the_level_of_a_shape_falls_to_its_core():
    shape = np.zeros((15, 15, 15), bool)
    shape[3:12, 3:12, 3:12] = True
    level = level_of(shape)
    assert (level[shape] < 1).all() and (level[~shape] > 1).all()
    assert level[7, 7, 7] == level.min() < 0.1
    assert (np.diff(level[7, 7, 3:8]) <= 0).all()


@pytest.mark.parametrize(
    ("tissue", "expected"),
    [
        (Tissue(cavity=0.1, gliosis=0.6, hollow=np.float64(2)), 0.25),  # all of it a cavity
        (Tissue(cavity=0.1, gliosis=0.6, hollow=np.float64(-1)), 0.5),  # none of it
        (Tissue(cavity=0.1, gliosis=0.6, hollow=np.float64(2), bright=True), 1.15),
    ],
)
def test_a_lesion_is_as_dark_as_its_tissue(tissue, expected):
    rng = np.random.default_rng(0)
    scanner = draw_protocol(rng).scanner
    scanner = type(scanner)(**vars(scanner) | {"csf": 0.2, "gm": 0.7})
    image = np.ones((30, 30, 30), np.float32)
    shape = np.zeros((20, 20, 20), bool)
    shape[3:17, 3:17, 3:17] = True
    box = (slice(5, 25),) * 3
    paint_region(rng, image, box, level_of(shape), scanner, tissue, scanner.gm)
    assert np.median(image[11:19, 11:19, 11:19]) == pytest.approx(expected, abs=0.06)
    assert (image[:5] == 1).all() and (image[26:] == 1).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("hollow", [-1.0, 0.5, 2.0])
def test_far_outside_of_a_lesion_nothing_overflows(hollow):
    image = np.ones((8, 8, 8), np.float32)
    level = np.full(image.shape, np.inf, np.float32)
    level[3:7, 3:7, 3:7] = 0
    scanner = draw_protocol(np.random.default_rng(0)).scanner
    box, tissue = (slice(0, 8),) * 3, Tissue(cavity=0, gliosis=0.5, hollow=hollow)
    paint_region(np.random.default_rng(0), image, box, level, scanner, tissue, scanner.gm)
    assert np.isfinite(image).all() and image[4, 4, 4] < 0.9 and image[0, 0, 0] == 1


def test_every_kind_of_tissue_is_drawn():
    drawn = [draw_tissue(np.random.default_rng(seed)) for seed in range(300)]
    assert {np.sign(t.hollow) if t.hollow in (-1, 2) else 0 for t in drawn} == {-1, 0, 1}
    assert 0 < sum(t.bright for t in drawn) < 10
    assert 0.6 < np.mean([t.cavity == 0 for t in drawn]) < 0.8  # as dark as CSF
    faint = [t.gliosis for t in drawn if t.hollow == -1]
    assert 0.25 < len(faint) / len(drawn) < 0.4
    assert 0.25 < np.mean([t.hollow == 2 and not t.bright for t in drawn]) < 0.4
    assert all(t.cavity <= t.gliosis for t in drawn)
    assert 0.3 <= min(faint) < 0.35 and 0.6 < max(faint) <= 0.65


def test_gliosis_darkens_grey_matter_as_well_as_white(lesions, monkeypatch):
    gliosis = Tissue(cavity=0, gliosis=0.6, hollow=np.float64(-1))
    monkeypatch.setattr(painted, "draw_tissue", lambda rng: gliosis)
    scanner = draw_protocol(np.random.default_rng(0)).scanner
    scanner = type(scanner)(**vars(scanner) | {"csf": 0.2, "gm": 0.7})
    layers = np.arange(SHAPE[2]) // 8 % 2  # thick enough for the soft edge not to mix them
    image = np.full(SHAPE, np.where(layers, 1, scanner.gm), np.float32)
    before, mask = image.copy(), np.zeros(SHAPE, np.uint8)
    anatomy = np.stack([np.ones(SHAPE), np.full(SHAPE, -5)], axis=-1)
    shape = load_shape(lesions[-1])
    for _ in range(2):  # where two lesions meet, no tissue is lost twice
        rng = np.random.default_rng(3)
        painted.paint_shape(rng, image, mask, before, anatomy, scanner, shape)
    core = level_of(mask > 0) < 0.6
    for intact in (0.7, 1):
        tissue = core & (before == np.float32(intact))
        assert np.median(image[tissue]) == pytest.approx(0.2 + 0.6 * (intact - 0.2), abs=0.06)


def test_protocols_are_as_different_as_clinics():
    drawn = [draw_protocol(np.random.default_rng(seed)) for seed in range(300)]
    voxels = np.array([p.voxel_mm for p in drawn])
    assert voxels.min() >= 0.7 and voxels.max() <= 6
    thick = voxels > 2.5
    assert thick.any(axis=0).all() and not thick.all(axis=1).any()
    assert min(p.scanner.gm for p in drawn) < 0.55 and max(p.scanner.gm for p in drawn) > 0.88
    assert min(p.scanner.fat for p in drawn) < 0.7 and 2.7 < max(p.scanner.fat for p in drawn) <= 3
    assert all(p.scanner.csf < p.scanner.gm < 0.95 for p in drawn)
    for decided in ("stripped", "defaced"):
        assert 0.2 < np.mean([getattr(p, decided) for p in drawn]) < 0.5


def quiet(voxel_mm, stripped=False, defaced=False):
    scanner = draw_protocol(np.random.default_rng(0)).scanner
    scanner = type(scanner)(**vars(scanner) | {"noise": 0.0, "bias": 0.0, "white_level": 1000})
    return Protocol(scanner, voxel_mm, (0, 0, 0), stripped, defaced)


@pytest.mark.parametrize("axis", range(3))
def test_thick_slices_blur_along_their_own_axis_alone(axis):
    image = np.zeros(SHAPE, np.float32)
    image[90:110, 110:130, 80:100] = 1
    voxel_mm = np.where(np.arange(3) == axis, 5.0, 1.0)
    seen = acquire_by(quiet(tuple(voxel_mm)), np.random.default_rng(0), image) / 1000
    assert seen.max() == pytest.approx(1, abs=0.01)
    edges = [
        np.count_nonzero((line > 0.05) & (line < 0.95))
        for line in (seen[:, 120, 90], seen[100, :, 90], seen[100, 120])
    ]
    assert edges[axis] >= 8 and max(edges[:axis] + edges[axis + 1 :]) <= 4


def test_what_is_taken_off_is_skull_or_face_and_never_brain():
    depth_mm = enlarge(signed_distance_mm(load_template().brain[::2, ::2, ::2]), SHAPE)
    anatomy = np.stack([np.ones(SHAPE, np.float32), depth_mm], axis=-1)
    for seed in range(4):
        for stripped in (True, False):
            voxels = np.ones(SHAPE, np.int16)
            protocol = quiet((1, 1, 1), stripped, defaced=True)
            take_off(np.random.default_rng(seed), voxels, anatomy, protocol)
            assert voxels[depth_mm < -4].all()
            gone = (voxels == 0).mean()
            assert gone > 0.6 if stripped else 0.01 < gone < 0.35
            if stripped:
                assert not voxels[depth_mm > 12].any()
            else:
                assert voxels[:, :100].all()  # the back of the head
                assert not voxels[98, -1, 0]  # the chin


def test_subjects_repeat_by_seed_whatever_their_number(controls, lesions, tmp_path, monkeypatch):
    monkeypatch.setattr(
        painted, "prepare_control", lambda path, folder: shutil.copytree(controls[1], folder)
    )
    for folder, count in (("two", 2), ("one", 1)):
        made = painted.make_painted(tmp_path / folder, [controls[0]], lesions, count, 3, 1)
        assert made == []
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert len(one) == 2 and len(two) == 4
    assert all(two[name] == bytes_of for name, bytes_of in one.items())
    scans = [nib.load(tmp_path / "two" / name) for name in two if name.match("*_T1w.nii.gz")]
    assert all(s.shape == SHAPE and np.array_equal(s.affine, AFFINE) for s in scans)


def test_fewer_subjects_leave_the_site_of_earlier_ones_known(lesions, tmp_path, monkeypatch):
    drawn = np.ones(SHAPE, np.int16), np.zeros(SHAPE, np.uint8)
    monkeypatch.setattr(painted, "draw_subject", lambda *_: drawn)
    for count in (4, 2):
        painted.make_painted(tmp_path, [], lesions, count, 0, 1)
        found = find_scans(tmp_path, "atlas", "_T1w", ["_label-L_desc-T1lesion_mask"]).scans
        metadata = Metadata(tmp_path)
        known = [metadata.of(s.image, s.subject, s.session)["site"] for s in found]
        assert known == ["P001", "P002", "P003", "P004"]


def test_other_parts_seeds_or_painters_never_mix(lesions, tmp_path, monkeypatch):
    painted.make_painted(tmp_path, [], lesions, 1, 0, 1)
    before = contents(tmp_path)
    for changed in ([[], lesions[1:], 1, 0, 1], [[], lesions, 1, 1, 1]):
        with pytest.raises(InputError, match="holds other scans"):
            painted.make_painted(tmp_path, *changed)
    monkeypatch.setattr(painted, "PAINTER", painted.PAINTER + 1)
    with pytest.raises(InputError, match="by this version; delete it first"):
        painted.make_painted(tmp_path, [], lesions, 2, 0, 1)
    assert contents(tmp_path) == before


def test_no_site_shares_a_shape_with_another(lesions, tmp_path, monkeypatch):
    used = {}

    def note(rng, anatomy, voxel_mm, lesions, volume_ml):
        used.setdefault(len(used), set(lesions))
        return np.ones(SHAPE, np.int16), np.zeros(SHAPE, np.uint8)

    monkeypatch.setattr(painted, "draw_subject", note)
    monkeypatch.setattr(painted, "save_scan", lambda *_: None)
    painted.make_painted(tmp_path, [], lesions, painted.SITES, 0, 1)
    assert len(used) == painted.SITES
    assert set.union(*used.values()) == set(lesions)
    assert sum(map(len, used.values())) == len(lesions)


def test_no_more_sites_than_heads_or_shapes(lesions, tmp_path, monkeypatch):
    monkeypatch.setattr(
        painted, "draw_subject", lambda *_: (np.ones(SHAPE, np.int16), np.zeros(SHAPE, np.uint8))
    )
    painted.make_painted(tmp_path, [], lesions[:3], 4, 0, 1)
    assert {p.name for p in (tmp_path / "Training").iterdir()} == {"P001", "P002", "P003"}


def test_prep_knows_the_sites_and_holds_one_out(lesions, tmp_path, monkeypatch, drawn_at_once):
    quickly(monkeypatch)
    monkeypatch.setattr(preparation, "find_near_duplicates", lambda found: range(len(found)))
    painted.make_painted(tmp_path / "made", [], lesions, 3, 0, 1)
    settings = {
        "paths.atlas": tmp_path / "made",
        "paths.brats17": "none",
        "paths.prepared": tmp_path / "prepared",
        "split.by": "site",
        "split.folds": 3,
        "split.test_fraction": 0,
    }
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    assert prep.main(words) == 0
    rows = load_manifest(tmp_path / "prepared", "atlas")
    assert set(zip(rows.subject, rows.site, strict=True)) == {
        (f"sub-p00{number}s001", f"P00{number}") for number in (1, 2, 3)
    }


def test_a_lesion_mask_that_cannot_be_used_costs_no_subject_and_may_be_left_out(
    tmp_path, drawn_at_once
):
    good = write_shape(tmp_path / "a" / "good_mask.nii.gz", (30, 10, 15), 9)
    copy = tmp_path / "a" / "copy_mask.nii.gz"
    copy.write_bytes(good.read_bytes())
    bad = tmp_path / "a" / "bad_mask.nii.gz"
    bad.write_bytes(good.read_bytes()[:500])
    with refused(bad):
        painted.make_painted(tmp_path / "none", [], [bad], 2, 0, 1)
    assert not (tmp_path / "none").exists()
    of_copy, of_bad = painted.make_painted(tmp_path / "made", [], [bad, good, copy, good], 2, 0, 1)
    assert "bad_mask.nii.gz" in str(of_bad)
    assert f"copy_mask.nii.gz: is a copy of {good}" in str(of_copy)
    made = sorted((tmp_path / "made").rglob("*_T1w.nii.gz"))
    # One shape is left: a second site would have none of its own.
    assert [path.parents[3].name for path in made] == ["P001", "P001"]
    before = [path.stat().st_mtime_ns for path in made]
    assert painted.make_painted(tmp_path / "made", [], [good], 2, 0, 1) == []
    assert [path.stat().st_mtime_ns for path in made] == before


def test_what_is_painted_is_as_blurred_as_its_head(lesions, monkeypatch, unscanned):
    """Or a network would learn that what is sharp is a lesion."""

    def draw(seed, voxel_mm):
        rng = np.random.default_rng(seed)
        return painted.draw_subject(rng, head(), voxel_mm, lesions, 5)

    seed = next(seed for seed in range(20) if draw(seed, 1.0)[1].any())
    drawn = [draw(seed, voxel_mm) for voxel_mm in (1.0, 3.0)]
    monkeypatch.setattr(painted, "HEALTHY", 2)
    healthy, _ = draw(seed, 1.0)
    edges = [np.abs(np.diff(image - healthy, axis=0))[1:][mask[2:] > 0] for image, mask in drawn]
    sharp, blurred = (np.percentile(edge, 95) for edge in edges)
    assert blurred < 0.8 * sharp


def test_sharpening_brings_out_detail_and_keeps_what_is_flat():
    image = np.full(SHAPE, 0.5, np.float32)
    image[100:] = 1
    found = [sharpen(np.random.default_rng(seed), image) for seed in range(12)]
    assert any(result is image for result in found)
    assert max(np.ptp(result) for result in found) > 0.6
    for result in found:
        np.testing.assert_allclose(result[:90], 0.5, atol=1e-3)
        assert result.min() >= 0


def test_grey_matter_is_set_apart_and_no_order_of_levels_is_changed():
    levels = np.linspace(0, 1.7, 500, dtype=np.float32)
    cortex, between = abs(levels - GM_GREY) < 0.05, abs(levels - (GM_GREY + WM_GREY) / 2) < 0.05
    for seed in range(12):
        apart = levels.copy()
        set_apart(np.random.default_rng(seed), apart)
        assert (np.diff(apart) > 0).all()
        for level in (CSF_GREY, WM_GREY):
            assert np.interp(level, levels, apart) == pytest.approx(level, abs=0.01)
        assert np.ptp(apart[cortex]) < np.ptp(levels[cortex])
    assert np.ptp(apart[between]) > np.ptp(levels[between])


@pytest.mark.parametrize("kind", ["two levels", "one level and a few", "noise around nothing"])
def test_a_head_that_is_none_is_refused_by_name(tmp_path, kind):
    voxels = np.zeros(SHAPE, np.float32)
    if kind == "two levels":
        voxels[40:150, 40:200, 30:150] = 100
        voxels[60:100, 60:100, 60:100] = 50
    elif kind == "one level and a few":
        rng = np.random.default_rng(0)
        voxels[40:150, 40:200, 30:150] = 100
        few = rng.integers((40, 40, 30), (150, 200, 150), (20_000, 3))
        voxels[tuple(few.T)] = rng.integers(1, 200, len(few))
    else:
        voxels[:10] = np.random.default_rng(0).random((10, *SHAPE[1:]))
    path = write_nifti(tmp_path / "odd_T1w.nii.gz", voxels, AFFINE)
    with refused(path, "is no T1-weighted scan of a whole brain"):
        prepare_control(path, tmp_path / "kept")


def test_a_shape_that_lies_outside_leaves_nothing():
    _, left = fit_into(np.array((-30, 5, 5)), np.ones((8, 8, 8), bool), np.ones((20, 20, 20), bool))
    assert left.size == 0


@pytest.mark.slow
def test_some_people_are_healthy_and_lesions_lie_in_the_brain(lesions, unscanned):
    anatomy = head()
    volumes = []
    for seed in range(12):
        _, mask = painted.draw_subject(np.random.default_rng(seed), anatomy, 1.0, lesions, 5.0)
        assert set(np.unique(mask)) <= {0, 1}
        volumes.append(mask.sum() / 1000)
        if mask.any():
            # People are deformed: no further from the template's brain than they differ from it.
            assert anatomy[mask > 0, 1].max() < 12
    assert 0 < sum(v == 0 for v in volumes) < 6
    assert max(volumes) > 5


def test_without_shapes_lesions_are_drawn():
    for seed in range(8):
        _, mask = painted.draw_subject(np.random.default_rng(seed), head(), 1.0, [], 7.0)
        if mask.any():
            assert mask.sum() / 1000 == pytest.approx(7, rel=0.1)
            return
    pytest.fail("nobody had a lesion")


@pytest.mark.slow
def test_a_head_that_cannot_be_used_costs_itself_alone(controls, tmp_path, capsys):
    bad = tmp_path / "empty_T1w.nii.gz"
    write_nifti(bad, np.zeros((60, 60, 60), np.float32), np.diag([3, 3, 3, 1.0]))
    arguments = ["--set", f"paths.atlas={tmp_path / 'made'}", "--subjects", "1"]
    assert demo.main([*arguments, "--heads", str(bad), str(controls[0])]) == 1
    assert f"left out {bad}: " in capsys.readouterr().out
    assert len(list((tmp_path / "made").rglob("*_T1w.nii.gz"))) == 1


def test_without_any_usable_head_nothing_is_made(tmp_path):
    bad = tmp_path / "empty_T1w.nii.gz"
    write_nifti(bad, np.zeros((20, 20, 20), np.float32), np.eye(4))
    with pytest.raises(InputError, match="there is no image in it"):
        painted.make_painted(tmp_path / "made", [bad], [], 1, 0, 1)
    assert not list((tmp_path / "made").rglob("*_T1w.nii.gz"))


def test_lists_tell_scans_from_masks(tmp_path):
    for name in ("a_T1w.nii.gz", "a_lesion_mask.nii.gz", "notes.txt"):
        (tmp_path / name).touch()
    assert [p.name for p in painted.find_sources([tmp_path], masks=False)] == ["a_T1w.nii.gz"]
    assert [p.name for p in painted.find_sources([tmp_path], masks=True)] == [
        "a_lesion_mask.nii.gz"
    ]
    (tmp_path / "a_lesion_mask.nii.gz").unlink()
    with pytest.raises(InputError, match="no lesion mask"):
        painted.find_sources([tmp_path], masks=True)
    with pytest.raises(InputError, match="nowhere: not found"):
        painted.find_sources([tmp_path / "nowhere"], masks=False)


@pytest.mark.parametrize("number", ["0", "-3"])
def test_a_number_of_subjects_below_one_is_refused(number):
    with pytest.raises(InputError, match="--subjects"):
        demo.main(["--subjects", number])
