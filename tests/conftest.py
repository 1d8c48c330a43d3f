"""Tiny ATLAS and BraTS17 trees, drawn once a session, and the settings that fit them."""

import contextlib
import csv
import os
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import nibabel
import numpy as np
import pytest
from hypothesis import settings as hypothesis_settings
from scipy.ndimage import gaussian_filter

from system.files import InputError, OutputError, ProgramError

# The same examples every time; a shared machine may be slow.
hypothesis_settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=40)
hypothesis_settings.load_profile("repeatable")

ATLAS_SHAPE, BRATS_SHAPE = (28, 32, 16), (30, 30, 16)
RAS = nibabel.affines.from_matvec(np.eye(3), (-14, -16, -8))
LPS = nibabel.affines.from_matvec(np.diag([-1, -1, 1]), (0, 29, 0))
# 10 degrees about the axis from foot to head.
OBLIQUE = nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(np.radians(10)), (-14, -16, -8))
SKIP = 2

ATLAS = (  # site, subject, session, what is special
    ("R001", "sub-r001s001", "1", ""),
    ("R001", "sub-r001s001", "2", ""),
    ("R001", "sub-r001s002", "1", "no lesion"),
    ("R001", "sub-r001s003", "1", "oblique"),
    ("R002", "sub-r002s001", "1", "mask 0/255"),
    ("R002", "sub-r002s002", "1", ""),
    ("R002", "sub-r002s003", "1", ""),
    ("R003", "sub-r003s001", "1", ""),
    ("R003", "sub-r003s002", "1", ""),
)
BRATS = (  # grade, name, ending
    ("HGG", "Brats17_CBICA_AAB_1", ".nii.gz"),
    ("HGG", "Brats17_CBICA_AAG_1", ".nii.gz"),
    ("HGG", "Brats17_TCIA_101_1", ".nii"),
    ("HGG", "Brats17_2013_1_1", ".nii.gz"),
    ("LGG", "Brats17_CBICA_ABC_1", ".nii"),
    ("LGG", "Brats17_TCIA_201_1", ".nii.gz"),
    ("LGG", "Brats17_TCIA_202_1", ".nii.gz"),
    ("LGG", "Brats17_2013_2_1", ".nii.gz"),
)


@contextlib.contextmanager
def refused(*parts):
    """Expect an error for the user, of one line that holds each of `parts`."""
    with pytest.raises((InputError, OutputError, ProgramError)) as caught:
        yield caught
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in map(str, parts) if part not in message] == [], message


