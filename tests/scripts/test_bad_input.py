"""Bad input, row by row: one line says which file, what is wrong and what to do; the rest goes on.

Every row of `SCANS` is a scan in one tree, beside two good ones, and the tree goes once through
prep.py, as a program of its own with little memory, and through predict.py.
"""

import contextlib
import errno
import gzip
import io
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pandas
import pytest
from conftest import (
    ATLAS_SHAPE,
    LPS,
    OBLIQUE,
    RAS,
    SKIP,
    draw_head,
    predict_by_rule,
    quickly,
    refused,
    write_nifti,
)
from isal import igzip

import predict
import prep
from config import load_settings
from scans.find import Scan, find_scans
from scans.manifest import load_manifest
from scans.names import identify
from scans.prepare import prepare_scan
from scans.reader import SliceReader
from scans.splits import load_split, rows_of
from scans.volumes import load_volume, volume_to_slices
from system.files import save_json

IMAGE, MASK = "_T1w.nii.gz", "_label-L_desc-T1lesion_mask.nii.gz"
MEMORY_BYTES = 4 * 2**30
GOOD = ("sub-good1", "sub-good2")
BESIDE = nibabel.affines.from_matvec(RAS[:3, :3], RAS[:3, 3] + (0.01, 0, 0))


def head(seed=0, shape=ATLAS_SHAPE):
    image, depth = draw_head(np.random.default_rng(seed), shape, 0.4, background=5)
    return image, (depth < 1).astype(np.uint8)


# --- ways to break a scan: each gets the paths of a good image and of its mask ---


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_byte(path):
    """One wrong byte among the voxels, which only the checksum at the end of the file can tell."""
    content = bytearray(gzip.compress(gzip.decompress(path.read_bytes()), 0))
    content[4000] ^= 1
    path.write_bytes(content)


def voxels(change, affine=RAS):
    """Rewrite a file with other voxels."""

    def apply(path):
        before = np.asarray(nibabel.load(path).dataobj)
        write_nifti(path, change(before), affine)

    return apply


def one_voxel(value):
    def change(before):
        after = before.astype(np.float32)
        after[1, 1, 1] = value
        return after

    return voxels(change)


def colours(before):
    after = np.zeros(before.shape, [(name, "u1") for name in "RGB"])
    after["R"] = before / 10
    return after


def header(payload=None, extension=bytes(4), **fields):
    """Write header fields that nibabel would not write; `payload` replaces what follows."""

    def apply(path):
        content = gzip.decompress(path.read_bytes())
        block = nibabel.Nifti1Header(content[:348], check=False)
        for name, value in fields.items():
            block[name] = value
        rest = extension + content[352:] if payload is None else payload
        path.write_bytes(gzip.compress(block.binaryblock + rest))

    return apply


def unzipped(change):
    """The same fault in a file that is not zipped."""

    def apply(path):
        change(path)
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
        return path.with_suffix("")

    return apply


def bomb(path):
    """5 MB that inflate to 5 GB, behind a header that promises a small scan."""
    zeros = gzip.compress(bytes(2**26))
    path.write_bytes(path.read_bytes() + zeros * 80)


def honest_bomb(path):
    header(dim=[3, 2000, 2000, 1300, 1, 1, 1, 1], datatype=2, bitpix=8)(path)
    bomb(path)


def as_pair(path):
    """Store it as two files, as Analyze and older SPM do."""
    pair, image = path.with_suffix("").with_suffix(".img"), nibabel.load(path)
    nibabel.save(nibabel.Nifti1Pair(np.asarray(image.dataobj), image.affine), pair)
    path.unlink()
    return pair


def folder_in_its_place(path):
    path.unlink()
    (path / "inside").mkdir(parents=True)


def link_to_nothing(path):
    path.unlink()
    path.symlink_to("annex/not-fetched")


def no_permission(path):
    path.chmod(0)


