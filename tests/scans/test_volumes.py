"""Scans are read in one orientation, cut into slices without a loss, and brought back."""

import tracemalloc
from itertools import permutations, product

import nibabel
import numpy as np
import pytest
from conftest import LPS, OBLIQUE, RAS, refused, write_nifti
from hypothesis import given
from hypothesis import strategies as st
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    ornt_transform,
)

from scans.volumes import (
    NO_ORIENTATION,
    TWO_ORIENTATIONS,
    load_mask,
    load_volume,
    read_voxels,
    slices_to_volume,
    to_original_grid,
    volume_to_slices,
)

ORIENTATIONS = [
    "".join(codes) for axes in permutations(("LR", "PA", "IS")) for codes in product(*axes)
]
SHAPE = (3, 4, 5)


def phantom(shape=SHAPE, dtype=np.float32):
    """Voxels that are all different, so that no flip or turn goes unnoticed; none is 0."""
    return np.arange(1, np.prod(shape) + 1, dtype=dtype).reshape(shape)


def stored_as(codes, voxels, affine):
    """Return RAS voxels and their affine as a file in another orientation has them."""
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    return apply_orientation(voxels, turn), affine @ inv_ornt_aff(turn, voxels.shape)


# --- orientation, and there and back again ---


def test_the_same_head_stored_in_two_ways_gives_the_same_slices(tmp_path):
    """BraTS is stored LPS, ATLAS RAS: without care the two would be turned by 180 degrees."""
    voxels, affine = stored_as("LPS", phantom(), RAS)
    np.testing.assert_array_equal(affine[:3, :3], LPS[:3, :3])
    assert not np.array_equal(voxels, phantom())
    slices = [
        volume_to_slices(load_volume(write_nifti(tmp_path / name, *content)).voxels, 16)
        for name, content in (("lps.nii", (voxels, affine)), ("ras.nii", (phantom(), RAS)))
    ]
    np.testing.assert_array_equal(*slices)


def test_the_front_is_at_the_top_and_the_left_on_the_left():
    voxels = np.zeros(SHAPE)
    voxels[-1, -1, -1] = 1  # right, front, top of the head
    assert np.argwhere(volume_to_slices(voxels, 4)).tolist() == [[4, 0, 2]]


@st.composite
def stored_scans(draw):
    """RAS voxels, and the same as a file holds them: turned, flipped, oblique, anisotropic."""
    shape = draw(st.tuples(*[st.integers(2, 9)] * 3))
    angles = draw(st.tuples(*[st.integers(-20, 20)] * 3))
    sizes_mm = draw(st.tuples(*[st.sampled_from([0.5, 1, 1.2, 3])] * 3))
    turn = nibabel.eulerangles.euler2mat(*np.radians(angles))
    affine = nibabel.affines.from_matvec(
        turn * sizes_mm, draw(st.tuples(*[st.integers(-90, 90)] * 3))
    )
    return phantom(shape), *stored_as(draw(st.sampled_from(ORIENTATIONS)), phantom(shape), affine)


@given(scan=stored_scans(), margin=st.integers(0, 5), ending=st.sampled_from([".nii", ".nii.gz"]))
def test_slices_round_trip_exactly(tmp_path_factory, scan, margin, ending):
    ras, stored, affine = scan
    path = write_nifti(tmp_path_factory.getbasetemp() / f"round_trip{ending}", stored, affine)
    volume = load_volume(path)
    np.testing.assert_array_equal(volume.voxels, ras)
    assert volume.voxels.flags.f_contiguous
    assert nibabel.aff2axcodes(volume.affine) == ("R", "A", "S")

    stack = volume_to_slices(volume.voxels, max(ras.shape[:2]) + margin)
    back = slices_to_volume(stack, ras.shape)
    np.testing.assert_array_equal(back, ras)
    written = path.with_name(f"back{ending}")
    nibabel.save(to_original_grid((back % 2).astype(np.uint8), volume), written)
    result, original = nibabel.load(written), nibabel.load(path)
    np.testing.assert_array_equal(result.dataobj, stored % 2)
    np.testing.assert_array_equal(result.affine, original.affine)
    assert result.header.get_zooms() == original.header.get_zooms()
    assert result.get_data_dtype() == np.uint8


