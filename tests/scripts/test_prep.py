"""prep.py writes what it promises, names what it leaves out, and goes on where it stopped."""

import json
import shutil

import nibabel
import numpy as np
import pandas
import pytest
from conftest import ATLAS, BRATS, quickly, refused, write_nifti

import prep

ATLAS_NAMES = {f"{subject}_{session}" for _, subject, session, _ in ATLAS}
BRATS_NAMES = {name for _, name, _ in BRATS}
BROKEN = "sub-r002s002"


def files_below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("[!.]*") if path.is_file()}


def files_of(dataset, names):
    return {
        f"{dataset}/{place}"
        for name in names
        for place in (f"{name}.json", f"images/{name}.npy", f"masks/{name}.npy")
    }


def assignments(**paths):
    return [word for name, path in paths.items() for word in ("--set", f"paths.{name}={path}")]


@pytest.fixture(autouse=True)
def quick(monkeypatch, request):
    """Only `prepared`, and what is marked as slow, is prepared by processes."""
    if not request.node.get_closest_marker("slow"):
        quickly(monkeypatch)


@pytest.fixture(scope="module")
def broken_atlas(tiny_trees, tmp_path_factory):
    """The ATLAS tree with one scan cut short, as a download that broke off."""
    folder = shutil.copytree(tiny_trees.atlas, tmp_path_factory.mktemp("broken") / "ATLAS_2")
    (image,) = folder.rglob(f"{BROKEN}*_T1w.nii.gz")
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    return folder


def test_prep_writes_these_files(prepared):
    expected = files_of("atlas", ATLAS_NAMES) | files_of("brats17", BRATS_NAMES)
    assert files_below(prepared) == expected | {"slices.csv", "splits.json"}


def test_metadata_go_into_the_manifest_and_their_change_cuts_no_slice_anew(
    tiny_trees, tiny_overrides, prepared, tmp_path, capsys
):
    tree = shutil.copytree(tiny_trees.atlas, tmp_path / "ATLAS_2", symlinks=True)
    folders = assignments(atlas=tree, prepared=tmp_path / "prepared")
    people = tree / "participants.tsv"
    people.write_text("participant_id\tsite\tsex\nsub-r001s001\tRome\tF\n")
    assert prep.main([*tiny_overrides, *folders]) == 0
    assert "*_metadata.csv: site of 2 scans, sex of 2 scans" in capsys.readouterr().out
    cut = {path: path.stat().st_mtime_ns for path in (tmp_path / "prepared").rglob("*.npy")}
    people.write_text("participant_id\tsite\tage\nsub-r001s001\tOslo\t60\n")
    assert prep.main([*tiny_overrides, *folders]) == 0
    assert cut == {path: path.stat().st_mtime_ns for path in cut}
    table = pandas.read_csv(tmp_path / "prepared" / "slices.csv", dtype=str, keep_default_na=False)
    known = table.groupby("subject")[["site", "participant_age"]].first()
    assert known.loc["sub-r001s001"].tolist() == ["Oslo", "60"]
    assert known.loc["sub-r001s002"].tolist() == ["R001", ""]
    assert "participant_sex" not in table
    plain = pandas.read_csv(prepared / "slices.csv")
    assert set(table.columns) == {*plain.columns, "participant_age"}


def test_every_slice_of_every_scan_is_in_the_manifest_once(prepared):
    table = pandas.read_csv(prepared / "slices.csv")
    assert len(table) == 12 * (len(ATLAS) + len(BRATS))
    assert not table.duplicated(["dataset", "subject", "session", "z"]).any()
    assert set(table.image) | set(table["mask"]) <= files_below(prepared)


def test_every_subject_is_in_one_subset(prepared):
    splits = json.loads((prepared / "splits.json").read_text())
    kinds = (("atlas", ATLAS, "subject"), ("atlas", ATLAS, "site"), ("brats17", BRATS, "subject"))
    for dataset, scans, by in kinds:
        groups = [splits[dataset]["test"], *splits[dataset]["folds"][by]]
        subjects = sorted(subject for group in groups for subject in group)
        assert len(groups) == 4
        assert subjects == sorted({scan[1].removesuffix("_1") for scan in scans})


def test_a_second_start_does_nothing_again(prepared, tiny_overrides, tmp_path, capsys):
    folder = shutil.copytree(prepared, tmp_path / "prepared")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("[!.]*.*")}
    tables = {name: (folder / name).read_bytes() for name in ("slices.csv", "splits.json")}
    assert prep.main([*tiny_overrides, *assignments(prepared=folder)]) == 0
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("[!.]*.*")}
    assert before.keys() == after.keys()
    assert {path.name for path in before if before[path] != after[path]} <= tables.keys()
    assert tables == {name: (folder / name).read_bytes() for name in tables}

    *_, atlas, brats17, outside, empty = capsys.readouterr().out.strip().splitlines()
    assert atlas.split()[:3] == ["atlas", "9", "108"]
    assert brats17.split()[:3] == ["brats17", "8", "96"]
    assert "of the lesion volume lies in the slices left out, 0.0% at the bottom" in outside
    assert empty.endswith("free of lesions: sub-r001s002")