def another_name(name):
    """Give image, mask and folder another name."""

    def apply(path):
        folder = path.parent.rename(path.parent.with_name(name))
        for kind in (IMAGE, MASK):
            (old,) = folder.glob(f"*{kind}")
            old.rename(folder / f"{name}{kind}")
        return folder / f"{name}{IMAGE}"

    return apply


def again(path):
    """The same subject and session a second time, in another folder."""
    for kind in (IMAGE, MASK):
        source = path.with_name(path.name.replace(IMAGE, kind))
        target = path.parent / "z copy" / source.name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(source, target)
    return path.parent / "z copy" / path.name


# 10⁹ voxels, and 2 GB that would be believed of a large file.
BILLION = {"dim": [3, 1000, 1000, 1000, 1, 1, 1, 1]}
TWO_GB = {"dim": [3, 1000, 1000, 500, 1, 1, 1, 1], "datatype": 16, "bitpix": 32}
COPY = "copy it anew"

IMAGES = [  # what is wrong, how to make it so, what the line says
    ("truncated gzip", cut, "ended before", COPY),
    ("gzip of the header only", lambda path: path.write_bytes(path.read_bytes()[:100]), COPY),
    ("zero bytes", lambda path: path.write_bytes(b""), "it is empty", COPY),
    ("zero bytes, not zipped", unzipped(lambda path: path.write_bytes(gzip.compress(b""))), COPY),
    (
        "text renamed",
        lambda path: path.write_text("subject,age\n01,70\n"),
        "Not a gzipped file",
        COPY,
    ),
    ("text in gzip", lambda path: path.write_bytes(gzip.compress(b"a,b\n" * 999)), COPY),
    (
        "not zipped, called .gz",
        lambda path: path.write_bytes(gzip.decompress(path.read_bytes())),
        COPY,
    ),
    (
        "gzip header, then noise",
        lambda path: path.write_bytes(path.read_bytes()[:10] + b"\xff" * 4000),
        COPY,
    ),
    ("half a gzip header", lambda path: path.write_bytes(path.read_bytes()[:3]), COPY),
    (
        "text called .nii",
        unzipped(lambda path: path.write_bytes(gzip.compress(b"a,b\n" * 999))),
        COPY,
    ),
    (
        "100 bytes called .nii",
        unzipped(lambda path: path.write_bytes(gzip.compress(bytes(100)))),
        COPY,
    ),
    ("one wrong byte", flip_a_byte, "CRC check failed", COPY),
    (
        "whole gzip of half a scan",
        header(payload=bytes(9999)),
        "promises 57696 bytes, it holds",
        COPY,
    ),
    ("not zipped and cut short", unzipped(header(payload=bytes(99))), "promises 57696 bytes", COPY),
    ("wrong magic", header(magic=b"n+7"), "magic string", COPY),
    ("10⁹ voxels promised", header(**BILLION), "1000×1000×1000 voxels", "500 million are read"),
    ("10⁹ voxels, not zipped", unzipped(header(**BILLION)), "1000×1000×1000 voxels"),
    ("2 GB promised", header(**TWO_GB), "promises 2000000352 bytes", "bytes of file hold", COPY),
    ("2 GB, not zipped", unzipped(header(**TWO_GB)), "promises 2000000352 bytes", COPY),
    ("gzip bomb", bomb, "goes on after the 57696 bytes that its header promises", COPY),
    ("honest gzip bomb", honest_bomb, "2000×2000×1300 voxels", "500 million are read"),
    ("negative dimension", header(dim=[3, 28, -32, 16, 1, 1, 1, 1]), "28×-32×16 voxels", COPY),
    ("no dimension", header(dim=[3, 28, 0, 16, 1, 1, 1, 1]), "28×0×16 voxels", COPY),
    ("voxels far behind the file", header(vox_offset=1e30), "the voxels begin only at byte", COPY),
    ("voxels in the header", header(vox_offset=0), "begin at byte 0, inside the header", COPY),
    ("voxels nowhere", header(vox_offset=np.nan), "not a readable NIfTI file", COPY),
    ("voxel type unknown", header(datatype=77), "data code 77", COPY),
    ("no voxel size", header(pixdim=[1, 0, 1, 1, 0, 0, 0, 0], sform_code=0), "no voxel size", COPY),
    (
        "voxel size NaN",
        header(pixdim=[1, np.nan, 1, 1, 0, 0, 0, 0], sform_code=0),
        "affine",
        "repair",
    ),
    ("affine NaN", header(srow_x=[np.nan] * 4), "affine is not usable", "repair"),
    ("affine flat", header(srow_x=[0] * 4), "affine is not usable", "repair"),
    ("axes that fall together", header(srow_z=[1e2, 0, 1e-2, 0]), "affine is not usable", "repair"),
    ("voxels of 2 m", header(srow_x=[2000, 0, 0, 0]), "affine is not usable", "repair"),
    ("2D", voxels(lambda v: v[:, :, 8]), "2 dimensions (28, 32)", "one 3D volume"),
    ("4D", voxels(lambda v: np.stack([v, v], 3)), "4 dimensions (28, 32, 16, 2)", "one 3D volume"),
    ("NaN", one_voxel(np.nan), "1 voxels are NaN or infinite", "leave out"),
    ("infinite", one_voxel(-np.inf), "1 voxels are NaN or infinite", "leave out"),
    ("too large for any image", one_voxel(3e38), "to 3e+38", "leave out"),
    ("slope too large", header(scl_slope=1e38), "NaN or infinite", "leave out"),
    ("intercept NaN", header(scl_slope=1, scl_inter=np.nan), "intercept", COPY),
    ("all zero", voxels(np.zeros_like), "every voxel is 0", "leave it out"),
    ("constant", voxels(lambda v: np.full_like(v, 7)), "every voxel is 7", "leave it out"),
    ("colours", voxels(colours), "NIFTI_TYPE_RGB24", "one real number"),
    ("complex", voxels(lambda v: v.astype(np.complex64)), "COMPLEX64", "one real number"),
    ("dangling link", link_to_nothing, "a link to annex/not-fetched, which is not there", "put"),
    ("name with a line end", another_name("two\nlines"), "its name is not printable", "rename it"),
    (
        "name in no encoding",
        another_name("Gr\udcf6\udcdfe"),
        "its name is not printable",
        "rename it",
    ),
    ("magic of a pair", header(magic=b"ni1"), ".img file", "convert it to .nii.gz"),
]
if os.geteuid() != 0:  # Root may read anything.
    IMAGES.append(("no read permission", no_permission, "may not be read", "ask for permission"))

