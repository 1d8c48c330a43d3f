"""Weights that have seen a subject are not tested on it."""

import json

import pandas
import pytest
from conftest import refused

from training.provenance import (
    check_unseen,
    differences,
    identifiers_of_subjects,
    identity_of,
    run_facts,
    seen_by,
    seen_by_a_run,
)


def subjects_of(training=(), validation=(), test=(), dataset="atlas"):
    """Subjects of a run: `a` has the scan content-a, and so on; `b=a` is b with a scan of a."""

    def listed(names):
        table = [
            {
                "dataset": dataset,
                "subject": name[0],
                "content": f"content-{name[-1]}",
                "alike": f"{dataset}/{name[-1]}_1",
            }
            for name in names
        ]
        return identifiers_of_subjects(pandas.DataFrame(table)) if table else {}

    return {"training": listed(training), "validation": listed(validation), "test": listed(test)}


def run_of(folder, subjects, initial_weights=None):
    """Write what a run leaves for the next; return its weights."""
    folder.mkdir()
    facts = {"subjects": seen_by_a_run(subjects, initial_weights)}
    (folder / "run.json").write_text(json.dumps(facts))
    return folder / "best.weights.h5"


def test_weights_of_other_subjects_are_taken_and_said_to_be(tmp_path, capsys):
    weights = run_of(tmp_path / "run", subjects_of("ab", "c", "d"))
    check_unseen(subjects_of("abcd", "e", "f"), weights)
    shown = capsys.readouterr().out
    assert shown.startswith(f"checked: {weights} was trained on 2 subjects, none of whom validates")
    assert shown.count("\n") == 1


def test_the_very_split_that_the_weights_were_trained_on_is_allowed(tmp_path):
    subjects = subjects_of("ab", "c", "d")
    check_unseen(subjects, run_of(tmp_path / "run", subjects))


@pytest.mark.parametrize(
    ("subjects", "shown"),
    [
        (subjects_of("c", "b", "d"), ["was trained on atlas/b", "validation subset"]),
        (subjects_of("c", "d", "ab"), ["was trained on", "atlas/a, atlas/b", "test subset"]),
        (subjects_of("a", "d", "c"), ["atlas/c", "best epoch", "test subset"]),
        (subjects_of("c", ["x=a"], "d"), ["was trained on atlas/x"]),
    ],
    ids=["validation", "test", "chosen by", "another name"],
)
def test_weights_that_have_seen_a_subject_are_refused_by_name(tmp_path, subjects, shown):
    weights = run_of(tmp_path / "run", subjects_of("ab", "c", "z"))
    with refused(weights, *shown):
        check_unseen(subjects, weights)


def test_a_copy_in_another_data_set_is_recognised_by_its_content(tmp_path):
    weights = run_of(tmp_path / "run", subjects_of("a", "b", dataset="brats17"))
    check_unseen(subjects_of("x", ["y=c"]), weights)
    with refused("atlas/y"):
        check_unseen(subjects_of("x", ["y=a"]), weights)


def test_what_the_weights_of_the_weights_have_seen_counts(tmp_path):
    first = run_of(tmp_path / "first", subjects_of("a", "b"))
    second = run_of(tmp_path / "second", subjects_of("c", "d"), first)
    with refused(second, "atlas/a"):
        check_unseen(subjects_of("x", "a"), second)
    with refused(second, "atlas/b"):
        check_unseen(subjects_of("x", "y", "b"), second)


def test_at_most_five_subjects_are_named(tmp_path):
    weights = run_of(tmp_path / "run", subjects_of("abcdefg", "h"))
    with refused("atlas/e and 2 more of"):
        check_unseen(subjects_of("h", "abcdefg"), weights)


@pytest.mark.parametrize("facts", [None, {}, {"subjects": None}])
def test_weights_of_unknown_origin_are_said_to_be_unchecked(tmp_path, facts, capsys):
    if facts is not None:
        (tmp_path / "run.json").write_text(json.dumps(facts))
    check_unseen(subjects_of("a", "b"), tmp_path / "best.weights.h5")
    assert capsys.readouterr().out.startswith("not checked: no run.json beside")


