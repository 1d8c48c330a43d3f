"""Nobody trains on one whom they are tested on, whatever the names, and the subsets are alike."""

import json
from itertools import chain

import numpy as np
import pandas
import pytest
from conftest import refused
from hypothesis import assume, given
from hypothesis import strategies as st

from scans.folds import make_other_folds, make_split, split_from_table
from scans.splits import (
    check_folds,
    count_folds,
    find_split,
    fingerprint,
    load_split,
    rows_of,
)
from system.files import save_json


def manifest(lesions, sites=None, sessions=None, twin_of=None):
    """Rows of subjects s000, s001, ... with three slices a session.

    Parameters
    ----------
    lesions : list of int
        Pixels of each subject.
    sites, sessions : list of int, optional
    twin_of : dict of int to int, optional
        Subject whose first session is the first session of another one.
    """
    rows = []
    for i, lesion in enumerate(lesions):
        site = sites[i] if sites else 0
        for session in range(sessions[i] if sessions else 1):
            owner = (twin_of or {}).get(i, i) if session == 0 else i
            rows += [
                {
                    "dataset": "atlas",
                    "subject": f"s{i:03}",
                    "session": str(session),
                    "site": f"R{site}",
                    "lesion_pixels": lesion if z == 1 else 0,
                    "content": f"{owner}-{session}",
                    "alike": f"{owner}-{session}",
                }
                for z in range(3)
            ]
    return pandas.DataFrame(rows)


@st.composite
def manifests(draw):
    number = draw(st.integers(12, 30))

    def each(strategy):
        return draw(st.lists(strategy, min_size=number, max_size=number))

    subject = st.integers(0, number - 1)
    return manifest(
        each(st.integers(0, 500)),
        each(st.integers(0, 9)),
        each(st.integers(1, 3)),
        draw(st.dictionaries(subject, subject, max_size=3)),
    )


def subset_of(split):
    """Number the subset of each subject; fails if one stands in two."""
    subsets = [split["test"], *split["folds"]]
    names = list(chain(*subsets))
    assert len(names) == len(set(names))
    return {subject: number for number, subset in enumerate(subsets) for subject in subset}


def split_of(folds, test=(), fold=0):
    training = [s for i, subset in enumerate(folds) if i != fold for s in subset]
    return {"training": training, "validation": folds[fold], "test": list(test)}


def save_split(folder, split):
    (folder / "splits.json").write_text(json.dumps(split))


@given(
    rows=manifests(),
    by=st.sampled_from(["subject", "site"]),
    folds=st.integers(2, 4),
    test_fraction=st.sampled_from([0, 0.1, 0.2, 0.3]),
    seed=st.integers(0, 2**31 - 1),
)
def test_no_subject_is_in_two_subsets(rows, by, folds, test_fraction, seed):
    """Nor a site, if sites stay together, nor a scan under two names; and nobody is forgotten."""
    assume(by == "subject" or rows.site.nunique() >= 8)
    split = make_split(rows, by, folds, test_fraction, seed)
    subset = subset_of(split)
    assert set(subset) == set(rows.subject)
    assert len(split["folds"]) == folds
    assert all(split["folds"])
    assert bool(split["test"]) == (test_fraction > 0)
    together = ["content", "alike", "subject", *(["site"] if by == "site" else [])]
    for column in together:
        assert rows.subject.map(subset).groupby(rows[column]).nunique().max() == 1


def test_sites_stay_together():
    rows = manifest([9] * 40, sites=[i % 8 for i in range(40)])
    by_site = rows.subject.map(subset_of(make_split(rows, "site", 3, 0.2, 0)))
    assert by_site.groupby(rows.site).nunique().max() == 1
    by_subject = rows.subject.map(subset_of(make_split(rows, "subject", 3, 0.2, 0)))
    assert by_subject.groupby(rows.site).nunique().max() > 1


@given(rows=manifests(), folds=st.integers(2, 4), seed=st.integers(0, 99))
def test_folds_by_site_are_of_the_same_people_and_keep_each_site_together(rows, folds, seed):
    split = make_split(rows, "subject", folds, 0.2, seed)
    other = make_other_folds(rows, split, "subject", seed)
    assume(other)
    both = {"test": split["test"], "folds": other["site"]}
    subset = subset_of(both)
    assert set(subset) == set(rows.subject)
    assert 1 < len(other["site"]) <= folds
    assert all(other["site"])
    dealt = rows[~rows.subject.isin(split["test"])]
    for column in ("site", "content", "alike"):
        assert dealt.subject.map(subset).groupby(dealt[column]).nunique().max() == 1


