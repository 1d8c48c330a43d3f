"""Outputs appear whole or not at all, and what cannot be written or read is refused in one line."""

import errno
import os

import pandas
import pytest
from conftest import refused

from system.files import (
    InputError,
    Problem,
    first_few,
    load_json,
    save_csv,
    save_json,
    whole_file,
)


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("old")
    with whole_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent  # so that the move is atomic
        assert temporary.name.startswith(".")
        assert temporary.suffix == path.suffix
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_a_block_that_raises_leaves_only_the_old_file(tmp_path, error):
    path = tmp_path / "history.csv"
    path.write_text("old")
    with pytest.raises(Exception if error is OSError else error), whole_file(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_missing_folders_are_made(tmp_path):
    save_json(tmp_path / "a/b/c.json", {})
    assert (tmp_path / "a/b/c.json").is_file()


@pytest.mark.parametrize("path", ["file/x.json", "file/folder/x.json", "folder"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path, path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    with refused(tmp_path / path, "cannot be written", "paths") as refusal:
        save_json(tmp_path / path, {})
    assert "free some space" not in str(refusal.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError("90000 requested and 38384 written"),  # as numpy says it
    ],
)
def test_a_full_disk_is_refused(tmp_path, error):
    with refused(tmp_path / "x", "free some space"), whole_file(tmp_path / "x") as temporary:
        temporary.write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_json_comes_back_as_saved(tmp_path):
    content = {"subject": "sub-å", "folds": [["a"], []], "ml": 1 / 3}
    save_json(tmp_path / "x.json", content)
    assert load_json(tmp_path / "x.json", "") == content


@pytest.mark.parametrize("content", [None, b"", b"{half", b"\xff\xff"])
def test_json_that_cannot_be_read_says_how_to_get_it(tmp_path, content):
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with refused(tmp_path / "x.json", "run prep.py first"):
        load_json(tmp_path / "x.json", "run prep.py first")


def test_a_table_comes_back_as_saved(tmp_path):
    rows = [{"subject": "a, b", "z": 1}, {"subject": 'c"d', "z": 2}]
    save_csv(tmp_path / "x.csv", rows)
    assert pandas.read_csv(tmp_path / "x.csv").to_dict("records") == rows


def test_rows_that_an_earlier_version_wrote_may_lack_columns(tmp_path):
    save_csv(tmp_path / "x.csv", [{"a": 1}, {"a": 2, "similarity": 0.5}])
    assert (tmp_path / "x.csv").read_text().split() == ["a,similarity", "1,", "2,0.5"]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("given.nii: broken: 3 bytes", "broken: 3 bytes"),
        ("it is broken: 3 bytes", "it is broken: 3 bytes"),
        ("mask.nii: is empty", "mask.nii: is empty"),
    ],
)
def test_a_problem_names_the_file_that_is_left_out_whatever_the_error_names(message, reason):
    assert Problem.of(InputError(message), "given.nii") == Problem("given.nii", reason)


def test_a_problem_and_an_error_are_one_line_whatever_a_file_is_called():
    file = "a\nb\x1b[2J\udcff.nii"
    shown = r"a\nb\x1b[2J\udcff.nii: broken"
    assert str(Problem(file, "broken")) == str(InputError(f"{file}: broken")) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(1, "0"), (5, "0, 1, 2, 3, 4"), (7, "0, 1, 2, 3, 4 and 2 more")]
)
def test_of_many_names_the_first_are_shown(count, shown):
    assert first_few([str(i) for i in range(count)]) == shown
