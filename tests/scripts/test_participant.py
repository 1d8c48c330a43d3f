"""A BIDS data set in, derivatives that the official validator accepts out."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pandas
import pytest
from conftest import predict_by_rule, quickly, refused, write_nifti
from native_scans import BELOW, BRIGHT, INSIDE, align_once, native_scan
from nibabel.affines import apply_affine, from_matvec
from PIL import Image

import participant
from config import load_settings
from prediction import group_pictures
from prediction.bids import claim_derivatives
from prediction.bids_outputs import SPACE, as_itk
from prediction.bids_tables import save_tables
from prediction.group_pictures import save_map
from scans import geometry
from scans.template import AFFINE, SHAPE, load_template
from system.files import load_json

FIRST = "sub-01/anat/sub-01_T1w.nii.gz"
SCANS = {  # below the data set: how it is stored
    FIRST: "RAS",
    "sub-02/ses-a/anat/sub-02_ses-a_acq-x_run-1_chunk-2_T1w.nii.gz": "PSR",
    "sub-02/ses-b/anat/sub-02_ses-b_T1w.nii": "LAS",
}
ON_TEMPLATE = f"sub-03/anat/sub-03_space-{SPACE}_T1w.nii.gz"


def on_template(base):
    """Give a scan's name the space of the template, where BIDS wants it: before ``chunk-``."""
    before, chunk, after = base.partition("_chunk-")
    return f"{before}_space-{SPACE}{chunk}{after}"


