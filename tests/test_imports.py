"""Imports run one way, and what needs no TensorFlow does not wait seconds for it."""

import ast
from pathlib import Path

import pytest

MODULES = {
    path.stem: ast.parse(path.read_text("utf-8"))
    for path in sorted(Path(__file__).parents[1].glob("*.py"))
}
SCRIPTS = {
    name
    for name, tree in MODULES.items()
    if any(isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in tree.body)
}
# All others start within a second.
USE_KERAS = {"data", "fast_layers", "inference", "losses", "predict", "training", "unet", "weights"}
USE_KERAS |= {"optimizer", "pre_train_model", "train_model", "transfer_learning"}
USE_KERAS |= {"evaluate", "hardware"}


def imports(tree, everywhere):
    """Dotted names that a module imports at its start, or everywhere: also inside functions."""
    names, nodes = set(), list(tree.body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif everywhere or not isinstance(node, ast.FunctionDef):
            nodes += ast.iter_child_nodes(node)
    return names


def packages(name, everywhere=False):
    return {dotted.split(".")[0] for dotted in imports(MODULES[name], everywhere)}


def reached(name):
    """Packages that the start of a module imports, itself or through other modules of ours."""
    found, to_do = set(), {name}
    while to_do:
        new = packages(to_do.pop()) - found
        found |= new
        to_do |= new & MODULES.keys()
    return found


def test_the_scripts_are_found():
    stages = {"prep", "pre_train_model", "train_model", "transfer_learning", "predict", "evaluate"}
    assert stages <= SCRIPTS
    assert SCRIPTS.isdisjoint({"cli", "config", "files", "volumes", "slices", "splits", "unet"})


@pytest.mark.parametrize(
    "name",
    sorted(MODULES.keys() - USE_KERAS),
)
def test_what_needs_no_tensorflow_does_not_import_it(name):
    assert reached(name).isdisjoint({"tensorflow", "keras"})
    inside_functions = packages(name, everywhere=True) & {"tensorflow", "keras"}
    assert inside_functions <= ({"tensorflow"} if name == "cli" else set())


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_a_script_starts_without_anything_slow(name):
    slow = {"tensorflow", "keras", "pandas", "sklearn", "scipy", "matplotlib", "cv2", "nibabel"}
    assert reached(name).isdisjoint(slow)


@pytest.mark.parametrize("name", ["losses", "unet"])
def test_the_network_and_its_loss_need_keras_only(name):
    used = packages(name, everywhere=True)
    assert "keras" in used
    assert used <= {"keras", "math", "channels", "files", "fast_layers", "hardware"}
    assert "tensorflow" not in reached(name)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_nobody_imports_a_script(name):
    assert packages(name, everywhere=True).isdisjoint(SCRIPTS)


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {"config"}))
def test_config_alone_reads_the_settings(name):
    assert "yaml" not in packages(name, everywhere=True)
    ways = {"config", "config.*", "config.load_settings", "config.BASE_FILE"}
    used = ways & imports(MODULES[name], everywhere=True)
    assert used == ({"config.load_settings"} if name == "cli" else set())


@pytest.mark.parametrize("name", sorted(MODULES))
def test_nothing_is_drawn_with_pyplot(name):
    assert not any("pyplot" in dotted for dotted in imports(MODULES[name], everywhere=True))


@pytest.mark.parametrize("contender", ["monai_unet", "nnunet"])
def test_what_computes_with_pytorch_starts_no_tensorflow(contender):
    # Beside some builds of PyTorch it dies of a segmentation fault.
    path = Path(__file__).parents[1] / "benchmarks" / "contenders" / f"{contender}.py"
    names = imports(ast.parse(path.read_text("utf-8")), everywhere=True)
    own = {name.split(".")[0] for name in names} & MODULES.keys()
    assert own
    assert {name for name in own if "tensorflow" in reached(name)} == set()
