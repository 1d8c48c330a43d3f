"""Data folders of all kinds: each scan is used, or named once, and nothing of the user's changes."""

import contextlib
import io
import json
import re
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pandas
import pytest
from conftest import RAS, draw_head, predict_by_rule, quickly, write_nifti
from hypothesis import given, settings
from hypothesis import strategies as st

import predict
import prep
from prediction import saving
from scans import preparation
from system.files import InputError, one_line

SHAPE = (14, 16, 8)
MASK = "_label-L_desc-T1lesion_mask"
SCAN = st.fixed_dictionaries(
    {
        "place": st.sampled_from(["", "Training/R001", "Testing/R002", "a b/Größe", "derivatives"]),
        "subject": st.sampled_from(["sub-r001s001", "sub-r001s002", "sub-r002s001", "sub-x"]),
        "session": st.sampled_from(["", "_ses-1", "_ses-2"]),
        "entity": st.sampled_from(["", "_run-2", "_acq-mprage"]),
        "odd": st.sampled_from(["", "", "", "_new\nline", "_№1"]),
        "linked": st.booleans(),
        "mask": st.sampled_from(
            ["good"] * 4 + ["missing", "missing", "second", "0/255", "shape", "inverted", "folder"]
        ),
        "image": st.sampled_from(
            ["good"] * 4
            + ["mirrored", "no orientation", "nan outside", "nan inside", "text", "dangling"]
        ),
    }
)


def write_image(path, kind, voxels):
    voxels = voxels.copy()
    if kind == "nan outside":
        voxels[voxels == 0] = np.nan
    if kind == "nan inside":
        voxels[7, 8, 4] = np.nan
    image = nibabel.Nifti1Image(voxels, RAS)
    image.set_sform(RAS, 1)
    image.set_qform(np.diag([-1.0, 1, 1, 1]) @ RAS if kind == "mirrored" else RAS, 1)
    content = bytearray(image.to_bytes())
    if kind == "no orientation":
        content[252:256] = bytes(4)
    if kind == "text":
        content = b"no image"
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "dangling":
        path.symlink_to(path.with_name("annexed"))
    else:
        path.write_bytes(content)


def write_tree(folder, store, scans):
    """Write the drawn scans below a folder; those that are linked lie below `store`."""
    for number, scan in enumerate(scans):
        root = store if scan["linked"] else folder
        anat = root / scan["place"] / scan["subject"] / f"anat{number}"
        stem = f"{scan['subject']}{scan['session']}{scan['entity']}{scan['odd']}"
        voxels, depth = draw_head(np.random.default_rng(number), SHAPE, 0.4, background=0)
        write_image(anat / f"{stem}_T1w.nii", scan["image"], voxels)
        lesion = (depth < 1).astype(np.uint8)
        kind, mask = scan["mask"], anat / f"{stem}{MASK}.nii"
        if kind == "folder":
            mask.mkdir()
        elif kind != "missing":
            lesion = {"0/255": lesion * 255, "shape": lesion[1:], "inverted": 1 - lesion}.get(
                kind, lesion
            )
            write_nifti(mask, lesion, RAS)
        if kind == "second":
            write_nifti(anat / f"{stem}_label-L_desc-T1lesion2_mask.nii", lesion, RAS)
        if scan["linked"]:
            link = folder / scan["place"] / scan["subject"] / anat.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(anat)
    # A link that leads round in a circle.
    (folder / "circle").symlink_to(folder)