def history(run):
    """Read the history of a run folder, one dictionary an epoch."""
    with (run / "history.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def write_nifti(path, voxels, affine):
    """Write voxels as NIfTI, folders made; the ending says whether zipped. Return the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path


def ellipsoid(shape, centre, radii):
    """Distance from `centre` in units of `radii`: 1 on the surface. Shape as asked."""
    grid = np.indices(shape).T  # (Z, Y, X, 3)
    return np.linalg.norm((grid - centre) / radii, axis=-1).T


def draw_head(rng, shape, lesion_contrast, background):
    """Draw a textured head and the lesion in it.

    Returns
    -------
    image : ndarray, float32 (X, Y, Z)
        `background` is the mean of the air, 0 for none.
    depth : ndarray (X, Y, Z)
        0 in the middle of the lesion, 1 on its surface.
    """
    middle = np.array(shape) / 2
    head = ellipsoid(shape, middle - 0.5, middle * 0.85) < 1
    texture = gaussian_filter(rng.standard_normal(shape), 1.2)
    tissue = 600 + 100 * texture / texture.std() + 10 * rng.standard_normal(shape)
    radii = rng.uniform(0.12, 0.25, 3) * shape
    centre = middle + rng.uniform(-0.15, 0.15, 3) * shape
    depth = ellipsoid(shape, centre, radii)
    depth[~head] = np.inf
    tissue[depth < 1] *= lesion_contrast
    air = background * np.abs(rng.standard_normal(shape))
    return np.where(head, np.maximum(tissue, 50), air).astype(np.float32), depth


def write_atlas(folder):
    for number, (site, subject, session, special) in enumerate(ATLAS):
        rng = np.random.default_rng([1, number])
        image, depth = draw_head(rng, ATLAS_SHAPE, lesion_contrast=0.4, background=5)
        lesion = (depth < (0 if special == "no lesion" else 1)).astype(np.uint8)
        if special == "mask 0/255":
            lesion *= 255
        affine = OBLIQUE if special == "oblique" else RAS
        anat = folder / "Training" / site / subject / f"ses-{session}" / "anat"
        name = f"{subject}_ses-{session}_space-MNI152NLin2009aSym"
        write_nifti(anat / f"{name}_T1w.nii.gz", image, affine)
        write_nifti(anat / f"{name}_label-L_desc-T1lesion_mask.nii.gz", lesion, affine)
        (anat / f"._{name}_T1w.nii.gz").write_bytes(b"\0\5\26\7 left behind by macOS")


def write_brats17(folder):
    for number, (grade, name, ending) in enumerate(BRATS):
        rng = np.random.default_rng([2, number])
        image, depth = draw_head(rng, BRATS_SHAPE, lesion_contrast=1.8, background=0)
        labels = np.select([depth < 0.5, depth < 0.75, depth < 1], [1, 4, 2]).astype(np.uint8)
        write_nifti(folder / grade / name / f"{name}_t1{ending}", image.astype(np.int16), LPS)
        write_nifti(folder / grade / name / f"{name}_seg{ending}", labels, LPS)


def write_predictions(tree, folder):
    """Write a perfect prediction, 0/255, of each mask of `write_atlas`'s tree; return the folder."""
    for file in sorted(tree.rglob("sub-*mask.nii.gz")):
        image = nibabel.load(file)
        lesion = (np.asarray(image.dataobj) > 0).astype(np.uint8) * 255
        name = file.name.split("_space")[0]
        write_nifti(folder / f"{name}_prediction.nii", lesion, image.affine)
    return folder


def quickly(patch):
    """Let scripts do without processes and viewers while a MonkeyPatch holds.

    Each process takes seconds to start, and `runs`, `prepared` and tests of their own have tried them.
    """
    from evaluation import external_predictions, kept_predictions, report, scoring
    from prediction import masks
    from scans import preparation
    from system.parallel import in_parallel

    def in_this_process(function, items, label, processes=1, count=None):
        return in_parallel(function, items, label, 1, count)

    for module in (preparation, kept_predictions, scoring, external_predictions, masks):
        patch.setattr(module, "in_parallel", in_this_process)
    patch.setattr(report, "slice_viewer", lambda *view: ("", 0.5))


def predict_by_rule(patch, rule):
    """Let a rule, from (volume, flip) to a bool array, take the place of networks in predict.py."""
    from config import load_run_settings
    from prediction import masks

    def answer(networks, volume, flip):
        return rule(volume, flip).astype(np.float32)

    patch.setattr(
        masks,
        "load_networks",
        lambda files: [SimpleNamespace(settings=load_run_settings(f), weights=f) for f in files],
    )
    patch.setattr(masks, "read_intensities", lambda weights: None)
    patch.setattr("prediction.inference.predict_seen", answer)


@pytest.fixture(scope="session")
def compiled_once(tmp_path_factory):
    """Let processes of JAX share what was compiled for the first; they compile for half of their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield


@pytest.fixture(scope="session")
def tiny_trees(tmp_path_factory):
    """Folders `.atlas` (8 subjects, 9 scans) and `.brats17` (8 subjects); leave them as they are."""
    folder = tmp_path_factory.mktemp("trees")
    trees = SimpleNamespace(atlas=folder / "ATLAS_2", brats17=folder / "BraTS17")
    write_atlas(trees.atlas)
    write_brats17(trees.brats17)
    return trees


@pytest.fixture(scope="session")
def tiny_overrides(tiny_trees):
    """Arguments of every script for a run of seconds, but for paths.prepared and paths.runs."""
    settings = {
        "paths.atlas": tiny_trees.atlas,
        "paths.brats17": tiny_trees.brats17,
        "geometry.align": "none",
        "geometry.brain": "keep",
        "slices.size": 32,
        "slices.skip": SKIP,
        "split.folds": 3,
        "split.test_fraction": 0.2,
        "unet.filters": 2,
        "unet.levels": 1,  # most of a tiny run is TensorFlow putting the network together
    }
    for stage in ("pre_train", "train", "transfer"):
        settings |= {
            f"{stage}.epochs": 2,
            f"{stage}.batch_size": 4,
            f"{stage}.learning_rate": 0.01,
        }
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


@pytest.fixture(scope="session")
def prepared(tiny_overrides, tmp_path_factory):
    """Folder that prep.py wrote from the tiny trees; leave it as it is."""
    import prep

    folder = tmp_path_factory.mktemp("prepared")
    assert prep.main([*tiny_overrides, "--set", f"paths.prepared={folder}"]) == 0
    return folder


@pytest.fixture(scope="session")
def weights(tiny_overrides, prepared, tmp_path_factory):
    """Weights of a run as far as prediction needs it; drawn, not trained. Leave them as they are."""
    import keras

    from config import load_settings
    from training.weights import save_weights
    from unet import build_unet

    folder = tmp_path_factory.mktemp("runs") / "train"
    settings = load_settings(None, [*tiny_overrides[1::2], f"paths.prepared={prepared}"])
    settings.save(folder / "config.yaml")
    keras.utils.set_random_seed(0)
    save_weights(build_unet(**settings.unet.model_dump()), folder / "best.weights.h5")
    return folder / "best.weights.h5"


@pytest.fixture(scope="session")
def arguments(tiny_overrides, prepared, tmp_path_factory):
    """Arguments of the stages and of evaluate.py that lead to `runs`."""
    runs = tmp_path_factory.mktemp("runs")
    return [
        *tiny_overrides,
        "--set",
        f"paths.prepared={prepared}",
        "--set",
        f"paths.runs={runs}",
    ]


@pytest.fixture(scope="session")
def runs(arguments):
    """`.folder` of two runs, after `evaluate.py` on the validation, then the test subset.

    `.points` are the operating points as they were between the two. Leave all as it is.
    """
    import evaluate
    import train_model
    import transfer_learning

    folder = Path(arguments[-1].split("=")[1])
    short = [*arguments, "--set", "train.epochs=1", "--set", "transfer.epochs=1"]
    train_model.main(short)
    weights = folder / "train" / "best.weights.h5"
    transfer_learning.main([*short, "--set", f"transfer.initial_weights={weights}"])
    evaluate.main(arguments)
    points = {
        run: (folder / run / "operating_point.json").read_bytes() for run in ("train", "transfer")
    }
    with pytest.MonkeyPatch.context() as patch:
        quickly(patch)
        evaluate.main([*arguments, "--subset", "test"])
    return SimpleNamespace(folder=folder, points=points)