def test_all_48_orientations_are_tried():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (2, 4)])
def test_the_spaces_of_a_scan_are_kept(tmp_path, codes):
    """Viewers read sform or qform, as the codes say; a changed code moves the overlay."""
    image = nibabel.Nifti1Image(phantom(), None)
    image.set_sform(OBLIQUE, codes[0])
    image.set_qform(OBLIQUE, codes[1])
    nibabel.save(image, tmp_path / "x.nii")
    volume = load_volume(tmp_path / "x.nii")
    result = to_original_grid(volume.voxels, volume)
    for space in ("get_sform", "get_qform"):
        found, code = getattr(result, space)(coded=True)
        expected, expected_code = getattr(nibabel.load(tmp_path / "x.nii"), space)(coded=True)
        assert code == expected_code
        if code:
            np.testing.assert_allclose(found, expected, atol=1e-6)


@given(shape=st.tuples(*[st.integers(1, 20)] * 3), margin=st.integers(0, 20))
def test_a_slice_lies_in_the_middle_of_empty_margins(shape, margin):
    size = max(shape[:2]) + margin
    stack = volume_to_slices(np.ones(shape, np.uint8), size)
    assert stack.shape == (shape[2], size, size)
    assert stack.dtype == np.uint8
    for z in range(shape[2]):
        rows, columns = np.nonzero(stack[z])
        assert len(rows) == shape[0] * shape[1]
        for numbers, side in ((columns, shape[0]), (rows, shape[1])):
            before, after = numbers.min(), size - 1 - numbers.max()
            assert before + side + after == size
            assert abs(before - after) <= 1


@pytest.mark.parametrize("shape", [(17, 3, 2), (3, 17, 2)])
def test_a_slice_larger_than_the_square_is_refused(shape):
    with refused(f"{shape[0]}×{shape[1]}", "slices.size = 16", "set slices.size to 128"):
        volume_to_slices(np.ones(shape), 16)


# --- what files hold (how they can be broken: test_bad_input.py) ---


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with refused(tmp_path / "missing.nii", "is not a file"):
        load_volume(tmp_path / "missing.nii")


def test_a_4d_file_with_one_volume_is_accepted_and_given_back_as_4d(tmp_path):
    path = write_nifti(tmp_path / "x.nii", phantom()[..., None], LPS)
    volume = load_volume(path)
    assert volume.voxels.shape == SHAPE
    result = to_original_grid(volume.voxels, volume)
    np.testing.assert_array_equal(result.dataobj, phantom()[..., None])


@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", ">u2", "<i4", ">f4", "<f8"])
def test_small_integers_stay_what_they_are_and_all_else_becomes_float32(tmp_path, dtype):
    """The bytes of the file are the voxels, so that a wrong order of bytes would show."""
    stored, dtype = phantom(dtype=np.float32).astype(dtype), np.dtype(dtype)
    header = nibabel.Nifti1Header(endianness="<" if dtype.str[0] == "|" else dtype.str[0])
    header.set_data_dtype(dtype)
    nibabel.save(nibabel.Nifti1Image(stored, RAS, header), tmp_path / "x.nii.gz")
    voxels = load_volume(tmp_path / "x.nii.gz").voxels
    assert voxels.dtype == (
        dtype.newbyteorder("=") if dtype.str[1:] in ("u1", "u2", "i2") else "f4"
    )
    np.testing.assert_array_equal(voxels, phantom())


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PSR"])
@pytest.mark.parametrize("dtype", [">i2", "<f4", "<f8"])
def test_a_file_is_read_in_pieces_as_in_one(tmp_path, monkeypatch, codes, dtype):
    stored, affine = stored_as(codes, phantom((6, 5, 7)), RAS)
    path = write_nifti(tmp_path / "x.nii.gz", stored.astype(dtype), affine)
    for size in (1, 6 * 5 * 2 * 2, 2**24):
        monkeypatch.setattr("scans.nifti._CHUNK_BYTES", size)
        np.testing.assert_array_equal(load_volume(path).voxels, phantom((6, 5, 7)))


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("codes", ["RAS", "PIR"])
def test_a_large_file_takes_little_more_memory_than_its_voxels_in_float32(
    tmp_path, monkeypatch, codes, scaled
):
    monkeypatch.setattr("scans.nifti._CHUNK_BYTES", 2**18)
    stored, affine = stored_as(codes, np.ones((64, 128, 300), np.float64), RAS)
    image = nibabel.Nifti1Image(stored, affine)
    if scaled:
        image.header.set_slope_inter(2, 1)
    nibabel.save(image, tmp_path / "x.nii.gz")
    bytes_in_float32 = stored.size * 4
    tracemalloc.start()
    try:
        read_voxels(tmp_path / "x.nii.gz")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.3 * bytes_in_float32