def write_data_set(folder, scans=SCANS):
    for seed, (name, orientation) in enumerate(scans.items()):
        image, _ = native_scan(seed, orientation)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(image, folder / name)
    about = {"Name": "Try", "BIDSVersion": "1.10.0", "Authors": ["A. B.", "C. D."]}
    (folder / "dataset_description.json").write_text(json.dumps(about))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights whose network is not asked: what is brightest in the brain is lesion."""
    folder = tmp_path_factory.mktemp("run")
    load_settings(None, []).save(folder / "config.yaml")
    (folder / "best.weights.h5").write_bytes(b"not read")
    return folder / "best.weights.h5"


def without_network(patch):
    quickly(patch)
    predict_by_rule(patch, lambda volume, flip: volume.voxels > BRIGHT / 2)
    patch.setattr(geometry, "align", align_once)


@pytest.fixture(autouse=True)
def bright_is_lesion(monkeypatch):
    without_network(monkeypatch)


def run(source, output, weights, *more):
    words = [source, output, "participant", "--weights", weights, *more]
    return participant.main([str(word) for word in words])


@pytest.fixture(scope="module")
def done(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bids")
    source, output = folder / "raw", folder / "raw" / "derivatives" / "lacuna"
    write_data_set(source)
    template = load_template().voxels.copy()
    template[INSIDE] = BRIGHT
    write_nifti(source / ON_TEMPLATE, template, AFFINE)
    with pytest.MonkeyPatch.context() as patch:
        without_network(patch)
        code = run(source, output, weights)
    return SimpleNamespace(source=source, output=output, code=code)


def table(folder, name):
    return pandas.read_csv(folder / f"{name}.tsv", sep="\t", dtype={"participant_id": str})


def test_every_scan_gets_its_derivatives_where_bids_has_them(done):
    assert done.code == 0
    found = {str(p.relative_to(done.output)) for p in done.output.rglob("*") if p.is_file()}
    expected = {
        *(
            "dataset_description.json",
            ".bidsignore",
            "README.md",
            ".participant.lock",
            "report.html",
        ),
        *("lesions.tsv", "lesions.json", "scans.tsv", "scans.json"),
        *("figures/where.png", "figures/volumes.png"),
    }
    for name in (*SCANS, ON_TEMPLATE):
        folder = Path(name).parent
        base = Path(name).name.split("_T1w")[0]
        stems = [f"{base}_label-L_desc-lesion"]
        if name != ON_TEMPLATE:
            stems.append(f"{on_template(base)}_label-L_desc-lesion")
            expected.add(str(folder / f"{base}_from-T1w_to-{SPACE}_mode-image_xfm.txt"))
        for stem in stems:
            for kind in ("mask", "probseg"):
                expected |= {str(folder / f"{stem}_{kind}{end}") for end in (".nii.gz", ".json")}
        expected.add(str(folder.parent / "figures" / f"{stems[0]}_mask.png"))
    assert found == expected


@pytest.mark.slow
def test_the_official_validator_says_nothing(done):
    validator = Path(sys.executable).with_name("bids-validator-deno")
    words = [validator, "--format", "json", done.output]
    said = subprocess.run(words, capture_output=True, text=True)
    issues = json.loads(said.stdout)["issues"]["issues"]
    # The scan on the template was written without a unit, and its mask has its header.
    unit = [i for i in issues if i["code"] == "NIFTI_UNIT" and "sub-03" in i["location"]]
    assert [i for i in issues if i not in unit] == []
    assert said.returncode == 0


def test_masks_lie_on_the_scan_s_grid_and_on_the_template_s(done):
    for seed, (name, orientation) in enumerate(SCANS.items()):
        folder, base = (done.output / name).parent, Path(name).name.split("_T1w")[0]
        image, truth = native_scan(seed, orientation)
        mask = nibabel.load(folder / f"{base}_label-L_desc-lesion_mask.nii.gz")
        assert mask.shape == image.shape
        np.testing.assert_allclose(mask.affine, image.affine, atol=1e-5)
        assert dice(mask, truth.dataobj) > 0.75
        brought = nibabel.load(folder / f"{on_template(base)}_label-L_desc-lesion_mask.nii.gz")
        assert brought.shape == SHAPE
        np.testing.assert_array_equal(brought.affine, AFFINE)
        wanted = np.zeros(SHAPE, bool)
        wanted[INSIDE] = wanted[BELOW] = True
        assert dice(brought, wanted) > 0.75
        soft = nibabel.load(folder / f"{on_template(base)}_label-L_desc-lesion_probseg.nii.gz")
        assert soft.get_data_dtype() == np.float32
        assert soft.get_fdata().min() >= 0 and 0.9 < soft.get_fdata().max() <= 1


def dice(image, wanted):
    found, wanted = np.asarray(image.dataobj) > 0, np.asarray(wanted) > 0
    return 2 * (found & wanted).sum() / (found.sum() + wanted.sum())


def test_the_transform_brings_the_scan_to_the_template_as_ants_reads_it(done):
    """Applied by ITK's own rule: x' = A x + t, in LPS, from points of the template to the scan's."""
    file = (done.output / FIRST).with_name(f"sub-01_from-T1w_to-{SPACE}_mode-image_xfm.txt")
    text = file.read_text()
    kind, numbers, fixed = (line.split(": ")[1] for line in text.splitlines()[2:])
    assert kind == "MatrixOffsetTransformBase_double_3_3" and fixed == "0 0 0"
    values = np.array(numbers.split(), float)
    matrix, offset = values[:9].reshape(3, 3), values[9:]
    centre = apply_affine(AFFINE, [np.mean([s.start, s.stop - 1]) for s in INSIDE])
    lps = matrix @ (centre * (-1, -1, 1)) + offset
    image, truth = native_scan(0, "RAS")
    voxel = apply_affine(np.linalg.inv(image.affine), lps * (-1, -1, 1)).round().astype(int)
    assert np.asarray(truth.dataobj)[tuple(voxel)] == 1
    assert as_itk(np.eye(4)).splitlines()[3] == "Parameters: 1 0 0 0 1 0 0 0 1 0 0 0"


def test_lesions_are_listed_with_side_centre_and_volume(done):
    lesions = table(done.output, "lesions")
    assert lesions.scan.drop_duplicates().tolist() == sorted([*SCANS, ON_TEMPLATE])
    assert lesions.session_id.fillna("n/a").drop_duplicates().tolist() == ["n/a", "ses-a", "ses-b"]
    for name, own in lesions.groupby("scan"):
        places = [INSIDE] if name == ON_TEMPLATE else [INSIDE, BELOW]
        assert len(own) == len(places) and own.lesion.tolist() == [*range(1, len(own) + 1)]
        assert own.volume_ml.is_monotonic_decreasing
        for place, side in zip(places, ("right", "left"), strict=False):
            centre = apply_affine(AFFINE, [np.mean([s.start, s.stop - 1]) for s in place])
            near = own[np.linalg.norm(own[["x_mm", "y_mm", "z_mm"]] - centre, axis=1) < 3]
            assert near.side.tolist() == [side]
    scans = table(done.output, "scans").set_index("scan")
    assert scans.loc[ON_TEMPLATE].volume_ml == pytest.approx(16 * 18 * 18 / 1000)
    assert scans.lesions.tolist() == lesions.groupby("scan").size().tolist()
    for name in ("lesions", "scans"):
        columns = load_json(done.output / f"{name}.json", "")
        assert list(columns) == list(table(done.output, name).columns)