def test_a_subject_of_two_sites_keeps_both_together():
    rows = manifest([9] * 12, sites=[i % 6 for i in range(12)], sessions=[2] + [1] * 11)
    rows.loc[(rows.subject == "s000") & (rows.session == "1"), "site"] = "R5"
    for seed in range(5):
        subset = rows.subject.map(subset_of(make_split(rows, "site", 3, 0, seed)))
        assert subset[rows.site.isin(["R0", "R5"])].nunique() == 1


def test_folds_by_site_are_about_equally_large_though_sites_are_not():
    sizes = [40, 25, 12, 10, 8, 6, 5, 5, 4, 3, 1, 1]
    sites = [site for site, size in enumerate(sizes) for _ in range(size)]
    lesions = np.random.default_rng(0).integers(1, 400, len(sites)).tolist()
    rows = manifest(lesions, sites=sites)
    counts = [len(fold) for fold in make_split(rows, "site", 3, 0, 0)["folds"]]
    assert sum(counts) == 120
    assert max(counts) - min(counts) <= 6


def test_without_a_second_site_there_are_no_folds_by_site():
    rows = manifest([9] * 12)
    split = make_split(rows, "subject", 3, 0.2, 0)
    assert make_other_folds(rows, split, "subject", 0) == {}


def test_fewer_sites_than_folds_make_as_many_folds():
    rows = manifest([9] * 20, sites=[i % 3 for i in range(20)])
    split = make_split(rows, "subject", 5, 0.2, 0)
    assert len(make_other_folds(rows, split, "subject", 0)["site"]) == 3


def test_the_split_of_a_run_is_found_among_both_kinds(tmp_path):
    both = {"subject": [["a"], ["b"]], "site": [["b"], ["a"]]}
    save_split(tmp_path, {"atlas": {"test": [], "folds": both}})
    for by, folds in both.items():
        split = split_of(folds)
        assert load_split(tmp_path, "atlas", 0, by) == split
        assert find_split(tmp_path, "atlas", 0, fingerprint(split)) == (by, split)
    assert find_split(tmp_path, "atlas", 0, "another") is None


def test_folds_by_site_that_are_not_there_are_asked_of_prep(tmp_path):
    save_split(tmp_path, {"atlas": {"test": [], "folds": {"subject": [["a"], ["b"]]}}})
    with refused("no fold 0 by site of atlas", "all are of one site", "run prep.py again"):
        load_split(tmp_path, "atlas", 0, "site")
    assert find_split(tmp_path, "atlas", 0, "another") is None
    folds = {"subject": [["a"], ["b"], ["c"]], "site": [["a", "b"], ["c"]]}
    save_split(tmp_path, {"atlas": {"test": [], "folds": folds}})
    with refused("no fold 2 by site of atlas; set fold to less than 2, or run prep.py again"):
        load_split(tmp_path, "atlas", 2, "site")


def test_an_odd_kind_of_folds_does_not_cost_the_good_one(tmp_path):
    content = {"atlas": {"test": [], "folds": {"subject": [["a"], ["b"]], "site": 5}}}
    save_json(tmp_path / "splits.json", content)
    check_folds(tmp_path, "atlas", 2)
    with refused(tmp_path, "has 2 folds of atlas"):
        check_folds(tmp_path, "atlas", 3)


def test_twins_stay_together_over_several_names():
    """0 is 1 under another name, and 1 has a second scan that is 2's."""
    rows = manifest([9] * 12, sessions=[1, 2] + [1] * 10, twin_of={0: 1})
    rows.loc[rows.subject.eq("s002"), "content"] = "1-1"
    for seed in range(5):
        subset = subset_of(make_split(rows, "subject", 4, 0.2, seed))
        assert subset["s000"] == subset["s001"] == subset["s002"]


def near_twins(number, one, other):
    """Rows of so many subjects, of whom two have nearly the same scan."""
    rows = manifest([9] * number)
    rows.loc[rows.subject == other, "alike"] = rows.alike[rows.subject == one].iloc[0]
    return rows


def test_nearly_identical_scans_stay_together():
    rows = near_twins(12, "s003", "s007")
    for seed in range(5):
        subset = subset_of(make_split(rows, "subject", 4, 0.2, seed))
        assert subset["s003"] == subset["s007"]