@pytest.mark.parametrize("endian", ["<", ">"])
def test_stored_integers_are_scaled_and_byte_swapped_right(tmp_path, endian):
    header = nibabel.Nifti1Header(endianness=endian)
    header.set_data_dtype(np.int16)
    image = nibabel.Nifti1Image(phantom(dtype=np.int16), RAS, header)
    image.header.set_slope_inter(2.5, -10)
    nibabel.save(image, tmp_path / "x.nii")
    stored = nibabel.load(tmp_path / "x.nii")
    assert (stored.header.endianness, stored.dataobj.slope) == (endian, 2.5)
    volume = load_volume(tmp_path / "x.nii")
    assert volume.voxels.dtype == np.float32
    np.testing.assert_allclose(volume.voxels, phantom() * 2.5 - 10)
    back = to_original_grid((phantom() > 30).astype(np.uint8), volume)
    nibabel.save(back, tmp_path / "back.nii")
    np.testing.assert_array_equal(nibabel.load(tmp_path / "back.nii").dataobj, phantom() > 30)


def test_the_voxel_size_follows_the_axes(tmp_path):
    affine = nibabel.affines.from_matvec(OBLIQUE[:3, :3] * (1, 2, 3))
    path = write_nifti(tmp_path / "x.nii", *stored_as("SPL", phantom(), affine))
    np.testing.assert_allclose(load_volume(path).spacing_mm, (1, 2, 3), rtol=1e-6)


def test_the_mask_of_a_nifti_2_scan_is_nifti_2(tmp_path):
    """Its places are 64 bit, which NIfTI-1 would round."""
    affine = RAS + np.eye(4)[:, [3, 3, 3, 0]].T * 1e-9
    path = tmp_path / "x.nii"
    nibabel.save(nibabel.Nifti2Image(phantom(), affine), path)
    volume = load_volume(path)
    back = to_original_grid(volume.voxels, volume)
    assert isinstance(back, nibabel.Nifti2Image)
    np.testing.assert_array_equal(back.affine, nibabel.load(path).affine)


# --- masks ---


@pytest.fixture
def image(tmp_path):
    return load_volume(write_nifti(tmp_path / "image.nii", phantom(), RAS))


def mask_of(*values):
    """Voxels in which 5 of each value follow the zeros."""
    mask = np.zeros(SHAPE, np.float32)
    mask.flat[-5 * len(values) :] = np.repeat(values, 5)
    return mask


@pytest.mark.parametrize(
    ("values", "labels", "count"),
    [
        ([1], None, 5),
        ([255], None, 5),
        ([1.003, 0.996, -0.004], None, 10),
        ([254.995, 0.004], None, 5),
        ([], None, 0),
        ([1, 2, 4], [1, 2, 4], 15),
        ([1, 2, 4], [4], 5),
        ([2, 3], [1], 0),
    ],
)
def test_a_mask_becomes_exactly_0_and_1(tmp_path, image, values, labels, count):
    path = write_nifti(tmp_path / "mask.nii", mask_of(*values), RAS)
    lesion = load_mask(path, labels, image)
    assert lesion.dtype == np.uint8
    assert set(np.unique(lesion)) <= {0, 1}
    assert lesion.sum() == count


@pytest.mark.parametrize("value", [1.5, np.nan, np.inf])
def test_a_mask_with_values_that_are_no_labels_is_refused_and_one_is_named(tmp_path, image, value):
    path = write_nifti(tmp_path / "mask.nii", mask_of(1, value), RAS)
    with refused(path, f"no labels, as {value:g}"):
        load_mask(path, [1, 2], image)


def test_a_mask_may_be_stored_in_another_orientation_than_its_image(tmp_path, image):
    lesion = (phantom() > 50).astype(np.uint8)
    path = write_nifti(tmp_path / "mask.nii", *stored_as("LSP", lesion, RAS))
    np.testing.assert_array_equal(load_mask(path, None, image), lesion)


# --- what a header leaves in doubt ---


def write_with_two_orientations(path, qform, sform, codes=(1, 1)):
    image = nibabel.Nifti1Image(phantom(), RAS)
    image.set_qform(qform, codes[0])
    image.set_sform(sform, codes[1])
    content = bytearray(image.to_bytes())
    # nibabel would not write a header without any orientation.
    for place, code in zip((252, 254), codes, strict=True):
        content[place : place + 2] = code.to_bytes(2, "little")
    path.write_bytes(content)
    return path