def test_sidecars_say_what_a_file_is_and_where_it_comes_from(done):
    anat = done.output / "sub-02/ses-a/anat"
    base, raw = "sub-02_ses-a_acq-x_run-1_chunk-2", f"bids:raw:{[*SCANS][1]}"
    mask = load_json(anat / f"{base}_label-L_desc-lesion_mask.json", "")
    assert (mask["Type"], mask["Sources"], mask["SpatialReference"]) == ("Lesion", [raw], raw)
    brought = load_json(anat / f"{on_template(base)}_label-L_desc-lesion_mask.json", "")
    assert brought["Type"] == "Lesion" and brought["SpatialReference"].startswith("https://")
    assert brought["Sources"][0] == raw
    transform = brought["Sources"][1].removeprefix("bids::")
    assert (done.output / transform).is_file()
    about = load_json(done.output / "dataset_description.json", "")
    assert about["GeneratedBy"][0]["Name"] == "Lacuna"
    assert about["SourceDatasets"] == [{"URL": done.source.resolve().as_uri()}]
    assert about["DatasetLinks"]["raw"] == done.source.resolve().as_uri()


def test_pictures_of_the_group_are_large_and_not_blank(done):
    for name in ("where", "volumes"):
        picture = np.asarray(Image.open(done.output / "figures" / f"{name}.png"))
        assert picture.shape[0] > 400 and picture.std() > 20


def test_a_participant_counts_once_in_the_map_whatever_the_sessions(done, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(group_pictures, "save_map", lambda *shown: drawn.append(shown))
    monkeypatch.setattr(group_pictures, "save_volumes", lambda *_: None)
    scans = save_tables(done.output)
    assert group_pictures.save_group_pictures(scans, done.output) == []
    (count, participants, _) = drawn[0]
    assert participants == 3
    half = (
        done.output
        / "sub-02/anat/.partial-sub-02_space-MNI152NLin2009aSym_label-L_desc-lesion_mask"
    )
    half.parent.mkdir(exist_ok=True)
    half.with_suffix(".nii.gz").write_bytes(b"of another job")
    try:
        assert group_pictures.save_group_pictures(scans, done.output) == []
    finally:
        half.with_suffix(".nii.gz").unlink()
    # The middle of the lesion that all have, sub-02 in both sessions.
    assert count[tuple((side.start + side.stop) // 2 for side in INSIDE)] == 3


def test_the_map_shows_lesions_on_their_side(tmp_path):
    count, middles = np.zeros(SHAPE, int), []
    count[INSIDE] = 1  # on the right, which is on the right of the picture
    for number, lesions in enumerate((count, count[::-1])):
        save_map(lesions, 1, tmp_path / f"{number}.png")
        picture = np.asarray(Image.open(tmp_path / f"{number}.png").convert("RGB")).astype(int)
        coloured = np.ptp(picture, axis=-1) > 40
        middles.append(np.flatnonzero(coloured[:, : int(0.93 * picture.shape[1])].any(0)).mean())
    assert middles[0] > middles[1] + 20


def test_started_again_nothing_is_done_anew_and_what_is_missing_is_restored(done, weights, capsys):
    before = {p: p.stat().st_mtime_ns for p in done.output.rglob("*.nii.gz")}
    assert run(done.source, done.output, weights) == 0
    assert "4 of 4 scans are done already" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in done.output.rglob("*.nii.gz")} == before
    gone = done.output / f"sub-01/anat/sub-01_space-{SPACE}_label-L_desc-lesion_probseg.json"
    gone.unlink()
    assert run(done.source, done.output, weights) == 0
    assert gone.is_file()
    assert "3 of 4 scans are done already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--participant-label", "01"], [FIRST]),
        (["--participant-label", "sub-01", "02"], [*SCANS]),
        (["--session", "b"], [[*SCANS][2]]),
        (["--participant-label", "02", "--session", "ses-a"], [[*SCANS][1]]),
    ],
)
def test_labels_choose_the_scans(done, weights, tmp_path, more, expected):
    assert run(done.source, tmp_path, weights, *more) == 0
    assert table(tmp_path, "scans").scan.tolist() == expected


