"""Scans are divided by what is known of them, and by nothing that is not."""

import pandas
from conftest import refused

from evaluation.cases import Case
from evaluation.strata import NOT_KNOWN, VOLUME_STRATA, check_strata, strata_of


def table(**columns):
    length = len(next(iter(columns.values())))
    given = {"lesion_volume_ml": [5.0] * length, "site": ["R001"] * length}
    return pandas.DataFrame(given | columns)


def divided(by, columns=(), **values):
    strata = strata_of(table(**values), columns)[by]
    assert set(strata.of_scan) <= set(strata.names)
    return list(strata.of_scan), list(strata.names)


def test_volumes_are_all_listed_and_other_strata_where_they_occur():
    found = strata_of(table(site=["B", "A", "B"]))
    assert list(found) == ["lesion volume", "site"]
    assert tuple(found["lesion volume"].names) == VOLUME_STRATA
    assert found["site"].names == ["A", "B"]


def test_a_scan_without_lesion_is_not_one_of_a_small_lesion():
    of_scan, names = divided("lesion volume", lesion_volume_ml=[0.0, 0.2, 20.0])
    assert of_scan == ["no lesion", "<1 ml", "10–50 ml"]
    assert names == ["no lesion", *VOLUME_STRATA]


def test_lesions_are_counted_and_voxels_measured_by_their_longest_side():
    of_scan, names = divided("number of lesions", lesion_count=[7, 0, 1, 4, 2, 5])
    assert of_scan == ["5 or more", "no lesion", "1", "2–4", "2–4", "5 or more"]
    assert names == ["no lesion", "1", "2–4", "5 or more"]
    sides_mm = [0.94, 0.95, 1.0000001, 1.05, 1.2, 2.0, 6.0]
    of_scan, _ = divided("longest side of a voxel", longest_voxel_side_mm=sides_mm)
    middle = ["0.95–1.05 mm"] * 3
    assert of_scan == ["<0.95 mm", *middle, "1.05–2 mm", "1.05–2 mm", ">2 mm"]


def test_time_since_stroke_is_of_the_days_or_else_of_the_word_for_it():
    days = ["7", "8", "179", "180", "", "", "", "about 10", ""]
    words = ["1", "", "", "", "1", "Subacute", "", "", "0"]
    of_scan, names = divided("time since stroke", days_post_stroke=days, chronicity=words)
    late = "from 180 days"
    assert of_scan[:4] == ["to 7 days", "8–179 days", "8–179 days", late]
    assert of_scan[4:] == [late, "subacute", NOT_KNOWN, NOT_KNOWN, "below 180 days"]
    assert names == ["to 7 days", "8–179 days", "below 180 days", late, "subacute", NOT_KNOWN]
    assert divided("time since stroke", chronicity=["chronic", None])[0] == [late, NOT_KNOWN]


def test_a_column_of_words_or_few_numbers_is_divided_by_its_values():
    assert divided("sex", ["sex"], participant_sex=["M", "", "F"]) == (
        ["M", NOT_KNOWN, "F"],
        ["F", "M", NOT_KNOWN],
    )
    assert divided(
        "field_strength", ["field_strength"], participant_field_strength=["3", "1.5", "3"]
    )[1] == [
        "1.5",
        "3",
    ]


def test_a_column_of_many_numbers_is_divided_at_its_quartiles():
    ages = [str(age) for age in (81, 30, 42, 55, 60, 61, 70, 75)]
    of_scan, names = divided("age", ["age"], participant_age=[*ages, ""])
    assert names == ["30 to 42", "55 to 60", "61 to 70", "75 to 81", NOT_KNOWN]
    assert of_scan[0] == of_scan[7] == "75 to 81"


def test_numbers_without_an_end_are_words_and_long_ones_stay_whole():
    dates = [str(20190101 + i) for i in range(8)]
    _, names = divided("date", ["date"], participant_date=dates)
    assert names[0] == "20190101 to 20190102"
    _, names = divided("date", ["date"], participant_date=[*dates, "-inf"])
    assert len(names) == 9


def test_a_column_named_like_one_of_ours_divides_by_itself():
    own = ["a", "b", "a"]
    found = strata_of(table(participant_lesion_volume=own), ["lesion_volume"])
    assert tuple(found["lesion volume"].names) == VOLUME_STRATA
    assert list(found["lesion_volume"].of_scan) == own


def case(**metadata):
    return Case("s", "", "R001", None, (), None, metadata=metadata)


def test_a_column_that_no_scan_has_is_refused_and_those_there_are_offered():
    cases = [case(participant_age="6"), case(participant_sex="F", chronicity="1")]
    with refused("evaluation.strata", "column sx", "there are age, sex"):
        check_strata(["sx"], cases)
    with refused("there are no others"):
        check_strata(["sex"], [case()])
    check_strata(["sex", "age", "site"], cases)
