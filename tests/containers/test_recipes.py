"""What the container recipes copy and install is enough for the programs in them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "containers" / "Dockerfile").read_text()
APPTAINER = (ROOT / "containers" / "lacuna.def").read_text()
# Of the packages that pip would bring along, those that install.sh leaves out.
LEFT_OUT = ("pandas", "sklearn", "joblib", "lxml", "requests")
ELSEWHERE = ("keras", "tensorflow", "jax", "torch", "jinja2", "cv2")
START = f"""
import runpy, sys
from on_backend import take_away
take_away({LEFT_OUT + ELSEWHERE})
import prediction.masks, prediction.group_pictures
sys.argv = ["program", "--help"]
runpy.run_module(sys.argv.pop(), run_name="__main__")
"""


def copied(text):
    """List what a recipe copies of the repository into /app."""
    lines = re.findall(r"^(?:COPY| +)(?! --from)(.+) /app/[\w.]*/?$", text, re.MULTILINE)
    return {name for line in lines for name in line.split()}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    for name in copied(DOCKERFILE):
        source, target = ROOT / name, folder / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return folder


def test_both_recipes_hold_the_same_program():
    service = {"containers/isles26_service.py"}
    assert copied(DOCKERFILE) - service == copied(APPTAINER)
    assert {"config.yaml", "participant.py", "prediction", "weights"} <= copied(APPTAINER)


def test_apptainer_is_told_the_place_of_each_file():
    # It takes two words a line: of `a b /app/` it would copy a to /b, and nothing to /app.
    files = re.search(r"^%files\n((?: +.*\n)+)", APPTAINER, re.MULTILINE)[1].splitlines()
    for line in files:
        source, target = line.split()
        assert Path(target).name == Path(source).name
        assert (ROOT / source).exists()


@pytest.mark.parametrize("module", ["participant", "containers.isles26_service"])
def test_the_program_starts_from_what_is_copied_and_installed(program, module):
    paths = os.pathsep.join([str(program), str(ROOT / "tests")])
    words = [sys.executable, "-c", START.replace('"--help"', f'"--help", {module!r}')]
    environment = os.environ | {"PYTHONPATH": paths}
    done = subprocess.run(words, cwd=program, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")


def test_the_image_does_not_run_as_root():
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE) == ["1000"]
    last = DOCKERFILE[DOCKERFILE.index("FROM program AS participant") :]
    assert "RUN" not in last and "participant.py" in last
    assert subprocess.run(["sh", "-n", ROOT / "containers" / "install.sh"]).returncode == 0


def test_install_leaves_out_what_nilearn_brings_and_nothing_that_is_named():
    script = (ROOT / "containers" / "install.sh").read_text()
    wanted = (ROOT / "requirements" / "predict.txt").read_text().splitlines()
    pattern = re.search(r"grep -v '(.*?)'", script)[1]
    assert [line[:7] for line in wanted if re.match(pattern, line)] == ["nilearn"]
    named = {re.match(r"[\w-]*", line)[0] for line in wanted}
    assert named.isdisjoint({*LEFT_OUT, "scikit-learn"})
