"""The scans of a subset are those that were prepared, with what preparation knew of them."""

import json
import shutil

from conftest import refused

from evaluation.cases import find_cases
from scans.splits import load_split


def test_labels_and_lesion_outside_the_trained_slices_are_as_prep_found_them(prepared, tmp_path):
    copy = shutil.copytree(prepared, tmp_path / "prepared")
    split = load_split(copy, "atlas", 0)
    subject = split["test"][0]
    file = copy / "atlas" / f"{subject}_1.json"
    facts = json.loads(file.read_text("utf-8"))
    facts["made_from"]["labels"] = [3]
    file.write_text(json.dumps(facts | {"lesion_outside_ml": 1.25}))
    for case in find_cases(copy, split, "test"):
        changed = (case.subject, case.session) == (subject, "1")
        assert case.lesion_outside_ml == (1.25 if changed else 0)
        assert case.labels == ([3] if changed else None)


def test_a_subset_without_subjects_is_refused(prepared):
    split = load_split(prepared, "atlas", 0)
    everyone = {"training": split["training"] + split["test"], "test": []}
    with refused(prepared, "test subset"):
        find_cases(prepared, split | everyone, "test")


def test_a_scan_that_changed_since_prep_is_refused_by_name(prepared, tmp_path):
    copy = shutil.copytree(prepared, tmp_path / "prepared")
    split = load_split(copy, "atlas", 0)
    file = copy / "atlas" / f"{split['test'][0]}_1.json"
    facts = json.loads(file.read_text("utf-8"))
    facts["made_from"]["changed_ns"][1] += 1
    file.write_text(json.dumps(facts))
    with refused(facts["made_from"]["masks"][0], "prep.py"):
        find_cases(copy, split, "test")