def test_a_group_without_results_is_refused_and_nothing_is_made(done, weights, tmp_path):
    words = [done.source, tmp_path / "mistyped", "group"]
    with refused(tmp_path / "mistyped", "holds no lesions of these scans"):
        participant.main([str(word) for word in words])
    assert not (tmp_path / "mistyped").exists()


def test_group_makes_the_tables_anew_and_predicts_nothing(done, monkeypatch):
    from prediction import masks

    monkeypatch.setattr(masks, "predict_scans", lambda *_: pytest.fail("predicted"))
    file = done.output / "lesions.tsv"
    before = file.read_text()
    file.unlink()
    assert participant.main([str(done.source), str(done.output), "group"]) == 0
    assert file.read_text() == before


def test_one_bad_scan_costs_that_scan(weights, tmp_path, capsys):
    source, output = tmp_path / "raw", tmp_path / "out"
    write_data_set(source, {FIRST: "RAS"})
    for name, content in (
        ("sub-04/anat/sub-04_T1w.nii.gz", b"no image"),
        ("sub-05/anat/sub-01_T1w.nii.gz", b"of another subject"),
        ("sub-06/anat/._sub-06_T1w.nii.gz", b"left behind by macOS"),
    ):
        (source / name).parent.mkdir(parents=True)
        (source / name).write_bytes(content)
    assert run(source, output, weights) == 1
    said = capsys.readouterr().out
    assert "left out" in said and "sub-04_T1w.nii.gz" in said
    assert "sub-05/anat/sub-01_T1w.nii.gz: not named as BIDS" in said
    assert "sub-06" not in said
    assert table(output, "scans").participant_id.tolist() == ["sub-01"]


def test_scans_whose_results_have_one_name_are_named(weights, tmp_path, capsys):
    source, output = tmp_path / "raw", tmp_path / "out"
    second = "sub-01/anat/sub-01_space-orig_desc-brain_T1w.nii.gz"
    write_data_set(source, {FIRST: "RAS", second: "RAS"})
    assert run(source, output, weights) == 1
    said = capsys.readouterr().out
    assert f"left out {source / second}: its results would overwrite those of" in said
    assert table(output, "scans").scan.tolist() == [FIRST]