def test_shards_prepare_every_scan_once_and_a_start_without_shard_writes_the_tables(
    prepared, tiny_overrides, tmp_path
):
    arguments = [*tiny_overrides, *assignments(prepared=tmp_path)]
    scans = []
    # The last has none: there are fewer scans than shards.
    for shard in ("1/3", "2/3", "3/3", "20/20"):
        before = files_below(tmp_path)
        assert prep.main([*arguments, "--shard", shard]) == 0
        scans.append(len(files_below(tmp_path) - before) // 3)
    assert scans == [6, 6, 5, 0]
    assert files_below(tmp_path) == files_below(prepared) - {"slices.csv", "splits.json"}
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("[!.]*.*")}
    assert prep.main(arguments) == 0
    assert times == {path: path.stat().st_mtime_ns for path in times}
    for table in ("slices.csv", "splits.json"):
        assert (tmp_path / table).read_bytes() == (prepared / table).read_bytes()


def test_a_shard_names_its_bad_scans(broken_atlas, tiny_overrides, tmp_path, capsys):
    paths = assignments(atlas=broken_atlas, brats17=tmp_path / "none", prepared=tmp_path / "out")
    codes = [prep.main([*tiny_overrides, *paths, "--shard", f"{k}/2"]) for k in (1, 2)]
    assert sorted(codes) == [0, 1]
    assert (
        capsys.readouterr().out.count(f"{BROKEN}_ses-1_space-MNI152NLin2009aSym_T1w.nii.gz: ") == 1
    )


@pytest.mark.parametrize("shard", ["0/8", "9/8", "1", "1/0", "a/b"])
def test_an_impossible_shard_is_refused(shard, tiny_overrides, capsys):
    with pytest.raises(SystemExit) as exit:
        prep.main([*tiny_overrides, "--shard", shard])
    assert exit.value.code == 2
    assert f"{shard}: write it as 3/8" in capsys.readouterr().err


def test_a_broken_scan_is_left_out_and_named(
    broken_atlas, prepared, tiny_overrides, tmp_path, capsys
):
    paths = assignments(atlas=broken_atlas, brats17=tmp_path / "none", prepared=tmp_path / "out")
    assert prep.main([*tiny_overrides, *paths]) == 1
    names = {name for name in ATLAS_NAMES if BROKEN not in name}
    assert files_below(tmp_path / "out") == files_of("atlas", names) | {"slices.csv", "splits.json"}
    for name in files_of("atlas", names):
        if name.endswith(".npy"):
            assert (tmp_path / "out" / name).read_bytes() == (prepared / name).read_bytes()
    splits = json.loads((tmp_path / "out/splits.json").read_text())
    assert splits.keys() == {"atlas"}
    assert BROKEN not in str(splits)

    shown = capsys.readouterr().out
    assert f"brats17: no folder {tmp_path / 'none'}, left out" in shown
    head, line, blank, *_ = shown[shown.index("left out:\n") :].splitlines()
    assert (head, blank) == ("left out:", "")
    assert line.strip().startswith(str(broken_atlas))
    assert f"{BROKEN}_ses-1_space-MNI152NLin2009aSym_T1w.nii.gz: not a readable NIfTI" in line


@pytest.mark.slow
def test_strict_stops_at_a_broken_scan(broken_atlas, tiny_overrides, tmp_path):
    paths = assignments(atlas=broken_atlas, brats17=tmp_path / "none", prepared=tmp_path / "out")
    with refused(BROKEN, "not a readable NIfTI file"):
        prep.main([*tiny_overrides, *paths, "--strict"])
    assert not (tmp_path / "out/slices.csv").exists()


def test_strict_stops_at_a_missing_mask(tiny_trees, tiny_overrides, tmp_path):
    atlas = shutil.copytree(tiny_trees.atlas, tmp_path / "ATLAS_2")
    (mask,) = atlas.rglob(f"{BROKEN}*_mask.nii.gz")
    mask.unlink()
    paths = assignments(atlas=atlas, brats17=tmp_path / "none", prepared=tmp_path / "out")
    with refused(BROKEN, "its mask", "is missing"):
        prep.main([*tiny_overrides, *paths, "--strict"])


