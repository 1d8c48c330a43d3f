"""What tables beside the scans know of a person is used, and none is needed."""

import pytest

from scans.metadata import Metadata

NAME = "sub-1_ses-2_space-orig_desc-brain_T1w.nii.gz"


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "R001" / "sub-1" / "ses-2" / "anat" / NAME
    path.parent.mkdir(parents=True)
    return path


def known(folder, image, subject="sub-1", session="2_space-orig"):
    metadata = Metadata(folder)
    found = metadata.of(image, subject, session)
    return found, [str(problem) for problem in metadata.problems]


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", "utf-8")


def test_without_a_table_nothing_is_known(tmp_path, image):
    assert known(tmp_path, image) == ({}, [])


def test_the_columns_of_atlas_get_one_name_each_and_gaps_are_left_out(tmp_path, image):
    write(
        image.with_name("sub-1_ses-2_metadata.csv"),
        "DAYS_POST_STROKE,CHRONICITY,CENTER",
        "412,,R052",
    )
    assert known(tmp_path, image) == ({"days_post_stroke": "412", "site": "R052"}, [])


@pytest.mark.parametrize("subject", ["sub-1", "1"])
def test_participants_are_found_by_subject_in_the_nearest_table_above(tmp_path, image, subject):
    write(tmp_path / "participants.tsv", "participant_id\tsex", "sub-1\tfar away")
    write(
        tmp_path / "R001" / "participants.tsv",
        "participant_id\tsite\tSex\tfield strength\tage",
        "sub-2\tB\tM\t1.5\t60",
        f"{subject}\tA\tF\t3\tn/a",
    )
    assert known(tmp_path, image)[0] == {
        "site": "A",
        "participant_sex": "F",
        "participant_field_strength": "3",
    }


def test_a_row_of_the_session_goes_before_one_of_the_subject(tmp_path, image):
    write(
        tmp_path / "participants.tsv",
        "participant_id\tsession_id\tdays_post_stroke",
        "sub-1\tses-1\t10",
        "sub-1\tses-2\t200",
    )
    assert known(tmp_path, image)[0] == {"days_post_stroke": "200"}
    assert known(tmp_path, image, session="1")[0] == {"days_post_stroke": "10"}
    assert known(tmp_path, image, session="3")[0] == {}


def test_what_lies_beside_the_scan_goes_before_participants(tmp_path, image):
    write(tmp_path / "participants.tsv", "participant_id\tcentre\tage", "sub-1\tA\t60")
    write(image.with_name("sub-1_ses-2_metadata.csv"), "CENTER", "B")
    write(image.with_name("sub-1_ses-22_metadata.csv"), "CENTER", "of another scan")
    assert known(tmp_path, image)[0] == {"site": "B", "participant_age": "60"}


def test_a_column_called_as_one_of_ours_does_not_take_its_place(tmp_path, image):
    write(tmp_path / "participants.tsv", "participant_id\tmean\tdice\trun", "sub-1\t7\t8\t9")
    assert set(known(tmp_path, image)[0]) == {
        "participant_mean",
        "participant_dice",
        "participant_run",
    }


def test_commas_in_a_tsv_separate_nothing_and_rows_without_a_name_are_nobodys(tmp_path, image):
    write(
        tmp_path / "participants.tsv",
        "participant_id\tnotes (a, b, c)\tsite\t",
        "sub-1\tx, y\tA\t",
        "\tnobody\tB",
        "\tnobody\tC",
    )
    assert known(tmp_path, image) == ({"participant_notes_(a,_b,_c)": "x, y", "site": "A"}, [])


def test_only_the_end_of_a_line_ends_a_row(tmp_path, image):
    # What Excel writes for Alt+Enter, and other marks that Python takes for the end of a line.
    write(tmp_path / "participants.tsv", "participant_id\tnotes\tsite", "sub-1\tx\vy\x85z\tA")
    assert known(tmp_path, image) == ({"participant_notes": "x\vy\x85z", "site": "A"}, [])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("participant_id\tage\nsub-1\t60\nsub-1\t61\n", "sub-1 is listed twice"),
        ("subject\tage\nsub-1\t60\n", "no column participant_id"),
        (b"participant_id\tsite\nsub-1\tM\xfcnchen\n", "not a table"),
        ("", "not a table"),
        ('participant_id\tage\nsub-1\t60\t1\t2\nsub-2\t1\n"', "not a table"),
    ],
)
def test_a_broken_table_is_named_once_and_not_used(tmp_path, image, content, reason):
    path = tmp_path / "participants.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    metadata = Metadata(tmp_path)
    assert metadata.of(image, "sub-1", "2") == metadata.of(image, "sub-2", "") == {}
    (problem,) = map(str, metadata.problems)
    assert str(path) in problem and reason in problem


def test_a_table_of_several_rows_belongs_to_no_scan(tmp_path, image):
    write(image.with_name("sub-1_ses-2_metadata.csv"), "CENTER", "A", "B")
    found, (problem,) = known(tmp_path, image)
    assert found == {}
    assert "has 2 rows" in problem


def test_no_table_above_the_folder_of_the_data_set_is_read(tmp_path, image):
    write(tmp_path / "participants.tsv", "participant_id\tage", "sub-1\t60")
    assert known(tmp_path / "R001", image)[0] == {}
