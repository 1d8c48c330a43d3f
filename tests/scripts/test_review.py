"""Masks accepted, mended and rejected, in a browser and by the editor, become training data."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from conftest import RAS, draw_head, predict_by_rule, quickly, refused, write_nifti

import predict
import prep
import review
from config import load_settings
from prediction.decisions import decide, decisions_about, read_decisions
from prediction.mending import draft_file, find_editor, manual_file
from prediction.outputs import sidecar
from prediction.review_page import find_masks, make_page, save_page
from prediction.review_server import ReviewServer
from scans import preparation
from system.files import OutputError, load_json

ROOT = Path(__file__).parents[2]
SHAPE = (28, 32, 6)
PEOPLE = ("sub-1", "sub-2", "sub-3")
HOSTILE = "sub-9<script>alert(1)</script>\"'&amp;"
# An editor that draws one more voxel, and others that do what they should not.
EDITORS = {
    "draws": "mask = np.asarray(image.dataobj).copy(); mask[0, 0, 0] = 1",
    "looks": "mask = np.asarray(image.dataobj)",
    "crops": "mask = np.asarray(image.dataobj)[:-1]",
    "scribbles": "mask = np.asarray(image.dataobj) * 3.7",
    "fails": (
        "mask = np.asarray(image.dataobj).copy(); mask[0, 0, 0] = 1\n"
        "nib.save(nib.Nifti1Image(mask, image.affine), file); sys.exit(3)"
    ),
}
EDITOR = """
import sys
import nibabel as nib, numpy as np
scan, file = sys.argv[-2:]
image = nib.load(file)
assert nib.load(scan).shape == image.shape
{what}
nib.save(nib.Nifti1Image(mask.astype(image.get_data_dtype() if {exact} else float), image.affine), file)
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    load_settings(None, ["geometry.align=none", "geometry.brain=keep"]).save(folder / "config.yaml")
    (folder / "best.weights.h5").write_bytes(b"not read")
    return folder / "best.weights.h5"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    quickly(monkeypatch)


@pytest.fixture
def study(weights, tmp_path):
    """Three scans in a BIDS tree and their masks among its derivatives: `.raw`, `.masks`."""
    raw = tmp_path / "raw"
    for seed, person in enumerate(PEOPLE):
        head, _ = draw_head(np.random.default_rng(seed), SHAPE, 0.4, background=5)
        write_nifti(raw / person / "anat" / f"{person}_T1w.nii.gz", head, RAS)
    output = raw / "derivatives" / "lacuna"
    with pytest.MonkeyPatch.context() as patch:
        quickly(patch)
        predict_by_rule(
            patch, lambda volume, flip: volume.voxels > np.percentile(volume.voxels, 97)
        )
        words = [raw, "--output", output, "--weights", weights]
        assert predict.main([str(word) for word in words]) == 0
    return SimpleNamespace(raw=raw, folder=output, masks=find_masks(output))


def mask_of(study, person):
    (found,) = (judged for judged in study.masks if f"{person}_" in judged.name)
    return found


def use_editor(monkeypatch, folder, kind):
    program = folder / f"{kind}.py"
    program.write_text(EDITOR.format(what=EDITORS[kind], exact=kind != "scribbles"))
    monkeypatch.setenv("MASK_EDITOR", f"{sys.executable} {program}")


def mend(study):
    return review.main([str(study.folder), "--mend"])


def test_the_page_lists_every_mask_with_the_most_doubtful_first(study):
    page = (study.folder / "report.html").read_text()
    data = json.loads(page.split('type="application/json">')[1].split("</script>")[0])
    assert [s["mask"] for s in data["scans"]] == [judged.name for judged in study.masks]
    assert all((study.folder / s["picture"]).is_file() for s in data["scans"])
    doubts = [len(s["warnings"]) for s in data["scans"]]
    assert doubts == sorted(doubts, reverse=True) and doubts[0] > 0
    assert data["served"] is False


def test_among_equals_the_least_certain_mask_comes_first(study):
    for certainty, person in ((0.9, "sub-1"), (0.55, "sub-2"), (0.7, "sub-3")):
        file = sidecar(mask_of(study, person).mask)
        facts = load_json(file, "") | {"warnings": []}
        facts["prediction"]["certainty"] = certainty
        file.write_text(json.dumps(facts))
    order = [judged.scan.name[:5] for judged in find_masks(study.folder)]
    assert order == ["sub-2", "sub-3", "sub-1"]


