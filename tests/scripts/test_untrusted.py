"""What others wrote stays data: nothing in a file is run, and no file leads to another place."""

import ast
import pickle
from pathlib import Path

import h5py
import keras
import numpy as np
import pandas
import pytest
from conftest import refused

from config import load_settings
from scans.reader import SliceReader
from system.files import load_json
from training.weights import read_weights, save_weights
from unet import build_unet

ROOT = Path(__file__).parents[2]
ROOMS = [package.parent for package in ROOT.glob("*/__init__.py")]
MODULES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8"))
    for place in (ROOT, *ROOMS, ROOT / "containers")
    for path in sorted(place.glob("*.py"))
}
RUNS_DATA = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "cloudpickle"}
# `torch.load`, `load_model` and the like build whatever the file tells them to.
CALLS = {"eval", "exec", "compile_command", "system", "popen", "load_model", "unsafe_load"}


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def calls(tree):
    """Give each call in a module: the last part of its name, and its keywords as source."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
            yield ast.unparse(node.func), keywords, [ast.unparse(word) for word in node.args]


def test_no_module_that_reads_files_of_others_is_passed_over():
    readers = ["data", "scans/nifti", "scans/reader", "system/yaml_files", "training/weights"]
    readers.append("containers/isles26_service")
    assert {f"{name}.py" for name in readers} <= MODULES.keys()


@pytest.mark.parametrize("name", MODULES)
def test_no_module_runs_what_it_reads(name):
    """No pickle, no eval, no shell, no YAML but the safe kind."""
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.split(".")[0] for alias in node.names}
            assert RUNS_DATA.isdisjoint(names | {getattr(node, "module", None)})
    for called, keywords, arguments in calls(MODULES[name]):
        assert called.split(".")[-1] not in CALLS, called
        assert keywords.get("shell", "False") == "False", called
        if called in ("np.load", "numpy.load"):
            assert keywords["allow_pickle"] == "False"
        if called == "yaml.load":
            assert arguments[1] == "_Loader"
        if called.endswith(("read_pickle", "to_pickle", "full_load")):
            pytest.fail(called)


def test_a_pickle_in_place_of_slices_is_refused_and_not_run(tmp_path):
    mark = tmp_path / "was run"
    for name, array in (("a.npy", np.array([Bomb(mark)], object)), ("b.npy", None)):
        if array is None:
            (tmp_path / name).write_bytes(pickle.dumps(Bomb(mark)))
        else:
            np.save(tmp_path / name, array, allow_pickle=True)
        rows = {name: ["a"] for name in ("dataset", "subject", "session")} | {"z": [0]}
        rows |= {"image": [name], "mask": [name], "position": [0], "mean": [1.0], "std": [1.0]}
        with refused(tmp_path / name, "pickle", "run prep.py again"):
            SliceReader(tmp_path, pandas.DataFrame(rows)).read(0)
    assert not mark.exists()
    # The bomb does go off where it is let.
    np.load(tmp_path / "a.npy", allow_pickle=True)
    assert mark.exists()


@pytest.mark.parametrize("kind", ["python/object/apply:os.mkdir", "python/name:os.mkdir"])
def test_settings_make_no_objects(tmp_path, kind):
    mark = tmp_path / "was run"
    text = f"!!{kind} [{mark}]" if "apply" in kind else f"!!{kind} ''"
    (tmp_path / "overlay.yaml").write_text(f"seed: {text}\n")
    with refused(tmp_path / "overlay.yaml", "line 1", "not valid YAML"):
        load_settings(tmp_path / "overlay.yaml")
    with refused("--set seed=", "not valid YAML"):
        load_settings(overrides=[f"seed={text}"])
    assert not mark.exists()


def test_nesting_without_end_is_refused(tmp_path):
    (tmp_path / "x.json").write_text("[" * 100_000)
    with refused(tmp_path / "x.json", "cannot be read", "run prep.py first"):
        load_json(tmp_path / "x.json", "run prep.py first")
    (tmp_path / "x.yaml").write_text("seed: " + "[" * 5000)
    with refused(tmp_path / "x.yaml", "not valid YAML"):
        load_settings(tmp_path / "x.yaml")


# --- weights ---


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("weights") / "best.weights.h5"
    save_weights(build_unet(**load_settings(overrides=["unet.filters=2"]).unet.model_dump()), path)
    return path


def first_array(file):
    """Return the group of the first layer that has arrays, and the name of an array in it."""
    return next(layer["vars"] for layer in file["layers"].values() if len(layer["vars"])), "0"


def in_another_file(group, name, secret):
    group[name] = h5py.ExternalLink(str(secret), "array")


def in_another_files_bytes(group, name, secret):
    group.create_dataset(name, (4,), "f4", external=[(str(secret), 0, 16)])


def in_a_virtual_array(group, name, secret):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(str(secret), "array", (4,))
    group.create_virtual_dataset(name, layout)


def larger_than_any_memory(group, name, secret):
    group.create_dataset(name, (2**40,), "f4", chunks=(2**20,))


def of_text(group, name, secret):
    group[name] = ["no", "numbers"]


def a_group(group, name, secret):
    group.create_group(name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (in_another_file, "lies in another file"),
        (in_another_files_bytes, "lies in another file"),
        (in_a_virtual_array, "lies in another file"),
        (larger_than_any_memory, "promises 4398046511104 bytes, more than the file has"),
        (of_text, "no numbers"),
        (a_group, "not a whole Keras 3 .weights.h5 file"),
    ],
)
def test_weights_are_read_from_their_own_file_and_no_further(whole, tmp_path, change, says):
    secret, path = tmp_path / "secret.h5", tmp_path / "best.weights.h5"
    with h5py.File(secret, "w") as file:
        file["array"] = np.zeros(4, "f4")
    path.write_bytes(whole.read_bytes())
    with h5py.File(path, "r+") as file:
        group, name = first_array(file)
        del group[name]
        change(group, name, secret)
    with refused(path, says, "copy it anew"):
        read_weights(path)


def test_weights_without_groups_are_refused(tmp_path):
    with h5py.File(tmp_path / "x.weights.h5", "w") as file:
        file["layers"] = [1.0]
    with refused(tmp_path / "x.weights.h5", "not a whole Keras 3 .weights.h5 file"):
        read_weights(tmp_path / "x.weights.h5")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_weights_that_are_cut_short_are_refused(whole, tmp_path, share):
    path = tmp_path / "best.weights.h5"
    path.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    with refused(path, "not a whole Keras 3 .weights.h5 file", "copy it anew"):
        read_weights(path)