# What prep.py alone can find: it looks for names, and for masks.
TREES = [
    ("folder called .nii.gz", folder_in_its_place, "is a folder", "put the file itself"),
    (".hdr/.img pair", as_pair, "half of an .hdr/.img pair", "convert it to .nii.gz"),
    ("duplicate subject", again, "same subject and session as", "keep one"),
]
MASKS = [
    ("mask missing", Path.unlink, "its mask", "is missing", "put it there"),
    ("mask an .hdr/.img pair", as_pair, "its mask", "an .hdr/.img pair", "convert it to .nii.gz"),
    ("mask cut short", cut, "not a readable NIfTI file", COPY),
    ("mask a dangling link", link_to_nothing, "a link to annex/not-fetched"),
    (
        "mask of another shape",
        voxels(lambda v: v[1:]),
        "27×32×16 voxels and its image 28×32×16",
        "resample",
    ),
    ("mask elsewhere", voxels(lambda v: v, OBLIQUE), "affine differs", "on the image's grid"),
    ("mask 0.01 mm beside", voxels(lambda v: v, BESIDE), "affine differs", "on the image's grid"),
    ("mask of another orientation", voxels(lambda v: v, LPS), "affine differs"),
    ("mask 0/1/255", one_voxel(255), "0, 1, 255", "binary", "repair"),
    ("mask 0/2", voxels(lambda v: v * 2), "0, 2", "binary", "repair"),
    ("mask infinite", one_voxel(np.inf), "inf", "binary", "repair"),
    ("mask of 3 labels", voxels(lambda v: v * 2 + (v[::-1] > 0)), "0, 1, 2", "binary", "repair"),
    ("mask 0/0.5/1", one_voxel(0.5), "0, 0.5, 1", "binary", "repair"),
    ("mask negative", one_voxel(-1), "-1, 0, 1", "binary", "repair"),
    ("mask NaN", one_voxel(np.nan), "nan", "binary", "repair"),
]
ON_THE_IMAGE = {"mask missing", "mask an .hdr/.img pair"}