def test_names_cannot_break_out_of_the_page(study):
    hostile = mask_of(study, "sub-1")
    facts = hostile.facts | {"made_from": {"scan": f"/data/{HOSTILE}</script><img src=x>"}}
    hostile = replace(hostile, scan=Path(HOSTILE), facts=facts)
    page = make_page([hostile], study.folder, {}, served=True)
    assert HOSTILE not in page and page.count("<script") == 2 and page.count("</script>") == 2
    data = json.loads(page.split('type="application/json">')[1].split("</script>")[0])
    assert data["scans"][0]["name"] == Path(HOSTILE).name


def test_a_page_of_the_user_s_is_never_replaced(study, weights, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "report.html").write_text("mine")
    with refused(other / "report.html", "so it stays"):
        predict.main([str(study.raw), "--output", str(other), "--weights", str(weights)])
    assert (other / "report.html").read_text() == "mine"


def test_decisions_are_kept_changed_and_taken_back(study):
    one, two, _ = study.masks
    decide(study.folder, one, "accept")
    decide(study.folder, two, "mend")
    decide(study.folder, one, "reject")
    assert words(study) == {one.name: "reject", two.name: "mend"}
    assert all(row["by"] and row["when"] for row in read_decisions(study.folder).values())
    decide(study.folder, one, "")
    assert words(study) == {two.name: "mend"}


def words(study):
    return decisions_about(study.masks, read_decisions(study.folder))


def test_names_with_tabs_quotes_and_broken_bytes_come_back_whole(study):
    names = ["a\tb_lesion.nii.gz", 'say "no"_lesion.nii.gz', "bad\udcff_lesion.nii.gz"]
    for name in names:
        decide(study.folder, replace(study.masks[0], name=name), "accept")
    assert list(read_decisions(study.folder)) == names


def test_what_a_person_added_to_the_table_stays(study):
    one, two, _ = study.masks
    (study.folder / "decisions.tsv").write_text(
        f"\ufeffdecision\tcomment\tmask\nmend\tsee the rim\t{one.name}\n\n", "utf-8"
    )
    decide(study.folder, two, "accept")
    rows = read_decisions(study.folder)
    assert rows[one.name]["comment"] == "see the rim" and rows[two.name]["decision"] == "accept"
    assert words(study) == {one.name: "mend", two.name: "accept"}


def test_a_decision_is_about_the_mask_that_was_seen(study, weights, monkeypatch, capsys):
    for judged in study.masks:
        decide(study.folder, judged, "accept")
    assert mend(study) == 0
    predict_by_rule(monkeypatch, lambda volume, flip: volume.voxels > 0.9 * volume.voxels.max())
    arguments = [study.raw, "--output", study.folder, "--weights", weights, "--threshold", "0.6"]
    assert predict.main([str(word) for word in arguments]) == 0
    anew = find_masks(study.folder)
    assert decisions_about(anew, read_decisions(study.folder)) == {}
    assert '"decisions": {}' in (study.folder / "report.html").read_text()
    capsys.readouterr()
    assert mend(study) == 0
    assert capsys.readouterr().out.count("not accepted any more") == 3
    assert not any(manual_file(judged.mask).exists() for judged in anew)


@pytest.mark.slow
def test_two_at_once_lose_no_decision(study):
    code = (
        "import sys; from prediction.decisions import decide; from types import SimpleNamespace as N\n"
        "for n in range(40): decide(sys.argv[1], N(name=f'{sys.argv[2]}-{n}', content='x'), 'accept')"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, study.folder, who], cwd=ROOT) for who in "ab"
    ]
    assert [process.wait() for process in started] == [0, 0]
    assert len(read_decisions(study.folder)) == 80


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mask\tdecision\na.nii.gz\tmaybe\n", "line 2"),
        ("decision\tmask\naccept\n", "line 2"),
        ("a.nii.gz\taccept\n", "no columns mask and decision"),
        ("", "no columns"),
    ],
)
def test_a_broken_table_is_refused_by_line_and_stays(study, weights, text, said):
    file = study.folder / "decisions.tsv"
    file.write_text(text)
    for call in (
        lambda: mend(study),
        lambda: predict.main(
            [str(study.raw), "--output", str(study.folder), "--weights", str(weights)]
        ),
    ):
        with refused(file, said):
            call()
    assert file.read_text() == text