def test_the_seed_alone_decides_the_split():
    rows = manifest(list(range(40)))
    splits = [make_split(rows, "subject", 5, 0.2, seed) for seed in (0, 0, 1)]
    shuffled = make_split(rows.sample(frac=1, random_state=3), "subject", 5, 0.2, 0)
    assert splits[0] == splits[1] == shuffled
    assert splits[0] != splits[2]
    assert splits[0]["test"] != splits[2]["test"]
    assert fingerprint(splits[0]) == fingerprint(splits[1]) != fingerprint(splits[2])


@pytest.mark.parametrize("seed", range(5))
def test_each_subset_has_small_and_large_lesions_alike(seed):
    lesions = np.random.default_rng(seed).lognormal(7, 1.8, 40).astype(int)
    quartile = pandas.qcut(lesions, 4, labels=False)
    split = make_split(manifest(lesions), "subject", 5, 0.2, seed)
    assert len(split["test"]) == 8
    for subset in (split["test"], *split["folds"]):
        assert {quartile[int(subject[1:])] for subject in subset} == {0, 1, 2, 3}


@pytest.mark.parametrize("test_fraction", [0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("number", [20, 31])
def test_the_subsets_have_the_sizes_asked_for(number, test_fraction):
    split = make_split(manifest([9] * number), "subject", 4, test_fraction, 0)
    assert abs(len(split["test"]) - test_fraction * number) < 2
    sizes = [len(fold) for fold in split["folds"]]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("number", "folds", "test_fraction"), [(5, 5, 0.2), (4, 5, 0), (8, 7, 0.2), (8, 5, 0.5)]
)
def test_too_few_subjects_are_refused(number, folds, test_fraction):
    """Also when there are enough at first, but not after the test subset is taken off."""
    with refused("split", f"{number} separate subjects of atlas", "split.folds"):
        make_split(manifest([9] * number), "subject", folds, test_fraction, 0)


def test_the_smallest_number_of_subjects_is_enough():
    assert len(subset_of(make_split(manifest([9] * 6), "subject", 5, 0.2, 0))) == 6
    assert len(subset_of(make_split(manifest([9] * 5), "subject", 5, 0, 0))) == 5


def test_too_few_sites_are_refused_however_many_subjects():
    with refused("3 separate sites"):
        make_split(manifest([9] * 30, sites=[i % 3 for i in range(30)]), "site", 3, 0.2, 0)


# --- a published split ---


def test_a_table_is_taken_over_as_it_is(tmp_path):
    (tmp_path / "t.csv").write_text("subject,fold\ns002,1\ns000,test\ns001,0\ns003,1\nother,0\n")
    split = split_from_table(tmp_path / "t.csv", manifest([9] * 4), "subject", 2)
    assert split == {"test": ["s000"], "folds": [["s001"], ["s002", "s003"]]}


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_may_be_as_a_spreadsheet_saves_it(tmp_path, separator):
    lines = ["Subject,Fold", " s002,1", "s000,test", "s001,0 ", ","]
    text = "\ufeff" + "\r\n".join(lines).replace(",", separator)
    (tmp_path / "t.csv").write_bytes(text.encode())
    split = split_from_table(tmp_path / "t.csv", manifest([9] * 3), "subject", 2)
    assert split == {"test": ["s000"], "folds": [["s001"], ["s002"]]}


@pytest.mark.parametrize(
    ("table", "parts"),
    [
        (None, ["not a csv with columns subject and fold"]),
        ("", ["not a csv with columns subject and fold"]),
        ("name,fold\ns000,0\n", ["not a csv with columns subject and fold", "subject"]),
        ("subject,fold\ns000,0\ns001\ns1,0,0,0\n", ["not a csv with columns"]),
        ("subject,fold\ns000,0\ns001,1\ns000,1\n", ["s000 is listed twice"]),
        ("subject,fold\ns000,0\n", ["s001 has no fold", "0, 1, test"]),
        ("subject,fold\ns000,0\ns001,2\n", ["s001 has fold 2", "0, 1, test"]),
        ("subject,fold\ns000,0\ns001,\n", ["s001", "0, 1, test"]),
        ("subject,fold\ns000,0\ns001,0\n", ["no subject here has fold 1", "split.folds"]),
    ],
)
def test_a_wrong_table_is_refused(tmp_path, table, parts):
    if table is not None:
        (tmp_path / "t.csv").write_text(table)
    with refused(tmp_path / "t.csv", *parts):
        split_from_table(tmp_path / "t.csv", manifest([9] * 2), "subject", 2)


@pytest.mark.parametrize(
    ("rows", "how"),
    [
        (manifest([9] * 3, twin_of={2: 0}), "the same scan"),
        (near_twins(3, "s000", "s002"), "nearly the same scan"),
    ],
)
def test_a_table_that_separates_one_scan_under_two_names_is_refused(tmp_path, rows, how):
    (tmp_path / "t.csv").write_text("subject,fold\ns000,0\ns001,1\ns002,1\n")
    with refused(tmp_path / "t.csv", f"s000 and s002 are {how} in two subsets"):
        split_from_table(tmp_path / "t.csv", rows, "subject", 2)
    (tmp_path / "t.csv").write_text("subject,fold\ns000,1\ns001,0\ns002,1\n")
    assert split_from_table(tmp_path / "t.csv", rows, "subject", 2)["folds"] == [
        ["s001"],
        ["s000", "s002"],
    ]


# --- what the stages read ---


@pytest.mark.parametrize("fold", [0, 1, 2])
def test_each_fold_validates_once_and_trains_otherwise(tmp_path, fold):
    folds = [["a", "b"], ["c"], ["d"]]
    both = {"subject": folds, "site": folds[::-1]}
    save_split(tmp_path, {"atlas": {"test": ["e"], "folds": both}})
    assert load_split(tmp_path, "atlas", fold) == split_of(folds, ["e"], fold)
    assert load_split(tmp_path, "atlas", fold, "site") == split_of(folds[::-1], ["e"], fold)
    assert count_folds(tmp_path, "atlas", "site") == 3


@pytest.mark.parametrize(
    ("content", "fold", "parts"),
    [
        (None, 0, ["not found", "prep.py first"]),
        ("{", 0, ["cannot be read"]),
        ("[]", 0, ["prep.py again"]),
        ("{}", 0, ["no fold 0 of atlas"]),
        ('{"atlas": {"folds": {"subject": [["a"]]}}}', 0, ["no fold 0 of atlas"]),
        (
            '{"atlas": {"test": [], "folds": {"subject": [["a"], ["b"]]}}}',
            2,
            ["no fold 2 of atlas; set fold to less than 2, or run prep.py again"],
        ),
        (
            '{"atlas": {"test": [], "folds": {"subject": [["a"], ["b", "a"]]}}}',
            0,
            ["a stands in 2 subsets"],
        ),
        (
            '{"atlas": {"test": ["b"], "folds": {"subject": [["a"], ["b"], []]}}}',
            0,
            ["b stands in 2 subsets"],
        ),
    ],
)
def test_a_wrong_split_file_is_refused(tmp_path, content, fold, parts):
    if content is not None:
        (tmp_path / "splits.json").write_text(content)
    with refused(tmp_path / "splits.json", *parts):
        load_split(tmp_path, "atlas", fold)


def test_rows_go_where_their_subject_goes():
    rows = manifest([9] * 4, sessions=[1, 2, 1, 1])
    numbers = rows_of(rows, split_of([["s002"], ["s000", "s001"]], ["s003"]))
    for subset, subjects in (
        ("training", {"s000", "s001"}),
        ("validation", {"s002"}),
        ("test", {"s003"}),
    ):
        assert set(rows.subject[numbers[subset]]) == subjects
    assert sorted(chain(*numbers.values())) == list(range(len(rows)))


@pytest.mark.parametrize(
    ("rows", "split", "parts"),
    [
        (manifest([9] * 3), split_of([["s000"], ["s001"]]), ["splits.json", "s002 is missing"]),
        (
            manifest([9] * 2),
            split_of([["s000"], ["s001"]], ["s002"]),
            ["slices.csv", "s002 is missing"],
        ),
        (
            manifest([9] * 3, twin_of={2: 0}),
            split_of([["s000"], ["s001"]], ["s002"]),
            ["s000 and s002 are the same scan in two subsets"],
        ),
        (
            near_twins(3, "s000", "s001"),
            split_of([["s000"], ["s001"]], ["s002"]),
            ["splits.json", "s000 and s001 are nearly the same scan in two subsets"],
        ),
        (
            manifest([0, 9]),
            split_of([["s000"], ["s001"]]),
            ["no slice with a lesion in validation"],
        ),
        (manifest([9, 0]), split_of([["s000"], ["s001"]]), ["no slice with a lesion in training"]),
        (manifest([9]), split_of([[], ["s000"]]), ["no slice with a lesion in validation"]),
    ],
)
def test_a_split_that_does_not_fit_the_slices_is_refused(rows, split, parts):
    with refused(*parts, "run prep.py again"):
        rows_of(rows, split)


def test_an_empty_test_subset_is_allowed():
    numbers = rows_of(manifest([9] * 2), split_of([["s000"], ["s001"]]))
    assert len(numbers["test"]) == 0