def test_one_data_set_alone_is_enough(prepared, tiny_overrides, tmp_path):
    paths = assignments(atlas=tmp_path / "none", prepared=tmp_path / "out")
    assert prep.main([*tiny_overrides, *paths]) == 0
    expected = files_of("brats17", BRATS_NAMES) | {"slices.csv", "splits.json"}
    assert files_below(tmp_path / "out") == expected
    both, alone = (
        json.loads((f / "splits.json").read_text()) for f in (prepared, tmp_path / "out")
    )
    assert alone == {"brats17": both["brats17"]}


def test_no_data_set_at_all_is_refused(tiny_overrides, tmp_path):
    paths = assignments(atlas=tmp_path / "a", brats17=tmp_path / "b", prepared=tmp_path / "out")
    with refused(tmp_path / "a", tmp_path / "b", "paths.atlas or paths.brats17"):
        prep.main([*tiny_overrides, *paths])
    assert not (tmp_path / "out").exists()


def test_no_usable_scan_is_refused_with_the_first_reason(tiny_overrides, tmp_path):
    for name in ("x1", "x2", "x3", "x4", "x5"):
        (tmp_path / f"{name}_t1.nii").touch()
        (tmp_path / f"{name}_seg.nii").touch()
    (tmp_path / "y_t1.nii").touch()
    paths = assignments(atlas=tmp_path / "a", brats17=tmp_path, prepared=tmp_path / "out")
    with refused("no scan could be used", "y_t1.nii", "mask"):
        prep.main([*tiny_overrides, *paths])


def test_a_published_split_is_used_for_the_lesions(prepared, tiny_overrides, tmp_path):
    subjects = sorted({subject for _, subject, _, _ in ATLAS})
    folds = dict(zip(subjects, ["test", 0, 1, 2, 0, 1, 2, "test"], strict=True))
    table = "".join(f"{subject},{fold}\n" for subject, fold in folds.items())
    (tmp_path / "table.csv").write_text("subject,fold\n" + table)
    folder = shutil.copytree(prepared, tmp_path / "prepared")
    overrides = [*assignments(prepared=folder), "--set", f"split.table={tmp_path / 'table.csv'}"]
    assert prep.main([*tiny_overrides, *overrides]) == 0
    before, after = (json.loads((f / "splits.json").read_text()) for f in (prepared, folder))
    assert after["brats17"] == before["brats17"]
    assert after["atlas"]["test"] == [s for s in subjects if folds[s] == "test"]
    assert after["atlas"]["folds"]["subject"] == [
        [s for s in subjects if folds[s] == fold] for fold in range(3)
    ]


def test_a_changed_copy_of_a_scan_under_another_name_is_named_and_kept_in_its_subset(
    tiny_trees, tiny_overrides, tmp_path, capsys
):
    # As a scan that was registered anew and handed in twice: no voxel is the same.
    atlas, original, copy = tmp_path / "ATLAS_2", "sub-r002s002", "sub-r009s009"
    shutil.copytree(tiny_trees.atlas, atlas)
    for path in sorted(atlas.rglob(f"{original}*.nii.gz")):
        voxels, affine = nibabel.load(path).get_fdata(), nibabel.load(path).affine
        if path.name.endswith("_T1w.nii.gz"):
            voxels = 1.1 * voxels + 10 * np.random.default_rng(0).random(voxels.shape)
        folder = atlas / "Training/R009" / copy / "ses-1/anat"
        write_nifti(folder / path.name.replace(original, copy), voxels.astype(np.float32), affine)
    paths = assignments(atlas=atlas, prepared=tmp_path / "out")
    for seed in (0, 1, 2):
        assert prep.main([*tiny_overrides, *paths, "--set", f"seed={seed}"]) == 0
        alike = [line for line in capsys.readouterr().out.splitlines() if "nearly" in line]
        assert alike == [
            f"nearly the same scan under 2 names, kept in one subset: {original}, {copy}"
        ]
        split = json.loads((tmp_path / "out/splits.json").read_text())["atlas"]
        groups = [split["test"], *split["folds"]["subject"]]
        assert sum(original in group and copy in group for group in groups) == 1

    table = pandas.read_csv(tmp_path / "out/slices.csv")
    assert table[table.subject.isin([original, copy])].content.nunique() == 2
    folds = {
        s: i % 3 for i, s in enumerate(sorted(table[table.dataset == "atlas"].subject.unique()))
    }
    folds |= {original: 0, copy: 1}
    lines = "".join(f"{subject},{fold}\n" for subject, fold in folds.items())
    (tmp_path / "table.csv").write_text("subject,fold\n" + lines)
    overrides = ["--set", f"split.table={tmp_path / 'table.csv'}"]
    with refused(tmp_path / "table.csv", f"{original} and {copy} are nearly the same scan"):
        prep.main([*tiny_overrides, *paths, *overrides])


