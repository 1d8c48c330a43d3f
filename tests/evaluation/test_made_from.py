"""A report says what its runs were made from, and of each stage what is not the same for all."""

from evaluation.made_from import read_stages, tables_of_settings
from system.files import save_json


def facts(stage, filters=8, initial_weights=None):
    return {
        "stage": stage,
        "finished": False,
        "seed": 0,
        "fold": 0,
        "command": ["train_model.py"],
        "initial_weights": initial_weights,
        "identity": {
            stage: {"epochs": 1},
            "split": "a",
            "slices": "b",
            "unet": {"filters": filters},
        },
        "versions": {"keras": "3"},
    }


def test_stages_come_in_their_order_and_a_run_that_names_its_own_folder_once(tmp_path):
    before, after = tmp_path / "pre_train", tmp_path / "transfer"
    # As that of the network in the box, which was copied over its own initial weights.
    save_json(before / "run.json", facts("train", initial_weights=str(before / "best.weights.h5")))
    save_json(
        after / "run.json", facts("transfer", initial_weights=str(before / "best.weights.h5"))
    )
    assert list(read_stages([after])) == [before, after]
    assert list(read_stages([before])) == [before]


def test_networks_that_differ_are_told_apart(tmp_path):
    folders = {name: tmp_path / name for name in ("narrow", "wide")}
    for folder, filters in zip(folders.values(), (8, 32), strict=True):
        save_json(folder / "run.json", facts("train", filters))
    runs = {name: {"folders": [str(folder)], "folds": {0: [0]}} for name, folder in folders.items()}
    titles = dict(zip(folders.values(), folders, strict=True))
    stages, common = tables_of_settings(runs, read_stages(folders.values()), titles, {})
    assert ["network", "filters 8", "filters 32"] in stages["rows"]
    assert ["slices", "identity b"] in common["rows"]
    assert "network" not in [row[0] for row in common["rows"]]