# --- scans that look odd and are good ---


def int16_with_slope(path):
    image = nibabel.load(path)
    stored = nibabel.Nifti1Image(np.asarray(image.dataobj).astype(np.int16), image.affine)
    stored.header.set_slope_inter(2.5, -10)
    nibabel.save(stored, path)


def big_endian(path):
    image = nibabel.load(path)
    nibabel.save(
        nibabel.Nifti1Image(image.dataobj, image.affine, image.header.as_byteswapped(">")), path
    )


def nifti_2(path):
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti2Image(np.asarray(image.dataobj), image.affine), path)


def on_grid(affine):
    def apply(image):
        for kind in (IMAGE, MASK):
            voxels(lambda v: v, affine)(image.with_name(image.name.replace(IMAGE, kind)))

    return apply


def mask_of(change):
    return lambda image: change(image.with_name(image.name.replace(IMAGE, MASK)))


def hidden_beside(path):
    path.with_name(f"._{path.name}").write_bytes(b"left behind by macOS")
    (path.parent / ".trash").mkdir()
    shutil.copy(path, path.parent / ".trash" / "sub-hidden_T1w.nii.gz")


ACCEPTED = [
    ("mask 0/255", mask_of(voxels(lambda v: v * 255))),
    ("mask empty", mask_of(voxels(np.zeros_like))),
    ("int16 with scale slope", int16_with_slope),
    ("slope 0, which is none", header(scl_slope=0)),
    ("slope NaN, which is none", header(scl_slope=np.nan)),
    ("big-endian", big_endian),
    ("NIfTI-2", nifti_2),
    ("not zipped", unzipped(lambda path: None)),
    ("oblique", on_grid(OBLIQUE)),
    ("LPS", on_grid(LPS)),
    ("4D of one volume", voxels(lambda v: v[..., None])),
    (
        "filled up at the end",
        lambda path: header(payload=gzip.decompress(path.read_bytes())[348:] + bytes(999))(path),
    ),
    (
        "extension of an odd size",
        header(vox_offset=372, extension=b"\1\0\0\0" + struct.pack("<ii", 20, 6) + bytes(12)),
    ),
    ("zeros behind the gzip stream", lambda path: path.write_bytes(path.read_bytes() + bytes(99))),
    (
        "gzip in two members",
        lambda path: path.write_bytes(
            gzip.compress(gzip.decompress(path.read_bytes())[:500])
            + gzip.compress(gzip.decompress(path.read_bytes())[500:])
        ),
    ),
    ("spaces and Unicode", another_name("Größe 脳 №1 (copy) $x$ <b>&'")),
    ("hidden files beside", hidden_beside),
]


def ids(rows):
    return [row[0] for row in rows]