TURNED_HALF = nibabel.affines.from_matvec(np.diag([-1, -1, 1]), (14, 16, -8))
MIRRORED = nibabel.affines.from_matvec(np.diag([-1, 1, 1]), (14, -16, -8))
MOVED = nibabel.affines.from_matvec(np.eye(3), (-14, -16, -6.5))
NEARLY = nibabel.affines.from_matvec(np.eye(3), (-14, -16, -7.5))


def test_a_qform_that_is_no_rotation_leaves_the_sform(tmp_path, image):
    file = write_with_two_orientations(tmp_path / "a.nii", RAS, RAS)
    content = bytearray(file.read_bytes())
    content[256:264] = np.array([1, 1e-3], np.float32).tobytes()  # quatern_b and quatern_c
    file.write_bytes(content)
    np.testing.assert_array_equal(load_volume(file).affine, RAS)


@pytest.mark.parametrize("qform", [TURNED_HALF, MIRRORED])
def test_two_orientations_that_exchange_left_and_right_are_refused(tmp_path, image, qform):
    file = write_with_two_orientations(tmp_path / "a.nii", qform, RAS)
    with refused(file, "exchange left and right"):
        load_volume(file)
    with refused(file, "exchange left and right"):
        load_mask(file, None, image)
    # The one without a code does not count.
    for codes in ((0, 1), (1, 0)):
        write_with_two_orientations(file, qform, RAS, codes)
        assert load_volume(file).warnings == ()


@pytest.mark.parametrize(
    ("qform", "warnings"), [(MOVED, (TWO_ORIENTATIONS,)), (NEARLY, ()), (RAS, ())]
)
def test_of_two_orientations_the_sform_is_taken_and_a_distance_is_warned_of(
    tmp_path, qform, warnings
):
    volume = load_volume(write_with_two_orientations(tmp_path / "a.nii", qform, RAS, (1, 2)))
    np.testing.assert_array_equal(volume.affine, RAS)
    assert volume.warnings == warnings


def test_no_orientation_is_warned_of_and_refused_where_the_mask_has_one(tmp_path):
    without = write_with_two_orientations(tmp_path / "a.nii", RAS, RAS, (0, 0))
    image = load_volume(without)
    assert image.warnings == (NO_ORIENTATION,)
    mask = nibabel.Nifti1Image((phantom() > 30).astype(np.uint8), RAS)
    nibabel.save(mask, tmp_path / "mask.nii")
    with refused(tmp_path / "mask.nii", "left and right cannot be told"):
        load_mask(tmp_path / "mask.nii", None, image)


# --- voxels of other programs ---


def head_with(value, inside):
    """Voxels of a head in `value`, also at a place inside if asked."""
    voxels = np.full((12, 12, 12), value, np.float32)
    voxels[2:-2, 2:-2, 2:-2] = phantom((8, 8, 8))
    if inside:
        voxels[5:7, 5, 5] = value
    return voxels


def test_nan_outside_the_head_is_background_and_in_the_head_refused(tmp_path):
    zeros = load_volume(write_nifti(tmp_path / "zero.nii", head_with(0, False), RAS))
    volume = load_volume(write_nifti(tmp_path / "nan.nii", head_with(np.nan, False), RAS))
    np.testing.assert_array_equal(volume.voxels, zeros.voxels)
    assert volume.warnings == ("NaN outside the head was taken as background",)
    with refused("inside.nii", "NaN"):
        load_volume(write_nifti(tmp_path / "inside.nii", head_with(np.nan, True), RAS))
    for value in (np.inf, -np.inf):
        with refused("infinite.nii", "infinite"):
            load_volume(write_nifti(tmp_path / "infinite.nii", head_with(value, False), RAS))


@pytest.mark.parametrize("exponent", [-900, -140, -30, 20, 80])
def test_a_power_of_two_in_all_voxels_changes_no_bit(tmp_path, exponent):
    voxels = phantom((9, 10, 11), np.float64)
    plain = load_volume(write_nifti(tmp_path / "a.nii", voxels, RAS)).scaled
    scaled = load_volume(write_nifti(tmp_path / "b.nii", voxels * 2.0**exponent, RAS)).scaled
    np.testing.assert_array_equal(scaled[0], plain[0])
    assert scaled[1:] == plain[1:]


def test_another_factor_in_all_voxels_changes_no_more_than_rounding(tmp_path):
    voxels = np.random.default_rng(0).normal(600, 100, (20, 20, 20))
    plain, times = (
        load_volume(write_nifti(tmp_path / "a.nii", voxels * factor, RAS)).scaled[0].astype(int)
        for factor in (1, 1e6)
    )
    assert np.abs(times - plain).max() <= 1
    assert np.mean(times != plain) < 1e-3