def test_the_table_that_the_page_offers_is_read(study):
    name = study.masks[0].name
    (study.folder / "decisions.tsv").write_text(f"mask\tdecision\n{name}\taccept\n")
    assert mend(study) == 0
    assert manual_file(study.masks[0].mask).is_file()


def test_accepted_mended_and_rejected_masks_become_training_data(
    study, tmp_path, monkeypatch, capsys
):
    accepted, mended, rejected = (mask_of(study, person) for person in PEOPLE)
    for judged, word in ((accepted, "accept"), (mended, "mend"), (rejected, "reject")):
        decide(study.folder, judged, word)
    before = mended.mask.read_bytes()
    use_editor(monkeypatch, tmp_path, "draws")
    assert mend(study) == 0
    said = capsys.readouterr().out
    assert "accepted as it was predicted" in said and "mended" in said
    assert manual_file(accepted.mask).read_bytes() == accepted.mask.read_bytes()
    assert mended.mask.read_bytes() == before
    assert not manual_file(rejected.mask).exists()
    drawn = nibabel.load(manual_file(mended.mask))
    predicted = nibabel.load(mended.mask)
    changed = np.argwhere(np.asarray(drawn.dataobj) != np.asarray(predicted.dataobj))
    assert changed.tolist() == [[0, 0, 0]]
    np.testing.assert_array_equal(drawn.affine, predicted.affine)
    about = load_json(sidecar(manual_file(mended.mask)), "")
    assert about["Manual"] is True and about["By"] and about["When"].startswith("20")
    assert about["PredictedMask"] == mended.mask.name

    monkeypatch.setattr(preparation, "find_near_duplicates", lambda found: range(len(found)))
    settings = {
        "paths.atlas": study.raw,
        "paths.brats17": "none",
        "paths.prepared": tmp_path / "prepared",
        "atlas.mask_suffix": "_label-L_desc-manual_mask",
        "geometry.align": "none",
        "geometry.brain": "keep",
        "slices.size": 32,
        "slices.skip": 0,
        "split.folds": 2,
        "split.test_fraction": 0,
    }
    prep.main([word for name, value in settings.items() for word in ("--set", f"{name}={value}")])
    rows = preparation.pandas.read_csv(tmp_path / "prepared" / "slices.csv")
    assert sorted(rows.subject.unique()) == ["sub-1", "sub-2"]
    pixels = rows.groupby("subject").lesion_pixels.sum()
    assert pixels["sub-2"] == np.count_nonzero(predicted.dataobj) + 1

    # What is done stays done, what is no longer accepted goes, what a person drew stays.
    monkeypatch.setenv("MASK_EDITOR", "false")
    assert mend(study) == 0
    capsys.readouterr()
    for judged in (accepted, mended):
        decide(study.folder, judged, "reject")
    assert mend(study) == 0
    assert not manual_file(accepted.mask).exists() and manual_file(mended.mask).exists()
    assert "stays, though its mask is rejected" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [
        ("looks", 0, "still to be mended"),
        ("crops", 1, "voxels and its image"),
        ("scribbles", 1, "must be binary"),
        ("fails", 1, "ended with 3"),
    ],
)
def test_what_is_no_mended_mask_stays_a_draft(
    study, tmp_path, monkeypatch, capsys, kind, code, said
):
    judged = study.masks[0]
    page = study.folder / "report.html"  # which is renewed
    before = {p: p.read_bytes() for p in study.folder.rglob("*") if p.is_file() and p != page}
    decide(study.folder, judged, "mend")
    use_editor(monkeypatch, tmp_path, kind)
    assert mend(study) == code
    printed = capsys.readouterr().out
    draft = draft_file(judged.mask)
    assert said in printed and (str(draft) in printed or str(judged.mask) in printed)
    after = {p: p.read_bytes() for p in study.folder.rglob("*") if p.is_file() and p != page}
    assert {p: after[p] for p in before} == before
    drawn = draft.read_bytes() if kind != "looks" else None
    kept = [] if kind == "looks" else [draft.name, sidecar(draft).name]
    assert {p.name for p in after.keys() - before.keys()} == {
        *("decisions.tsv", ".decisions.tsv.lock", *kept)
    }
    # The next start goes on with what was drawn.
    monkeypatch.setenv("MASK_EDITOR", "true")
    assert mend(study) == (1 if kind in ("crops", "scribbles") else 0)
    assert manual_file(judged.mask).exists() == (kind == "fails")
    assert draft.exists() == (kind in ("crops", "scribbles"))
    assert not draft.exists() or draft.read_bytes() == drawn