def test_a_scan_in_both_data_sets_is_warned_of(tiny_trees, tiny_overrides, tmp_path, capsys):
    brats, (*_, copied) = tmp_path / "BraTS17", ATLAS
    shutil.copytree(tiny_trees.brats17, brats)
    for ending, own in (("_T1w.nii.gz", "_t1.nii.gz"), ("_mask.nii.gz", "_seg.nii.gz")):
        (path,) = tiny_trees.atlas.rglob(f"{copied[1]}_ses-{copied[2]}*{ending}")
        shutil.copy(path, brats / f"Brats17_TWIN_1_1{own}")
    paths = assignments(brats17=brats, prepared=tmp_path / "out")
    assert prep.main([*tiny_overrides, *paths]) == 0
    (told,) = [line for line in capsys.readouterr().out.splitlines() if "nearly" in line]
    assert "in two data sets" in told
    assert f"{copied[1]} of atlas and Brats17_TWIN_1 of brats17" in told


@pytest.mark.parametrize("way", ["gone", "shards"])
def test_a_data_set_that_is_prepared_is_not_dropped_because_its_disk_is_away(
    prepared, tiny_overrides, tmp_path, way
):
    folder = shutil.copytree(prepared, tmp_path / "prepared")
    before = changed = {path: path.read_bytes() for path in folder.glob("*.*")}
    words = ["--shard", "1/2"] if way == "shards" else []
    paths = assignments(atlas=tmp_path / "unmounted", prepared=folder)
    with refused("paths.atlas", tmp_path / "unmounted", "another paths.prepared"):
        prep.main([*tiny_overrides, *paths, *words])
    changed = {path: path.read_bytes() for path in folder.glob("*.*")}
    assert changed == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("split.table=TABLE", "not a csv"),
        ("split.folds=99", "too few for 99 folds"),
    ],
)
def test_a_split_that_cannot_be_is_refused_before_any_scan_is_read(
    tiny_overrides, tmp_path, monkeypatch, change, reason
):
    monkeypatch.setattr("scans.preparation.prepare_scans", None)
    change = change.replace("TABLE", str(tmp_path / "none.csv"))
    with refused(reason):
        prep.main([*tiny_overrides, *assignments(prepared=tmp_path / "out"), "--set", change])
    assert not (tmp_path / "out").exists()


def test_two_starts_at_once_do_not_prepare_the_same_scans(tiny_overrides, tmp_path):
    with (
        prep.lock(tmp_path, None),
        refused(tmp_path, "is preparing scans here", "paths.prepared"),
    ):
        prep.main([*tiny_overrides, *assignments(prepared=tmp_path)])


@pytest.mark.parametrize(("first", "second"), [("", "1/2"), ("1/2", ""), ("1/2", "1/2")])
def test_shards_keep_out_a_start_on_the_same_scans(tmp_path, first, second):
    first, second = (prep.parse_shard(text) if text else None for text in (first, second))
    with (
        prep.lock(tmp_path, first),
        refused(tmp_path, "is preparing scans here"),
        prep.lock(tmp_path, second),
    ):
        pass


def test_shards_do_not_keep_out_one_another(tmp_path):
    with prep.lock(tmp_path, prep.parse_shard("1/2")), prep.lock(tmp_path, prep.parse_shard("2/2")):
        pass
    with prep.lock(tmp_path, None):
        pass
    assert [file.name for file in tmp_path.iterdir() if file.read_bytes()] == []


def test_the_tables_are_written_under_the_lock(tiny_overrides, tmp_path, monkeypatch):
    def save(file, rows):
        with refused(tmp_path, "is preparing scans here"), prep.lock(tmp_path, None):
            pass
        written.append(file.name)

    written = []
    monkeypatch.setattr("prep.save_csv", save)
    prep.main([*tiny_overrides, *assignments(prepared=tmp_path)])
    assert written == ["slices.csv"]


@pytest.mark.parametrize("name", ["slices.csv", "splits.json"])
def test_tables_of_the_user_in_the_folder_stay(tiny_overrides, tmp_path, name):
    (tmp_path / name).write_text("mine")
    # As of a BIDS data set, which a folder of this name may hold.
    (tmp_path / "atlas").mkdir()
    (tmp_path / "atlas" / "dataset_description.json").write_text('{"Name": "atlas"}')
    with refused(tmp_path / name, "prep.py did not write it"):
        prep.main([*tiny_overrides, *assignments(prepared=tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {name, "atlas"}
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("format", ["npy", "png"])
def test_damaged_slices_are_cut_anew(tiny_overrides, tmp_path, format):
    words = [*tiny_overrides, *assignments(prepared=tmp_path), "--set", f"slices.format={format}"]
    prep.main(words)
    file = sorted((tmp_path / "atlas").rglob(f"*.{format}"))[0]
    whole = file.read_bytes()
    file.write_bytes(whole[:-40])
    prep.main(words)
    assert file.read_bytes() == whole