def contents(*folders):
    """Read all files below folders, links included."""
    return {
        path: path.readlink() if path.is_symlink() else path.read_bytes()
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def run(script, words):
    """Call a script; return its exit code, or 2 if it refused, and what it said."""
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
        try:
            code = script.main([str(word) for word in words])
        except InputError as error:
            assert "\n" not in str(error)
            return 2, f"{said.getvalue()}\n{error}"
    return code, said.getvalue()


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        quickly(patch)
        predict_by_rule(patch, lambda volume, flip: volume.voxels > 700)
        patch.setattr(saving, "save_overlay", lambda *_: _[-1].touch())
        patch.setattr(preparation, "find_near_duplicates", lambda found: range(len(found)))
        yield


SCANS = st.lists(SCAN, min_size=1, max_size=6)
# With these there are two subjects for two folds.
GOOD = [
    {"place": "", "subject": f"sub-good{number}", "session": "", "entity": "", "odd": ""}
    | {"linked": False, "mask": "good", "image": "good"}
    for number in (1, 2)
]


def test_prep_uses_each_scan_or_names_it_once():
    through = []

    @settings(max_examples=25)
    @given(scans=SCANS)
    def check(scans):
        through.append(prep_uses_each_scan_or_names_it_once([*GOOD, *scans]))

    check()
    assert sum(through) >= 20


def prep_uses_each_scan_or_names_it_once(scans):
    """Say whether prep.py had something to do."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, store, out = (Path(temporary, name) for name in ("data", "store", "out"))
        write_tree(folder, store, scans)
        before = contents(folder, store)
        words = [f"paths.atlas={folder}", f"paths.brats17={store}/none", f"paths.prepared={out}"]
        words += [
            "geometry.align=none",
            "geometry.brain=keep",
            "slices.size=32",
            "slices.skip=1",
            "split.folds=2",
            "split.test_fraction=0",
        ]
        words = [word for setting in words for word in ("--set", setting)]
        code, said = run(prep, words)
        assert contents(folder, store) == before
        if code == 2:
            # Nothing to prepare, or too few subjects for two folds.
            assert "Traceback" not in said
            return False
        used = [
            json.loads(path.read_text())["made_from"]["image"] for path in out.glob("atlas/*.json")
        ]
        assert len(set(used)) == len(used)
        noted = re.findall("below (.*): for predict.py", said)
        for image in folder.rglob("*_T1w.nii"):
            named = [
                line for line in said.splitlines() if line.startswith(f"  {one_line(image)}: ")
            ]
            waiting = [folder for folder in noted if image.is_relative_to(folder)]
            count = (str(image) in used) + len(named) + bool(waiting)
            assert count == 1, (str(image), said)
        assert code == (1 if "\nleft out:\n" in said else 0)
        first = contents(out)
        assert run(prep, words)[0] == code
        assert contents(out) == first
        return True


def test_predict_outlines_each_scan_or_names_it_once(weights):
    through = []

    @settings(max_examples=25)
    @given(scans=SCANS, drawn_by_hand=st.booleans())
    def check(scans, drawn_by_hand):
        through.append(predict_outlines_each_scan_or_names_it_once(weights, scans, drawn_by_hand))

    check()
    assert sum(through) >= 15


def predict_outlines_each_scan_or_names_it_once(weights, scans, drawn_by_hand):
    """Say whether predict.py had something to do."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, store, out = (Path(temporary, name) for name in ("data", "store", "out"))
        write_tree(folder, store, scans)
        if drawn_by_hand:
            out = folder
            image = min(folder.rglob("*_T1w.nii"), default=None) or min(store.rglob("*_T1w.nii"))
            stem = image.name.removesuffix("_T1w.nii")
            mine = image.with_name(f"{stem}_label-L_desc-lesion_mask.nii.gz")
            mine.write_bytes(b"drawn by hand")
        before = contents(folder, store)
        words = [folder, "--output", out, "--weights", weights]
        code, said = run(predict, words)
        after = contents(folder, store)
        assert {path: after.get(path) for path in before} == before
        if code == 2:
            return False
        rows = (
            pandas.read_csv(out / "predictions.csv").scan.tolist()
            if "predictions.csv" in {path.name for path in out.iterdir()}
            else []
        )
        assert len(set(rows)) == len(rows)
        images = [
            path
            for path in before
            if path.name.endswith("_T1w.nii") and path.is_relative_to(folder)
        ]
        for image in images:
            named = [line for line in said.splitlines() if f"left out {one_line(image)}: " in line]
            assert (str(image) in rows) + len(named) == 1, (str(image), said)
        first = {
            path: content
            for path, content in contents(out).items()
            if path.name != "predictions.csv"
        }
        assert run(predict, words)[0] == code
        assert {path: content for path, content in contents(out).items() if path in first} == first
        return True