def predict_anew(study, weights, monkeypatch):
    predict_by_rule(monkeypatch, lambda volume, flip: volume.voxels > 0.9 * volume.voxels.max())
    arguments = [study.raw, "--output", study.folder, "--weights", weights, "--threshold", "0.6"]
    assert predict.main([str(word) for word in arguments]) == 0
    return find_masks(study.folder)


def test_a_draft_of_an_earlier_prediction_does_not_become_a_mended_mask(
    study, weights, tmp_path, monkeypatch, capsys
):
    for judged in study.masks[:2]:
        decide(study.folder, judged, "mend")
    use_editor(monkeypatch, tmp_path, "fails")
    assert mend(study) == 1
    drafts = [draft_file(judged.mask) for judged in study.masks[:2]]
    assert all(draft.exists() for draft in drafts)
    for judged in predict_anew(study, weights, monkeypatch):
        decide(study.folder, judged, "mend")
    capsys.readouterr()
    monkeypatch.setenv("MASK_EDITOR", "true")
    assert mend(study) == 1
    shown = capsys.readouterr().out
    assert shown.count("may have been predicted anew since; move or delete it") == 2
    assert not any(manual_file(judged.mask).exists() for judged in study.masks)
    assert all(draft.exists() for draft in drafts)


@pytest.mark.parametrize("decision", ["accept", "mend"])
def test_a_mended_mask_of_an_earlier_prediction_is_not_taken_for_the_new_one(
    study, weights, tmp_path, monkeypatch, capsys, decision
):
    decide(study.folder, study.masks[0], "mend")
    use_editor(monkeypatch, tmp_path, "draws")
    assert mend(study) == 0
    mended = manual_file(study.masks[0].mask)
    drawn = mended.read_bytes()
    assert mend(study) == 0  # as long as the prediction is the same there is nothing to say
    (anew,) = (
        judged
        for judged in predict_anew(study, weights, monkeypatch)
        if judged.name == study.masks[0].name
    )
    decide(study.folder, anew, decision)
    capsys.readouterr()
    assert mend(study) == 1
    assert f"{mended}" in (shown := capsys.readouterr().out)
    assert "is there already, so it stays; move it" in shown
    assert mended.read_bytes() == drawn


def test_a_scan_that_is_named_by_its_subject_alone_can_be_accepted(weights, tmp_path, monkeypatch):
    head, _ = draw_head(np.random.default_rng(0), SHAPE, 0.4, background=5)
    write_nifti(tmp_path / "sub-01.nii.gz", head, RAS)
    predict_by_rule(monkeypatch, lambda volume, flip: volume.voxels > 0.9 * volume.voxels.max())
    words = [tmp_path / "sub-01.nii.gz", "--output", tmp_path / "out", "--weights", weights]
    assert predict.main([str(word) for word in words]) == 0
    (judged,) = find_masks(tmp_path / "out")
    decide(tmp_path / "out", judged, "accept")
    assert review.main([str(tmp_path / "out"), "--mend"]) == 0
    assert manual_file(judged.mask) != judged.mask
    assert manual_file(judged.mask).read_bytes() == judged.mask.read_bytes()


def test_a_broken_sidecar_of_a_manual_mask_does_not_cost_the_page(study):
    manual = manual_file(study.masks[0].mask)
    manual.write_bytes(b"mine")
    sidecar(manual).write_text("{")
    page = make_page(find_masks(study.folder), study.folder, {}, served=False)
    assert page.count('"kept": "foreign"') == 1


