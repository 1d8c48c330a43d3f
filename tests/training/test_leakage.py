"""Weights that have seen a subject are not tested on it."""

import json

import pandas
import pytest
from conftest import refused

from training.leakage import check_unseen, marks, whom_a_run_sees


def parts(training=(), validation=(), test=(), dataset="atlas"):
    """Subjects of a run: `a` has the scan content-a, and so on; `b=a` is b with a scan of a."""

    def listed(names):
        table = [
            {"dataset": dataset, "subject": name[0], "content": f"content-{name[-1]}",
             "alike": f"{dataset}/{name[-1]}_1"}
            for name in names
        ]  # fmt: skip
        return marks(pandas.DataFrame(table)) if table else {}

    return {"training": listed(training), "validation": listed(validation), "test": listed(test)}


def run_of(folder, subjects, initial_weights=None):
    """Write what a run leaves for the next; return its weights."""
    folder.mkdir()
    facts = {"subjects": whom_a_run_sees(subjects, initial_weights)}
    (folder / "run.json").write_text(json.dumps(facts))
    return folder / "best.weights.h5"


def test_weights_of_other_subjects_are_taken_and_said_to_be(tmp_path, capsys):
    weights = run_of(tmp_path / "run", parts("ab", "c", "d"))
    check_unseen(parts("abcd", "e", "f"), weights)
    shown = capsys.readouterr().out
    assert shown.startswith(f"checked: {weights} was trained on 2 subjects, none of whom validates")
    assert shown.count("\n") == 1


def test_the_very_split_that_the_weights_were_trained_on_is_allowed(tmp_path):
    subjects = parts("ab", "c", "d")
    check_unseen(subjects, run_of(tmp_path / "run", subjects))


@pytest.mark.parametrize(
    ("subjects", "shown"),
    [
        (parts("c", "b", "d"), ["was trained on atlas/b", "validation part"]),
        (parts("c", "d", "ab"), ["was trained on", "atlas/a, atlas/b", "test part"]),
        (parts("a", "d", "c"), ["atlas/c", "best epoch", "test part"]),
        (parts("c", ["x=a"], "d"), ["was trained on atlas/x"]),
    ],
    ids=["validation", "test", "chosen by", "another name"],
)
def test_weights_that_have_seen_a_subject_are_refused_by_name(tmp_path, subjects, shown):
    weights = run_of(tmp_path / "run", parts("ab", "c", "z"))
    with refused(weights, *shown):
        check_unseen(subjects, weights)


def test_a_copy_in_another_data_set_is_recognised_by_its_content(tmp_path):
    weights = run_of(tmp_path / "run", parts("a", "b", dataset="brats17"))
    check_unseen(parts("x", ["y=c"]), weights)
    with refused("atlas/y"):
        check_unseen(parts("x", ["y=a"]), weights)


def test_what_the_weights_of_the_weights_have_seen_counts(tmp_path):
    first = run_of(tmp_path / "first", parts("a", "b"))
    second = run_of(tmp_path / "second", parts("c", "d"), first)
    with refused(second, "atlas/a"):
        check_unseen(parts("x", "a"), second)
    with refused(second, "atlas/b"):
        check_unseen(parts("x", "y", "b"), second)


def test_at_most_five_subjects_are_named(tmp_path):
    weights = run_of(tmp_path / "run", parts("abcdefg", "h"))
    with refused("atlas/e and 2 more of"):
        check_unseen(parts("h", "abcdefg"), weights)


@pytest.mark.parametrize("facts", [None, {}, {"subjects": None}, []])
def test_weights_of_unknown_origin_are_said_to_be_unchecked(tmp_path, facts, capsys):
    if facts is not None:
        (tmp_path / "run.json").write_text(json.dumps(facts))
    check_unseen(parts("a", "b"), tmp_path / "best.weights.h5")
    assert capsys.readouterr().out.startswith("not checked: no run.json beside")


@pytest.mark.parametrize(
    "subjects", [3, {"training": 5, "validation": {}}, {"training": {}}, {"training": {"a": 1}}]
)
def test_a_run_file_edited_into_nonsense_is_refused(tmp_path, subjects):
    (tmp_path / "run.json").write_text(json.dumps({"subjects": subjects}))
    with refused(tmp_path / "run.json", "subjects"):
        check_unseen(parts("a", "b"), tmp_path / "best.weights.h5")