def test_weights_that_began_with_ones_of_unknown_origin_are_not_said_to_be_checked(
    tmp_path, capsys
):
    foreign = tmp_path / "foreign.weights.h5"
    first = run_of(tmp_path / "first", subjects_of("a", "b"), foreign)
    second = run_of(tmp_path / "second", subjects_of("c", "d"), first)
    for weights in (first, second):
        check_unseen(subjects_of("x", "y", "z"), weights)
        assert capsys.readouterr().out.startswith(
            f"not checked: no run.json beside {foreign} tells"
        )
    with refused(second, "atlas/a"):
        check_unseen(subjects_of("x", "a"), second)


@pytest.mark.parametrize(
    "subjects", [3, {"training": 5, "validation": {}}, {"training": {}}, {"training": {"a": 1}}]
)
def test_a_run_file_edited_into_nonsense_is_refused(tmp_path, subjects):
    (tmp_path / "run.json").write_text(json.dumps({"subjects": subjects}))
    with refused(tmp_path / "run.json", "subjects"):
        check_unseen(subjects_of("a", "b"), tmp_path / "best.weights.h5")


def test_a_run_has_seen_its_own_subjects_and_those_of_its_initial_weights(tmp_path):
    first = run_of(tmp_path / "first", subjects_of("a", "b"))
    seen = seen_by(run_of(tmp_path / "second", subjects_of("c", ["a", "b=x"]), first))
    assert {subset: set(names) for subset, names in seen.items()} == {
        "training": {"atlas/a", "atlas/c"},
        "validation": {"atlas/a", "atlas/b"},
        "unknown": set(),
    }
    # By what the earlier run knew of it and by what this one knows.
    assert {"content-b", "content-x"} <= set(seen["validation"]["atlas/b"])


def test_settings_that_differ_are_named_however_deep():
    ours = {"seed": 0, "unet": {"filters": 8, "levels": 4}, "precision": "float32"}
    theirs = {"seed": 0, "unet": {"filters": 4, "levels": 4, "mirror": True}}
    assert differences(ours, theirs) == ["precision", "unet.filters", "unet.mirror"]
    assert differences(ours, ours) == []


@pytest.mark.parametrize("identity", [None, 5, [1]])
def test_what_is_no_identity_is_refused(identity, tmp_path):
    with refused(tmp_path / "run.json", "train anew"):
        identity_of({"identity": identity}, tmp_path)


@pytest.mark.parametrize("unet", [5, None, []])
def test_a_damaged_identity_is_compared_as_it_is(unet, tmp_path):
    assert identity_of({"identity": {"unet": unet, "train": {}}}, tmp_path) == {
        "unet": unet,
        "train": {"dice_of": "batch", "dice_smooth": 1.0},
    }


def test_a_run_of_an_earlier_version_is_the_same_whatever_decides_nothing(tmp_path):
    stages = {
        "pre_train": {"epochs": 3, "augmentation": False},
        "transfer": {"epochs": 3, "augmentation": True, "initial_weights": "a.weights.h5"},
    }
    found = [
        identity_of({"identity": {stage: own, "augmentation": {"shift": 0.1}}}, tmp_path)
        for stage, own in stages.items()
    ]
    assert ["augmentation" in identity for identity in found] == [False, True]
    assert "initial_weights" not in found[1]["transfer"]
    assert "initial_weights" in stages["transfer"]


@pytest.mark.parametrize("content", ["[]", "3", '"run"', "null"])
def test_a_run_file_that_is_no_mapping_is_refused(content, tmp_path):
    (tmp_path / "run.json").write_text(content)
    with refused(tmp_path / "run.json", "copy it anew"):
        run_facts(tmp_path, "copy it anew")
    with refused(tmp_path / "run.json", "choose weights"):
        seen_by(tmp_path / "best.weights.h5")


def test_a_folder_without_a_run_file_has_no_facts_unless_they_are_needed(tmp_path):
    assert run_facts(tmp_path, "") == {}
    with refused(tmp_path / "run.json", "not found; name a run"):
        run_facts(tmp_path, "name a run", required=True)