def write_scan(folder, subject, seed):
    image, mask = head(seed)
    write_nifti(folder / f"{subject}{MASK}", mask, RAS)
    return write_nifti(folder / f"{subject}{IMAGE}", image, RAS)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A folder with all the scans of the tables; `.blamed` says which file each row is about."""
    folder, blamed = tmp_path_factory.mktemp("study") / "scans", {}
    for number, name in enumerate(GOOD):
        write_scan(folder / name, name, number)
    for number, (name, change, *_) in enumerate(IMAGES + TREES + MASKS + ACCEPTED):
        image = write_scan(folder / f"sub-{number:02}", f"sub-{number:02}", 10 + number)
        mask = image.with_name(image.name.replace(IMAGE, MASK))
        if name in ids(MASKS):
            change(mask)
            blamed[name] = image
        else:
            blamed[name] = image
            if isinstance(found := change(image), Path):
                blamed[name] = found
    return SimpleNamespace(folder=folder, blamed=blamed)


def settings(**overrides):
    """Arguments for two or more subjects in 2 folds, with all of them cut into small slices."""
    values = {
        "geometry.align": "none",
        "geometry.brain": "keep",
        "slices.size": 32,
        "slices.skip": SKIP,
        "split.folds": 2,
        "split.test_fraction": 0,
        "paths.brats17": "none",
    }
    values |= {name.replace("__", "."): value for name, value in overrides.items()}
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]


def limit_memory():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def start_prep(*words):
    return subprocess.run(
        [sys.executable, prep.__file__, *words],
        capture_output=True,
        text=True,
        preexec_fn=limit_memory,
        check=False,
        timeout=300,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def prepared_tree(tree):
    """What `prep.py` made of the tree: `.code`, `.lines` of the bad scans, `.folder`, `.output`."""
    folder = tree.folder.with_name("prepared")
    done = start_prep(*settings(paths__atlas=tree.folder, paths__prepared=folder))
    assert "left out" in done.stdout, done.stderr
    before, bad = done.stdout.split("left out:\n")
    bad, after = bad.split("\n\n", 1)
    return SimpleNamespace(
        code=done.returncode,
        lines=bad.splitlines(),
        folder=folder,
        output=before + after,
        error=done.stderr,
    )


def subject_of(image):
    return identify(image.relative_to(image.parents[1]))[0]


def as_shown(path):
    return str(path).replace("\n", "\\n").encode("utf-8", "backslashreplace").decode()


def line_about(path, lines):
    """The one line that begins with this file."""
    name = as_shown(path)
    (line,) = [line for line in lines if line.strip().startswith(f"{name}: ")]
    return line.strip().removeprefix(f"{name}: ")


@pytest.mark.parametrize("row", IMAGES + TREES + MASKS, ids=ids(IMAGES + TREES + MASKS))
def test_prep_says_in_one_line_which_file_and_what_is_wrong(tree, prepared_tree, row):
    name, _, *says = row
    image = tree.blamed[name]
    line = line_about(image, prepared_tree.lines)
    if row in MASKS and name not in ON_THE_IMAGE:
        assert line.startswith(f"{as_shown(image).replace(IMAGE, MASK)}: ")
    assert [words for words in says if words not in line] == [], line


def test_prep_says_nothing_else_and_ends_with_1(prepared_tree):
    assert prepared_tree.code == 1
    assert len(prepared_tree.lines) == len(IMAGES + TREES + MASKS)
    assert prepared_tree.error == ""


def test_prep_makes_the_slices_of_all_other_scans(tree, prepared_tree):
    rows = load_manifest(prepared_tree.folder, "atlas")
    subjects = {subject_of(tree.blamed[name]) for name in ids(ACCEPTED)} | set(GOOD)
    # The first of two scans of one name stays.
    subjects.add(tree.blamed["duplicate subject"].parents[1].name)
    assert set(rows.subject) == subjects
    assert (rows.groupby("subject").size() == ATLAS_SHAPE[2] - 2 * SKIP).all()
    for name in GOOD:
        mask = nibabel.load(tree.folder / name / f"{name}{MASK}").get_fdata()[:, :, SKIP:-SKIP]
        found = rows.lesion_pixels[rows.subject == name]
        np.testing.assert_array_equal(found, mask.sum((0, 1)))


@pytest.mark.parametrize("name", [n for n in ids(ACCEPTED) if n not in ("LPS", "oblique")])
def test_an_odd_but_good_scan_gives_the_plain_slices(tree, prepared_tree, name):
    """Byte order, slope, zipping and names change nothing in what the network gets."""
    number = 10 + ids(IMAGES + TREES + MASKS + ACCEPTED).index(name)
    voxels, mask = head(number)
    images, masks = (
        np.load(prepared_tree.folder / "atlas" / kind / f"{subject_of(tree.blamed[name])}.npy")
        for kind in ("images", "masks")
    )
    plain, lesion = (volume_to_slices(v, 32)[SKIP:-SKIP] for v in (voxels, mask))
    assert np.corrcoef(images[plain > 0], plain[plain > 0])[0, 1] > 0.999
    np.testing.assert_array_equal(masks, lesion * (name != "mask empty"))


def test_an_empty_mask_is_accepted_and_said(tree, prepared_tree):
    subject = tree.blamed["mask empty"].parent.name
    assert f"1 scan with an empty mask, taken as free of lesions: {subject}" in prepared_tree.output


# --- predict.py on the same scans ---


@pytest.fixture(scope="module")
def predicted_tree(tree, tmp_path_factory):
    """What `predict.py` says of the tree; a rule takes the place of the network."""
    run = tmp_path_factory.mktemp("run")
    load_settings(None, ["geometry.align=none", "geometry.brain=keep"]).save(run / "config.yaml")
    (run / "best.weights.h5").write_bytes(b"not read")
    output, said = tree.folder.with_name("predicted"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        quickly(patch)
        predict_by_rule(patch, lambda volume, flip: volume.voxels < 300)
        words = [tree.folder, "--output", output, "--weights", run / "best.weights.h5"]
        code = predict.main([str(word) for word in words])
    return SimpleNamespace(code=code, said=said.getvalue(), folder=output)


@pytest.mark.parametrize("row", IMAGES, ids=ids(IMAGES))
def test_predict_says_which_file_and_what_is_wrong(tree, predicted_tree, row):
    name, _, *says = row
    _, line = predicted_tree.said.split(f"left out {as_shown(tree.blamed[name])}")
    reason = line.splitlines()[0]
    assert [words for words in says if words not in reason] == [], reason


def test_predict_makes_the_masks_of_all_other_scans_and_ends_with_1(tree, predicted_tree):
    assert predicted_tree.code == 1
    made = {path.name.split("_")[0] for path in predicted_tree.folder.rglob("*.nii.gz")}
    good = [tree.blamed[name] for name in ids(ACCEPTED)]
    assert {path.name.split("_")[0] for path in good} | set(GOOD) <= made
    assert made.isdisjoint(tree.blamed[name].name.split("_")[0] for name in ids(IMAGES))


# --- folders ---


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([], "found nothing in it"),
        (["._sub-1_T1w.nii.gz"], "found nothing in it"),
        (["ATLAS_R2.0_encrypted.tar.gz", "notes.txt"], "ATLAS_R2.0_encrypted.tar.gz and 1 more"),
        (["HGG/Brats17_2013_2_1_t1.nii"], "Brats17_2013_2_1_t1.nii and 0 more NIfTI files"),
    ],
    ids=["empty", "hidden only", "not unpacked", "the other data set"],
)
def test_a_wrong_folder_says_what_was_expected_and_what_was_found(tmp_path, names, found):
    put(tmp_path, *names)
    words = settings(paths__atlas=tmp_path, paths__prepared=tmp_path / "out")
    expected = f"NAME{IMAGE} with NAME{MASK}"
    with refused(tmp_path, expected, found, "paths.atlas", "atlas.image_suffix"):
        prep.main(words)


def test_a_folder_that_may_not_be_looked_into_is_named(tmp_path, monkeypatch):
    put(tmp_path, f"a/x{IMAGE}", f"a/x{MASK}", "b/file")
    scandir = os.scandir

    def without_the_right(path):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", without_the_right)
    scans, problems, _ = find_scans(tmp_path, "atlas", "_T1w", ["_label-L_desc-T1lesion_mask"])
    assert len(scans) == 1
    ((folder, reason),) = problems
    assert folder == str(tmp_path / "b")
    assert reason.startswith("cannot be opened (Permission denied)")


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch, name):
    """Also where the tests run as root, who may read anything."""
    path = write_nifti(tmp_path / name, head()[0], RAS)

    def without_the_right(*arguments):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", without_the_right)
    monkeypatch.setattr(igzip, "open", without_the_right)
    with refused(f"{path}: may not be read (Permission denied); ask for permission"):
        load_volume(path)


def test_an_output_that_cannot_be_written_is_refused_before_any_scan_is_read(tmp_path, monkeypatch):
    for number, name in enumerate(GOOD):
        write_scan(tmp_path / "scans", name, number)
    (tmp_path / "file").touch()
    monkeypatch.setattr(
        "scans.preparation.prepare_scans", lambda *_: pytest.fail("began all the same")
    )
    for output in (tmp_path / "file" / "prepared", tmp_path / "file"):
        with refused(output, "cannot be written", "choose another folder"):
            prep.main(settings(paths__atlas=tmp_path / "scans", paths__prepared=output))


def test_a_read_only_output_is_refused(tmp_path, monkeypatch):
    def deny(*, dir):
        raise PermissionError(errno.EACCES, "Permission denied", dir)

    for seed, name in enumerate(GOOD):
        write_scan(tmp_path / "scans", name, seed)
    (tmp_path / "out").mkdir(mode=0o500)
    if os.geteuid() == 0:  # Root may write anywhere.
        monkeypatch.setattr("system.files.tempfile.TemporaryFile", deny)
    with refused(tmp_path / "out", "Permission denied", "choose another folder"):
        prep.main(settings(paths__atlas=tmp_path / "scans", paths__prepared=tmp_path / "out"))


def test_slices_that_cannot_be_replaced_are_named(tmp_path, monkeypatch):
    """A folder that became read-only after the first time, and a setting that has changed."""
    image = write_scan(tmp_path, GOOD[0], 0)
    mask = image.with_name(image.name.replace(IMAGE, MASK))
    scan = Scan("atlas", GOOD[0], "", "R001", image, (mask,))
    made = load_settings(None, settings()[1::2])
    changed = load_settings(None, settings(slices__size=48)[1::2])
    prepare_scan(scan, tmp_path / "out", None, made.slices, made.geometry)

    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", read_only)
    with refused(tmp_path / "out/atlas/sub-good1.json", "Read-only file system"):
        prepare_scan(scan, tmp_path / "out", None, changed.slices, changed.geometry)


# --- files of ours, edited by hand ---


EDITS = [  # column, its new value in the third row, what the line says
    ("z", "1.5", "not a table of slices"),
    ("z", "three", "not a table of slices"),
    ("z", "-3", "line 4: z is negative"),
    ("z", "99", "line 4: z and position do not fit the other slices"),
    ("z", "2", "line 4: the same slice stands there twice"),
    ("lesion_pixels", "-1", "line 4: lesion_pixels is negative"),
    ("lesion_pixels", "2.5", "not a table of slices"),
    ("z", "99999999999999999999", "not a table of slices"),
    ("lesion_pixels", "", "not a table of slices"),
    ("position", "-1", "line 4: position is negative"),
    ("position", "7", "line 4: z and position do not fit the other slices"),
    ("mean", "nan", "not a table of slices"),
    ("mean", "-inf", "line 4: mean and std"),
    ("std", "0", "line 4: mean and std"),
    ("std", "bright", "not a table of slices"),
    ("image", "", "line 4: image is not a file below this folder"),
    ("image", "/etc/passwd", "line 4: image is not a file below this folder"),
    ("image", "/etc/secret.npy", "line 4: image is not a file below this folder"),
    ("image", "../other/a.npy", "line 4: image is not a file below this folder"),
    ("mask", "atlas/../../a.npy", "line 4: mask is not a file below this folder"),
    ("mask", "..\\a.npy", "line 4: mask is not a file below this folder"),
    ("mask", "atlas/masks/a.pkl", "line 4: mask is not a file below this folder"),
    ("subject", "../../etc/x", "line 4: subject is not a name"),
    ("session", "..", "line 4: session is not a name"),
    ("dataset", "/tmp", "line 4: dataset is not a name"),
]


@pytest.mark.parametrize(("column", "value", "says"), EDITS, ids=lambda value: str(value))
def test_a_manifest_edited_into_nonsense_is_refused_by_its_line(
    prepared, tmp_path, column, value, says
):
    table = pandas.read_csv(prepared / "slices.csv", dtype=str, keep_default_na=False)
    table.loc[2, column] = value
    table.to_csv(tmp_path / "slices.csv", index=False)
    with refused(tmp_path / "slices.csv", says, "run prep.py again"):
        load_manifest(tmp_path, "atlas")


@pytest.mark.parametrize("by", ["lesion_pixels", "z"])
def test_a_manifest_in_another_order_is_refused(prepared, tmp_path, by):
    """A network sees the rows before and after a slice as the slices below and above it."""
    table = pandas.read_csv(prepared / "slices.csv", dtype=str, keep_default_na=False)
    table = table.sort_values(by, key=pandas.to_numeric, kind="stable")
    table.to_csv(tmp_path / "slices.csv", index=False)
    with refused(tmp_path / "slices.csv", "do not follow one another", "run prep.py again"):
        load_manifest(tmp_path, "atlas")


def test_a_stack_of_another_kind_is_refused_when_it_is_read(prepared, tmp_path):
    rows = load_manifest(prepared, "atlas")
    for number, stack in enumerate((np.zeros((12, 32, 32)), np.zeros(99, np.uint8))):
        path = tmp_path / str(number) / rows.image[0]
        path.parent.mkdir(parents=True)
        np.save(path, stack)
        with refused(path, "not a stack of slices", "run prep.py again"):
            SliceReader(tmp_path / str(number), rows).read(0)


def test_a_place_behind_the_end_of_a_stack_is_refused_when_it_is_read(prepared):
    rows = load_manifest(prepared, "atlas")
    rows.loc[0, "position"] = 99
    with refused(prepared / rows.image[0], "99", "run prep.py again"):
        SliceReader(prepared, rows).read(0)


def test_slices_that_were_deleted_are_made_again(tmp_path):
    image = write_scan(tmp_path, GOOD[0], 0)
    mask = image.with_name(image.name.replace(IMAGE, MASK))
    scan = Scan("atlas", GOOD[0], "", "R001", image, (mask,))
    made = load_settings(None, settings()[1::2])
    for _ in range(2):
        prepare_scan(scan, tmp_path / "out", None, made.slices, made.geometry)
        stack = tmp_path / "out/atlas/masks/sub-good1.npy"
        assert stack.exists()
        stack.unlink()


@pytest.mark.parametrize(
    "split",
    [
        {"test": [], "folds": {"subject": "abc"}},
        {"test": "ab", "folds": {"subject": [["a"], ["b"]]}},
        {"test": [], "folds": {"subject": [["a"], "bc"]}},
        {"test": [], "folds": {"subject": [["a"], [1]]}},
        {"test": [], "folds": {"subject": [["a"], [{"subject": "b"}]]}},
        {"test": None, "folds": {"subject": [["a"], ["b"]]}},
        {"test": [], "folds": {"subject": {"0": ["a"]}}},
        {"test": [], "folds": {"subject": [["a"], None]}},
        {"test": [], "folds": [["a"], ["b"]]},
        [["a"], ["b"]],
    ],
    ids=str,
)
def test_a_split_file_edited_into_nonsense_is_refused(tmp_path, split):
    save_json(tmp_path / "splits.json", {"atlas": split})
    with refused(tmp_path / "splits.json", "run prep.py again"):
        load_split(tmp_path, "atlas", 0)


def test_a_split_file_with_an_unknown_subject_is_refused(prepared, tmp_path):
    content = json.loads((prepared / "splits.json").read_text())
    content["atlas"]["folds"]["subject"][0].append("sub-unknown")
    save_json(tmp_path / "splits.json", content)
    with refused("slices.csv: sub-unknown is missing from it", "run prep.py again"):
        rows_of(load_manifest(prepared, "atlas"), load_split(tmp_path, "atlas", 0))
