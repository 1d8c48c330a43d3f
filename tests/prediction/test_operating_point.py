"""What an operating point makes of probabilities, and how one is read and described."""

import json

import numpy as np
import pytest
from conftest import refused

from prediction.operating_point import (
    PLAIN,
    describe_point,
    empty_ends,
    point_file,
    read_operating_point,
    slices_left_empty,
)
from scans.volumes import Volume
from system.files import file_hash


def volume_of(shape, slice_mm=1):
    return Volume(np.zeros(shape, np.uint8), np.diag([1, 1, slice_mm, 1.0]), None)


def test_both_ends_are_emptied_and_nothing_else():
    voxels = np.ones((2, 2, 10), np.uint8)
    found = empty_ends(voxels, volume_of((2, 2, 10)), None, 3)
    assert found[0, 0].tolist() == [0] * 3 + [1] * 4 + [0] * 3
    assert empty_ends(voxels, volume_of((2, 2, 10)), None, 0).all()
    assert voxels.all()


@pytest.mark.parametrize(
    ("slices", "slice_mm", "ends"),
    [(189, 1, 50), (63, 3, 17), (189, 1.09, 46), (150, 1, 0), (240, 1, 0)],
)
def test_ends_are_left_empty_only_in_scans_as_high_as_those_of_training(slices, slice_mm, ends):
    point = {"ends_mm": 50.0, "height_mm": 189.0}
    volume = volume_of((9, 9, slices), slice_mm)
    assert slices_left_empty(point, volume, None) == ends
    assert slices_left_empty(PLAIN, volume, None) == 0


def test_the_operating_point_is_the_stored_one_or_half_and_nothing(tmp_path):
    weights, stored = tmp_path / "best.weights.h5", tmp_path / "operating_point.json"
    assert point_file(weights) == stored
    assert read_operating_point(weights) == PLAIN
    assert (PLAIN["threshold"], PLAIN["smallest_ml"], PLAIN["ends_mm"]) == (0.5, 0, 0)
    point = {"threshold": 0.3, "smallest_ml": 0.05, "ends_mm": 50.0, "height_mm": 189.0}
    point["flip"] = True
    stored.write_text(json.dumps(point | {"mean_dice": 0.6}))
    assert read_operating_point(weights) == point
    stored.write_text('{"threshold": 0.3}')
    with refused(stored, "evaluate.py"):
        read_operating_point(weights)
    for name, value in (
        ("threshold", 1.5),
        ("threshold", "0.5"),
        ("smallest_ml", -1),
        ("ends_mm", float("nan")),
        ("flip", "no"),
    ):
        stored.write_text(json.dumps(point | {name: value}))
        with refused(stored, "threshold (0 to 1)", "evaluate.py"):
            read_operating_point(weights)


def test_a_point_that_was_chosen_for_other_weights_is_refused(tmp_path):
    weights, stored = tmp_path / "best.weights.h5", tmp_path / "operating_point.json"
    weights.write_bytes(b"weights")
    stored.write_text(json.dumps(PLAIN | {"weights": file_hash(weights)}))
    assert read_operating_point(weights) == PLAIN
    weights.write_bytes(b"other weights")
    with refused(stored, "not chosen for best.weights.h5 as it is now", "evaluate.py"):
        read_operating_point(weights)


def test_a_point_is_written_as_a_sentence_would_have_it():
    assert describe_point(PLAIN) == "threshold 0.5, lesions from 0 ml, in all slices"
    assert describe_point(PLAIN | {"ends_mm": 50}).endswith("in the slices that training knew")
    assert describe_point(PLAIN | {"flip": True}).endswith(
        "all slices, averaged with the mirrored head"
    )
