"""Imports run one way, and a script starts without anything slow."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("system", "scans", "training", "prediction", "evaluation", "synthetic")
SCRIPTS = (
    "prep",
    "pre_train_model",
    "train_model",
    "transfer_learning",
    "evaluate",
    "predict",
    "cross_validate",
    "demo",
    "participant",
    "review",
)
# Who may import whom, beside oneself.
ALLOWED = {
    "system": set(),
    "scans": {"system"},
    "config": {"system"},
    "augmentation": {"system", "scans"},
    "losses": {"system"},
    "unet": {"system", "training"},
    "data": {"system", "scans", "augmentation", "losses", "training"},
    "stage": {"system", "data", "losses", "training", "unet"},
    "training": {"system"},
    "prediction": {"system", "scans", "training", "config"},
    "evaluation": {"system", "scans", "training", "prediction"},
    "synthetic": {"system", "scans"},
}
ALLOWED |= {script: set(ALLOWED) for script in SCRIPTS}
PYTHON = [
    path.relative_to(ROOT)
    for place in (".", *ROOMS)
    for path in sorted(ROOT.joinpath(place).glob("*.py"))
]


def room_of(path):
    """Name the room of a file; a file at the top is a room of its own."""
    return Path(path).parts[0].removesuffix(".py")


@pytest.fixture(scope="module")
def arrows():
    """Pairs of rooms, of which the first imports the second anywhere, in a function too."""
    command = [sys.executable, "-m", "ruff", "analyze", "graph", "."]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    graph = {file: imported for file, imported in json.loads(printed).items() if imported}
    product = {str(path) for path in PYTHON}
    return {
        (room_of(file), room_of(other))
        for file, imported in graph.items()
        if file in product
        for other in imported
    }


def test_the_rooms_and_the_files_at_the_top_are_these():
    assert {room_of(path) for path in PYTHON} == ALLOWED.keys()
    assert len(list(ROOT.glob("*.py"))) <= 16


def test_arrows_run_one_way(arrows):
    assert {("training", "system"), ("evaluation", "prediction"), ("prep", "scans")} <= arrows
    assert {(a, b) for a, b in arrows if a != b and b not in ALLOWED[a]} == set()


def imported_inside_functions(path):
    tree = ast.parse(ROOT.joinpath(path).read_text("utf-8"))
    return [
        (function.name, ast.unparse(node))
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_starts_without_anything_slow(script):
    slow = {"tensorflow", "keras", "pandas", "sklearn", "scipy", "matplotlib", "cv2", "nibabel"}
    code = f"import sys, {script}; print(*sys.modules)"
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True
    )
    assert slow.isdisjoint(printed.stdout.decode().split())


@pytest.mark.parametrize("name", ["losses", "unet"])
def test_the_network_and_its_loss_are_written_in_keras_alone(name):
    tree = ast.parse(ROOT.joinpath(f"{name}.py").read_text("utf-8"))
    imported = {
        (node.names[0].name if isinstance(node, ast.Import) else node.module).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    assert {"keras"} <= imported <= {"keras", "math", "system", "training"}


@pytest.mark.parametrize("path", PYTHON, ids=str)
def test_one_file_reads_yaml_and_nothing_is_drawn_with_pyplot(path):
    text = ROOT.joinpath(path).read_text("utf-8")
    assert "import pyplot" not in text and "matplotlib.pyplot" not in text
    assert "import yaml" not in text or path == Path("system", "yaml_files.py")


@pytest.mark.parametrize("contender", ["monai_unet", "nnunet"])
def test_what_computes_with_pytorch_starts_no_tensorflow(contender):
    # Beside some builds of PyTorch it dies of a segmentation fault.
    code = f"import sys, benchmarks.contenders.{contender}; print(*sys.modules)"
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True
    )
    assert {"tensorflow", "keras"}.isdisjoint(printed.stdout.decode().split())


def test_prediction_and_evaluation_start_no_framework():
    code = (
        "import sys, prediction.masks, evaluation.summary, evaluation.scoring; print(*sys.modules)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True
    )
    assert {"tensorflow", "keras", "jax", "torch"}.isdisjoint(printed.stdout.decode().split())


def test_prediction_and_review_need_no_more_than_predict_txt():
    away = ("keras", "tensorflow", "jax", "torch", "cv2")
    code = (
        f"from on_backend import take_away; take_away({away}); import predict, participant, review, "
        "prediction.masks, prediction.challenge, prediction.group_pictures, prediction.mending, "
        "prediction.review_server, evaluation.viewer"
    )
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


# A framework starts only where it is needed, and a script imports what is slow after its arguments.
LATE_IMPORTS = {
    "system/console.py",
    "scans/alignment.py",
    *(f"{name}.py" for name in SCRIPTS),
}


@pytest.mark.parametrize("path", PYTHON, ids=str)
def test_imports_stand_at_the_top_of_a_file(path):
    assert not imported_inside_functions(path) or str(path) in LATE_IMPORTS