def test_a_broken_sidecar_costs_its_own_mask_alone(study, tmp_path, monkeypatch, capsys):
    broken, whole, _ = study.masks
    for judged in (broken, whole):
        decide(study.folder, judged, "mend")
    manual_file(broken.mask).write_bytes(b"mine")
    sidecar(manual_file(broken.mask)).write_text("{")
    use_editor(monkeypatch, tmp_path, "draws")
    assert mend(study) == 1
    assert capsys.readouterr().out.count("left out") == 1
    assert manual_file(whole.mask).is_file()
    assert manual_file(broken.mask).read_bytes() == b"mine"


def test_a_folder_below_the_derivatives_can_be_served(study):
    folder = study.masks[0].mask.parent
    assert '"picture": "' in make_page(find_masks(folder), folder, {}, served=True)


@pytest.mark.parametrize("part", ["made_from", "prediction"])
def test_a_record_that_lacks_a_part_is_not_ours(study, part):
    file = sidecar(study.masks[0].mask)
    facts = load_json(file, "")
    del facts[part]
    file.write_text(json.dumps(facts))
    assert len(find_masks(study.folder)) == len(study.masks) - 1


def test_without_an_editor_accepted_masks_are_kept_all_the_same(study, monkeypatch, tmp_path):
    one, two, _ = study.masks
    decide(study.folder, one, "accept")
    decide(study.folder, two, "mend")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("MASK_EDITOR", raising=False)
    page = study.folder / "report.html"
    page.write_text(page.read_text().replace("accept", ""))
    with refused("no editor for masks"):
        mend(study)
    assert '"accept"' in page.read_text()
    assert manual_file(one.mask).is_file()


def test_a_data_set_that_was_moved_is_found_by_scans(study, tmp_path):
    moved = tmp_path / "elsewhere"
    facts = {"Sources": ["bids:raw:sub-1/anat/sub-1_T1w.nii.gz"]}
    for file in study.folder.rglob("*_mask.json"):
        file.write_text(json.dumps(load_json(file, "") | facts))
    assert {j.scan for j in find_masks(study.folder, moved)} == {
        moved / "sub-1/anat/sub-1_T1w.nii.gz"
    }


def test_where_a_data_set_is_cannot_be_said_of_masks_of_predict(study, tmp_path):
    with refused(f"--scans {tmp_path}", "masks of participant.py"):
        review.main([str(study.folder), "--scans", str(tmp_path)])


@pytest.mark.parametrize("about", [None, '{"Type": "Lesion", "Manual": true}'])
def test_a_mask_of_the_user_s_own_is_never_replaced(study, capsys, about):
    judged = study.masks[0]
    manual_file(judged.mask).write_bytes(b"drawn last year")
    if about:
        sidecar(manual_file(judged.mask)).write_text(about)
    decide(study.folder, judged, "accept")
    assert mend(study) == 1
    assert "is there already, so it stays" in capsys.readouterr().out
    decide(study.folder, judged, "reject")
    assert mend(study) == 0
    decide(study.folder, judged, "mend")
    assert mend(study) == 1
    assert "is there already, so it stays" in capsys.readouterr().out
    assert manual_file(judged.mask).read_bytes() == b"drawn last year"


def test_a_predicted_mask_that_was_edited_is_not_kept_as_accepted(study, capsys):
    judged = study.masks[0]
    decide(study.folder, judged, "accept")
    predicted = judged.mask.read_bytes()
    judged.mask.write_bytes(predicted + b"\0")
    assert mend(study) == 1
    assert f"{judged.mask}: is not as it was predicted" in capsys.readouterr().out
    assert not manual_file(judged.mask).exists()
    judged.mask.write_bytes(predicted)
    assert mend(study) == 0
    judged.mask.write_bytes(predicted + b"\0")
    assert mend(study) == 0  # what was kept is what was accepted
    assert manual_file(judged.mask).read_bytes() == predicted