def test_masks_of_predict_in_the_same_folder_are_passed_over(done, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(group_pictures, "save_map", lambda *shown: drawn.append(shown))
    output = shutil.copytree(done.output, tmp_path / "out")
    file = next(output.glob("sub-01/anat/*desc-lesion_mask.json"))
    facts = load_json(file, "")
    file.write_text(
        json.dumps({name: facts[name] for name in ("files", "prediction", "made_from")})
    )
    # On the grid of the template, but no derivative of this data set.
    mask = done.output / Path(ON_TEMPLATE).with_name(
        f"{Path(ON_TEMPLATE).name.removesuffix('_T1w.nii.gz')}_label-L_desc-lesion_mask.nii.gz"
    )
    for place in ("sub-98/anat", "sub-99/anat"):
        (output / place).mkdir(parents=True)
        shutil.copy(mask, output / place / mask.name.replace("sub-03", place[:6]))
    (output / place / mask.name.replace("sub-03", "sub-99").replace("nii.gz", "json")).write_text(
        json.dumps({"files": {}})
    )
    assert participant.main([str(done.source), str(output), "group"]) == 0
    assert FIRST not in table(output, "scans").scan.tolist()
    assert drawn[0][1] == table(output, "scans").participant_id.nunique()


def test_weights_that_know_no_template_are_refused_and_nothing_is_claimed(done, tmp_path):
    changes = ["geometry.align=none", "geometry.brain=keep"]
    load_settings(None, changes).save(tmp_path / "run" / "config.yaml")
    weights = tmp_path / "run" / "best.weights.h5"
    weights.write_bytes(b"not read")
    with refused(weights, "geometry.align: none", "predict.py takes it"):
        run(done.source, tmp_path / "out", weights)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_jobs_at_once_make_whole_tables(done, tmp_path):
    output = shutil.copytree(done.output, tmp_path / "out")
    words = [sys.executable, "participant.py", done.source, output, "group"]
    jobs = [subprocess.Popen(words, cwd=Path(participant.__file__).parent) for _ in range(4)]
    assert [job.wait() for job in jobs] == [0] * 4
    assert (output / "lesions.tsv").read_text() == (done.output / "lesions.tsv").read_text()


def test_what_cannot_be_done_is_refused_by_name(done, weights, tmp_path):
    with refused("dataset_description.json", "predict.py takes any folder"):
        run(tmp_path, tmp_path / "out", weights)
    with refused(done.source, "itself"):
        run(done.source, done.source, weights)
    with refused("sub-99", "sub-x"):
        run(done.source, tmp_path, weights, "--participant-label", "99", "x", "01")
    with refused("ses-c"):
        run(done.source, tmp_path, weights, "--session", "c")
    (tmp_path / "raw" / "sub-1").mkdir(parents=True)
    (tmp_path / "raw" / "dataset_description.json").write_text("{}")
    with refused(tmp_path / "raw", "no T1w scan"):
        run(tmp_path / "raw", tmp_path / "out", weights)
    assert not list(tmp_path.glob("out/*"))


def test_a_folder_with_another_data_set_stays_as_it_is(done, weights, tmp_path):
    theirs = tmp_path / "dataset_description.json"
    theirs.write_text('{"Name": "fMRIPrep"}')
    with refused(theirs, "participant.py did not write it"):
        run(done.source, tmp_path, weights)
    assert {path.name for path in tmp_path.iterdir()} == {theirs.name, ".participant.lock"}
    assert theirs.read_text() == '{"Name": "fMRIPrep"}'


def test_the_lesions_of_another_data_set_and_what_a_person_added_stay(tmp_path):
    source, output = tmp_path / "raw", tmp_path / "out"
    source.mkdir()
    write_data_set(source, {})
    claim_derivatives(output, source)
    (output / "README.md").write_text("ours")
    (output / ".bidsignore").write_text("notes\n*.png\n")
    about = load_json(output / "dataset_description.json", "")
    about |= {"License": "CC0", "Authors": ["We"]}
    about["DatasetLinks"]["atlas"] = "https://example.org"
    about["GeneratedBy"].append({"Name": "By hand"})
    about["SourceDatasets"].append({"DOI": "10.1/2"})
    (output / "dataset_description.json").write_text(json.dumps(about))
    # Without a link nobody knows where the data set was: what has no address is a person's.
    unlinked = {name: value for name, value in about.items() if name != "DatasetLinks"}
    (output / "dataset_description.json").write_text(json.dumps(unlinked))
    claim_derivatives(output, source)
    found = load_json(output / "dataset_description.json", "")
    assert found["SourceDatasets"] == about["SourceDatasets"]
    (output / "dataset_description.json").write_text(json.dumps(about))
    moved = source.rename(tmp_path / "moved")
    claim_derivatives(output, moved)
    assert (output / "README.md").read_text() == "ours"
    found = load_json(output / "dataset_description.json", "")
    about["SourceDatasets"][0]["URL"] = about["DatasetLinks"]["raw"] = moved.as_uri()
    assert found == about
    lines = (output / ".bidsignore").read_text().splitlines()
    assert lines[:2] == ["notes", "*.png"] and {"*_xfm.txt", "decisions.tsv"} < set(lines)
    assert len(lines) == len(set(lines))
    # One object is as good as a list of them, and a number is none.
    (output / "dataset_description.json").write_text(
        json.dumps(about | {"GeneratedBy": about["GeneratedBy"][0], "SourceDatasets": 5})
    )
    claim_derivatives(output, moved)
    found = load_json(output / "dataset_description.json", "")
    assert found["GeneratedBy"] == about["GeneratedBy"][:1]
    assert found["SourceDatasets"] == about["SourceDatasets"][:1]
    (output / "dataset_description.json").write_text(json.dumps(about))
    # In a container another data set lies where the first one lay.
    (moved / "dataset_description.json").write_text('{"Name": "Other"}')
    with refused(output, "holds the Lesions of Try", "another folder for the Lesions of Other"):
        claim_derivatives(output, moved)
    assert load_json(output / "dataset_description.json", "") == about


@pytest.mark.parametrize("content", ["{}", "[]", '{"Name": 3}'])
def test_a_data_set_without_a_name_is_refused(content, tmp_path):
    file = tmp_path / "dataset_description.json"
    file.write_text(content)
    with refused(file, "has no Name"):
        claim_derivatives(tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["[]", '{"GeneratedBy": null}', '{"GeneratedBy": 3}'])
def test_whatever_else_has_the_name_of_a_description_is_not_replaced(content, tmp_path):
    write_data_set(tmp_path, {})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dataset_description.json").write_text(content)
    with refused(tmp_path / "out", "participant.py did not write it"):
        claim_derivatives(tmp_path / "out", tmp_path)


def test_a_mask_outside_of_mni_space_is_named(tmp_path):
    file = write_nifti(
        tmp_path / "mask.nii.gz", np.ones((4, 4, 4), np.uint8), np.diag([1, 1, 1, 1])
    )
    assert group_pictures.load_mask_on_template(file).sum() == 64
    far = write_nifti(
        tmp_path / "far.nii.gz", np.ones((4, 4, 4), np.uint8), from_matvec(np.eye(3), [900] * 3)
    )
    with refused(far, "outside of MNI space"):
        group_pictures.load_mask_on_template(far)


def test_a_lesion_between_the_voxels_of_the_template_is_in_the_map(tmp_path):
    mask = np.zeros((394, 466, 378), np.uint8)
    mask[201, 201, 201] = 1  # in steps of 0.5 mm, off the template's by half a step
    affine = from_matvec(np.diag([0.5] * 3), AFFINE[:3, 3] + 0.2)
    found = group_pictures.load_mask_on_template(write_nifti(tmp_path / "m.nii.gz", mask, affine))
    np.testing.assert_array_equal(np.argwhere(found), [[101, 101, 101]])


def test_a_mask_on_another_grid_of_mni_space_is_in_the_map(tmp_path):
    mask = np.zeros((98, 116, 94), np.uint8)
    mask[40:44, 60:64, 50:54] = 1
    file = write_nifti(
        tmp_path / "mask.nii.gz", mask, from_matvec(np.diag([2, 2, 2]), AFFINE[:3, 3])
    )
    found = group_pictures.load_mask_on_template(file)
    assert found.shape == SHAPE
    places = np.argwhere(found)
    np.testing.assert_allclose(places.mean(0) / 2, np.argwhere(mask).mean(0), atol=0.5)
    assert abs(found.sum() / 8 / mask.sum() - 1) < 0.1


def test_a_mask_that_a_person_corrected_is_never_replaced(weights, tmp_path, capsys):
    source, output = tmp_path / "raw", tmp_path / "out"
    write_data_set(source, {FIRST: "RAS"})
    assert run(source, output, weights) == 0
    mask = output / f"sub-01/anat/sub-01_space-{SPACE}_label-L_desc-lesion_mask.nii.gz"
    mask.write_bytes(b"corrected")
    (source / FIRST).touch()
    assert run(source, output, weights) == 1
    assert f"{mask} is not as this program wrote it" in capsys.readouterr().out
    assert mask.read_bytes() == b"corrected"
    participant.main([str(source), str(output), "group"])
    assert f"left out {mask}: " in capsys.readouterr().out  # of the picture of all


def test_weights_that_know_no_template_are_refused(done, weights, tmp_path):
    load_settings(None, ["geometry.align=none", "geometry.brain=keep"]).save(
        tmp_path / "config.yaml"
    )
    other = tmp_path / "best.weights.h5"
    other.write_bytes(b"not read")
    with refused(other, "geometry.align"):
        run(done.source, tmp_path / "out", other)