def test_a_scan_that_is_gone_costs_that_mask(study, tmp_path, monkeypatch, capsys):
    gone, there = study.masks[:2]
    gone.scan.unlink()
    for judged in (gone, there):
        decide(study.folder, judged, "mend")
    use_editor(monkeypatch, tmp_path, "draws")
    assert mend(study) == 1
    said = capsys.readouterr().out
    assert f"{gone.scan}: not found; predict it anew" in said
    assert manual_file(there.mask).is_file() and not manual_file(gone.mask).exists()


def test_the_editor_is_the_user_s_or_one_that_is_installed(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("MASK_EDITOR", raising=False)
    with refused("no editor for masks", "MASK_EDITOR"):
        find_editor()
    for name in ("fsleyes", "itksnap", "mine"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    assert find_editor() == ["itksnap", "-g", "{scan}", "-s", "{mask}"]
    monkeypatch.setenv("MASK_EDITOR", "mine --layers {mask} {scan}")
    assert find_editor() == ["mine", "--layers", "{mask}", "{scan}"]
    monkeypatch.setenv("MASK_EDITOR", "mine 'with space'")
    assert find_editor() == ["mine", "with space", "{scan}", "{mask}"]
    for wrong in ("missing", "mine 'unclosed"):
        monkeypatch.setenv("MASK_EDITOR", wrong)
        with refused(f"MASK_EDITOR={wrong}"):
            find_editor()


def test_a_folder_without_masks_is_refused(tmp_path):
    for more in ([], ["--mend"]):
        with refused(tmp_path, "holds no mask"):
            review.main([str(tmp_path), *more])


def test_names_that_are_not_of_bids_have_a_place_that_is_no_image():
    file = manual_file(Path("out/Größe 脳 №1_lesion.nii.gz"))
    assert file == Path("out/Größe 脳 №1_manual_mask.nii.gz")
    bids = manual_file(Path("out/sub-manual_desc-lesion_mask.nii.gz"))
    assert bids.name == "sub-manual_desc-manual_mask.nii.gz"
    assert draft_file(Path("out/sub-manual_desc-lesion_mask.nii.gz")).name == (
        "sub-manual_desc-draft_mask.nii.gz"
    )


@contextlib.contextmanager
def serving(study, make_viewer=lambda judged: f"<p>{judged.scan.name}</p>"):
    with ReviewServer(study.folder, study.masks, make_viewer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, names)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, content


def test_a_viewer_that_cannot_be_made_says_why(study):
    gone = study.masks[0]
    gone.scan.unlink()
    with serving(study, lambda judged: judged.find_scan()) as server:
        status, viewer = ask(server, "GET", f"/{server.token}/viewer/0")
    assert status == 200 and f"{gone.scan}: not found; predict it anew" in viewer.decode()


def test_the_way_in_leads_a_browser_to_the_page_and_goes(study, monkeypatch):
    monkeypatch.chdir(study.folder)
    with (
        ReviewServer(Path(), study.masks, lambda judged: "") as server,
        server.way_in() as page,
    ):
        assert page.is_absolute() and study.folder.resolve() in page.parents
        assert server.address in page.read_text() and page.parent.stat().st_mode & 0o77 == 0
    assert not page.parent.exists()


def test_who_knows_the_token_gets_page_pictures_and_viewer_and_decides(study):
    with serving(study) as server:
        home = f"/{server.token}/"
        status, page = ask(server, "GET", home)
        assert status == 200 and b'"served": true' in page
        status, picture = ask(server, "GET", f"{home}picture/1")
        assert status == 200 and picture == study.masks[1].picture.read_bytes()
        status, viewer = ask(server, "GET", f"{home}viewer/2")
        assert (status, viewer.decode()) == (200, f"<p>{study.masks[2].scan.name}</p>")
        body = json.dumps({"mask": study.masks[1].name, "decision": "mend"})
        assert (
            ask(server, "POST", f"{home}decision", body, Content_Type="application/json")[0] == 200
        )
        assert words(study) == {study.masks[1].name: "mend"}
        assert b'"mend"' in ask(server, "GET", home)[1]


def test_the_page_that_is_opened_as_a_file_knows_each_decision_at_once(study):
    """For it offers all of them as a download, and a server may be killed."""
    page = study.folder / "report.html"
    save_page(study.folder)
    with serving(study) as server:
        body = json.dumps({"mask": study.masks[0].name, "decision": "reject"})
        path = f"/{server.token}/decision"
        assert ask(server, "POST", path, body, Content_Type="application/json")[0] == 200
        assert f'"{study.masks[0].name}": "reject"' in page.read_text("utf-8")
        page.write_text("of somebody else")
        assert ask(server, "POST", path, body, Content_Type="application/json")[0] == 200
    assert page.read_text() == "of somebody else"


def test_everybody_else_is_refused_and_nothing_is_written(study):
    with serving(study) as server:
        home, json_type = f"/{server.token}/", {"Content_Type": "application/json"}
        good = json.dumps({"mask": study.masks[0].name, "decision": "accept"})
        port = server.server_port
        tries = [
            ("GET", "/", None, {}, 404),
            ("GET", "/wrong/", None, {}, 404),
            ("GET", f"/{server.token}", None, {}, 404),
            ("GET", f"{home}../../etc/passwd", None, {}, 404),
            ("GET", f"{home}picture/99", None, {}, 404),
            ("GET", f"{home}picture/-1", None, {}, 404),
            ("GET", f"{home}picture/..%2f..%2fetc", None, {}, 404),
            ("GET", f"{home}picture/1/2", None, {}, 404),
            ("GET", f"{home}viewer/%C2%B2", None, {}, 404),
            ("GET", home, None, {"Host": f"evil.example:{port}"}, 404),
            ("GET", home, None, {"Host": "127.0.0.1"}, 404),
            ("POST", f"{home}decision", good, json_type | {"Origin": "http://evil.example"}, 404),
            ("POST", f"{home}decision", good, json_type | {"Host": "evil.example"}, 404),
            ("POST", "/decision", good, json_type, 404),
            ("POST", "/wrong/decision", good, json_type, 404),
            ("POST", f"{home}decision", good, {"Content_Type": "text/plain"}, 415),
            ("POST", f"{home}decision", "x" * 70_000, json_type, 413),
            ("POST", f"{home}decision", None, json_type | {"Content_Length": "\xb2"}, 413),
            ("POST", f"{home}decision", "[" * 50_000, json_type, 400),
            ("POST", f"{home}decision", "not json", json_type, 400),
            ("POST", f"{home}decision", "[]", json_type, 400),
            ("POST", f"{home}decision", good.replace("accept", "delete"), json_type, 400),
            ("POST", f"{home}decision", good.replace("sub-", "../sub-"), json_type, 400),
            ("POST", f"{home}decision", '{"mask": [], "decision": "accept"}', json_type, 400),
            ("POST", f"{home}decision", '{"mask": "x", "decision": {}}', json_type, 400),
            ("PUT", home, good, json_type, 501),
        ]
        for method, path, body, headers, status in tries:
            assert ask(server, method, path, body, **headers)[0] == status, (method, path)
        assert not (study.folder / "decisions.tsv").exists()
        assert ask(server, "GET", home)[0] == 200


def test_a_decision_that_cannot_be_saved_is_said(study, monkeypatch):
    from prediction import review_server

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(review_server, "decide", full)
    with serving(study) as server:
        body = json.dumps({"mask": study.masks[0].name, "decision": "accept"})
        path = f"/{server.token}/decision"
        status, said = ask(server, "POST", path, body, Content_Type="application/json")
    assert status == 500 and b"No space left" in said


def test_a_saved_decision_counts_though_the_page_cannot_be_renewed(study, monkeypatch, capsys):
    from prediction import review_server

    def full(folder):
        raise OutputError(f"{folder}/report.html: cannot be written")

    monkeypatch.setattr(review_server, "renew_page", full)
    with serving(study) as server:
        body = json.dumps({"mask": study.masks[0].name, "decision": "accept"})
        path = f"/{server.token}/decision"
        assert ask(server, "POST", path, body, Content_Type="application/json")[0] == 200
    assert read_decisions(study.folder)[study.masks[0].name]["decision"] == "accept"
    assert "warning: " in capsys.readouterr().err


@pytest.mark.slow
def test_the_script_opens_a_browser_that_is_told_no_token(study, tmp_path):
    opened, browser = tmp_path / "opened", tmp_path / "browser"
    browser.write_text(
        f'#!/bin/sh\ncat "${{1#file://}}" > {opened}.part\necho "$1" >> {opened}.part\nmv {opened}.part {opened}\n'
    )
    browser.chmod(0o755)
    words = [sys.executable, "review.py", study.folder]
    environment = os.environ | {"BROWSER": str(browser)}
    # Tests that run in the background ignore SIGINT, and what they start inherits that.
    hear_ctrl_c = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c
    ) as run:
        try:
            address = run.stdout.readline().split()[1]
            while not opened.exists() and run.poll() is None:
                time.sleep(0.1)
            page, told = opened.read_text().rsplit(">", 1)
            assert f"url={address}" in page
            assert told.startswith("file://") and address.split("/")[3] not in told
            with urllib.request.urlopen(address) as answer:
                assert b"masks to look at" in answer.read()
        finally:
            run.send_signal(signal.SIGINT)
    assert run.returncode == 130


def test_a_json_file_of_the_user_s_in_the_place_of_ours_stays(study, capsys):
    judged = study.masks[0]
    theirs = sidecar(manual_file(judged.mask))
    theirs.write_text('{"rater": 2}')
    decide(study.folder, judged, "accept")
    assert mend(study) == 1
    assert f"{theirs}: this program did not write it" in capsys.readouterr().out
    assert theirs.read_text() == '{"rater": 2}' and not manual_file(judged.mask).exists()


def test_a_kill_between_sidecar_and_mask_is_made_good(study):
    judged = study.masks[0]
    decide(study.folder, judged, "accept")
    assert mend(study) == 0
    manual_file(judged.mask).unlink()
    assert mend(study) == 0
    assert manual_file(judged.mask).is_file()


@pytest.mark.slow
def test_in_a_browser_keys_decide_and_a_click_opens_the_viewer(study, tmp_path):
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if not program and not os.environ.get("CI"):
        pytest.skip("needs chromium (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, serving(study) as server:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        problems = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(server.address)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        rows = page.locator("article")
        for key in "amr":  # of the first mask, and each leads on to the next
            with page.expect_response("**/decision"):
                page.keyboard.press(key)
        names = [judged.name for judged in study.masks]
        assert words(study) == dict(zip(names, ("accept", "mend", "reject"), strict=True))
        assert page.locator("#count").inner_text() == "3 of 3 decided"
        with page.expect_response("**/decision"):
            page.keyboard.press("u")
        assert list(words(study)) == names[:2]
        page.select_option("#order", "open")
        assert "sub" in rows.nth(0).inner_text() and rows.nth(0).get_attribute("class") in (
            "",
            None,
        )
        rows.nth(1).locator(".picture").click()
        frame = page.frame_locator("dialog iframe")
        assert frame.locator("p").inner_text().endswith("_T1w.nii.gz")
        frame.locator("p").click()  # from now on the frame hears the keys
        page.locator("dialog button").click()
        assert not page.locator("dialog").is_visible()
        with page.expect_response("**/viewer/*"):
            page.keyboard.press("v")
        page.keyboard.press("Escape")
        assert not page.locator("dialog").is_visible()
        # As a file: kept by the browser, and offered as a table that review.py reads.
        table = "mask\tdecision\tby\tnote\nsub-9\treject\tAda\tblurred\n{}\taccept\tAda\tsmall\n"
        (study.folder / "decisions.tsv").write_text(table.format(names[2]))
        save_page(study.folder)
        page.goto((study.folder / "report.html").as_uri())
        page.locator("article").nth(1).focus()
        page.keyboard.press("m")
        page.wait_for_timeout(500)  # until the browser has stored it
        page.reload()
        assert page.locator("#count").inner_text() == "2 of 3 decided"
        with page.expect_download() as download:
            page.locator("#download").click()
        download.value.save_as(study.folder / "decisions.tsv")
        assert words(study) == {names[2]: "accept", names[1]: "mend"}
        kept = read_decisions(study.folder)
        assert [kept[name]["by"] for name in ("sub-9", names[2], names[1])] == ["Ada", "Ada", ""]
        assert (kept["sub-9"]["note"], kept[names[2]]["note"]) == ("blurred", "small")
        assert page.locator("article img").first.evaluate("image => image.naturalWidth") > 100
        browser.close()
    assert problems == []
