"""Train MONAI's BasicUNet by its usual recipe within the budget, and score it on the held-back.

Its network, loss, transforms, loader and optimizer; our split, slices (every lesion slice and as many
empty ones as slices.empty_per_lesion says, drawn anew each round) and choice of the best weights: the
highest Dice of all voxels of every second validation slice. Two contenders come of it: `monai` marks
what is more probable than 0.5; `monai-tuned` has its threshold, smallest lesion and slices chosen on
validation as ours are. Neither averages with the mirrored head.

--recipe nnunet-recipe trains by nnU-Net's recipe in 2D instead, of MONAI's parts: for where nnU-Net's
own package cannot be. It averages with mirrored copies, as nnU-Net does.

    python -m benchmarks.contenders.monai_unet --set paths.prepared=prepared
"""

import os
import shutil
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.contenders import contest
from benchmarks.contenders.monai_recipes import RECIPES
from config import Settings, parse_arguments
from system.console import run_script
from system.files import InputError

# They cost as much as dozens of steps.
VALIDATIONS, VALIDATED = 4, slice(None, None, 2)
MEASURED_STEPS = 3


def add_arguments(parser):
    contest.add_arguments(parser)
    parser.add_argument("--recipe", choices=RECIPES, default="monai", help="default: monai")
    parser.add_argument("--batch", type=int, help="slices; default: as the recipe has it")


def main(argv=None):
    settings, arguments = parse_arguments(__doc__, argv, add_arguments)
    if find_spec("monai") is None:
        raise InputError("monai is not installed; pip install -r requirements/contenders.txt")
    contest.set_up_process()
    os.environ["KERAS_BACKEND"] = "torch"  # no TensorFlow beside PyTorch: their threads fight
    recipe = RECIPES[arguments.recipe]
    folder, trained = contest.contender_folder(settings, arguments, recipe.name)
    tuned = arguments.results / f"{recipe.name}-tuned" / folder.name
    if tuned.exists() and not trained:
        raise InputError(f"{tuned}: is there already; move it away, or set another seed")
    cases = {}
    if not arguments.train_only:
        # Scans that are gone or changed are said now, not after the training.
        cases = {subset: contest.cases_of(settings, subset) for subset in ("validation", "test")}
    weights, slices = folder / "best.pt", load_slices(settings, recipe)
    make = partial(Fitting, recipe, arguments.batch or recipe.batch, *slices)
    if not trained:
        train(make, settings.seed, contest.Budget.given(arguments), weights)
    if cases:
        fitting = make()
        fitting.load(weights)
        score(Predictor(fitting, settings, weights), cases, folder, tuned, settings)


def train(make, seed, budget, weights):
    """Train within the budget, from the seed again after what was measured; keep the best weights."""
    from monai.utils import set_determinism

    set_determinism(seed)
    fitting = make()
    step_s = budget.cost(lambda: fitting.train(MEASURED_STEPS)) / MEASURED_STEPS
    measured = min(MEASURED_STEPS * fitting.batch, len(fitting.validation))
    validation_s = budget.cost(lambda: fitting.dice(measured))
    validation_s *= len(fitting.validation) / measured
    steps = budget.steps(VALIDATIONS, step_s, validation_s)
    print(f"{VALIDATIONS} times {steps} steps of {step_s:.2f} s, validation {validation_s:.1f} s")

    set_determinism(seed)
    fitting = make()
    plan = {"step_s": step_s, "validation_s": validation_s, "steps": steps, "epochs": VALIDATIONS}
    weights.parent.mkdir(parents=True)
    budget.spend(lambda: fitting.fit(steps, weights), weights.parent, **plan)


def score(predictor, cases, folder, tuned, settings):
    """Score a network at 0.5, and at an operating point chosen on validation."""
    from prediction.operating_point import PLAIN, describe_point

    predict = partial(predict_case, predictor)
    chosen = choose_on(cases["validation"], predict, settings.evaluation.choose_for)
    print(f"{tuned.parent.name}: {describe_point(chosen)}")
    points = {tuned: chosen, folder: PLAIN}  # last the one that says that all is done
    write_masks(cases["test"], predict, points)
    shutil.copy(folder / contest.PLAN, tuned)
    for place in points:
        contest.score(place, cases["test"], settings)


def load_slices(settings, recipe):
    """Return what reads a row as MONAI's dictionary, the order of training, and rows of validation."""
    from data import training_order
    from scans.manifest import load_manifest
    from scans.reader import SliceReader
    from scans.splits import load_split, rows_of

    rows = load_manifest(settings.paths.prepared, "atlas")
    by = settings.split.by_of("atlas")
    subsets = rows_of(rows, load_split(settings.paths.prepared, "atlas", settings.fold, by))
    reader = SliceReader(settings.paths.prepared, rows)

    def read(row):
        image, mask = reader.read(row)
        image = nonzero_normalised(image, *reader.scale(row))
        both = {"image": image, "mask": mask.astype(np.float32)}
        return {
            name: array[None][window(array.shape, recipe.patch)] for name, array in both.items()
        }

    training = subsets["training"]
    lesion = rows.lesion_pixels.to_numpy()[training] > 0
    empty_per_lesion = recipe.empty_per_lesion or settings.slices.empty_per_lesion
    order = training_order(
        training[lesion], training[~lesion], empty_per_lesion, None, settings.seed
    )
    return read, order, subsets["validation"][VALIDATED]


def nonzero_normalised(image, mean, factor):
    """Do what NormalizeIntensity(nonzero=True) does with the whole scan."""
    return ((image - np.float32(mean)) * np.float32(factor) * (image > 0)).astype(np.float32)


def window(shape, patch):
    """Return the middle of a slice as an index of its last two axes, at most as large as `patch`."""
    sides = [min(pair) for pair in zip(shape, patch or shape, strict=True)]
    starts = [(whole - side) // 2 for whole, side in zip(shape, sides, strict=True)]
    return (..., *(slice(a, a + side) for a, side in zip(starts, sides, strict=True)))


class Fitting:
    """A fresh network and what it is trained with.

    Parameters
    ----------
    recipe : BasicUNetRecipe or NnUNetRecipe
    batch : int
        Slices.
    read : callable
        Row number to MONAI's dictionary of a slice.
    order : callable
        Round (from 0) to row numbers of training slices.
    validation : ndarray
        Row numbers.
    """

    def __init__(self, recipe, batch, read, order, validation):
        import torch
        from monai.data import DataLoader, IterableDataset
        from monai.transforms import Compose

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.recipe, self.batch, self.read, self.validation = recipe, batch, read, validation
        self.network, self.loss = recipe.network().to(self.device), recipe.loss()
        self.optimizer = recipe.optimizer(self.network.parameters())
        dataset = IterableDataset(endless(order), Compose([read, *recipe.transforms()]))
        self.batches = iter(DataLoader(dataset, batch_size=batch, num_workers=0))

    def train(self, steps, schedule=None):
        """Take some steps; return the mean loss."""
        self.network.train()
        losses = []
        for _ in range(steps):
            batch = next(self.batches)
            self.optimizer.zero_grad()
            loss = self.loss(
                self.network(batch["image"].to(self.device)), batch["mask"].to(self.device)
            )
            loss.backward()
            self.optimizer.step()
            if schedule:
                schedule.step()
            losses.append(loss.item())
        return np.mean(losses)

    def dice(self, count=None):
        """Return the Dice of all voxels of some validation slices."""
        both = either = 0
        for start in range(0, count or len(self.validation), self.batch):
            batch = [self.read(row) for row in self.validation[start : start + self.batch]]
            found = self.probability(np.stack([slice_["image"] for slice_ in batch])) > 0.5
            masks = np.stack([slice_["mask"] for slice_ in batch]) > 0
            both += np.count_nonzero(found & masks)
            either += np.count_nonzero(found) + np.count_nonzero(masks)
        return 2 * both / max(either, 1)

    def fit(self, steps, best):
        """Train on the recipe's schedule, and keep the weights of the best validation in a file."""
        import torch

        schedule = self.recipe.schedule(self.optimizer, VALIDATIONS * steps)
        highest = -1.0
        for i in range(VALIDATIONS):
            loss, dice = self.train(steps, schedule), self.dice()
            print(f"{i + 1}/{VALIDATIONS}: loss {loss:.3f}, validation Dice {dice:.3f}", flush=True)
            if dice > highest:
                highest = dice
                torch.save(self.network.state_dict(), best)

    def load(self, weights):
        import torch

        self.network.load_state_dict(torch.load(weights, self.device, weights_only=True))

    def probability(self, images):
        """Return the probability of lesion, (B, 1, H, W), of normalised images."""
        import torch

        self.network.eval()
        with torch.no_grad():
            images = torch.from_numpy(images).to(self.device)
            return torch.sigmoid(self.network(images)).cpu().numpy()

    def average(self, images):
        """Return the probability, averaged with the mirrored copies of the recipe; 0 beyond its patch."""
        middle = window(images.shape[2:], self.recipe.patch)
        found = [
            np.flip(self.probability(np.flip(images[middle], axes).copy()), axes)
            for axes in self.recipe.mirrored_axes
        ]
        whole = np.zeros(images.shape, np.float32)
        whole[middle] = np.mean(found, axis=0)
        return whole


def endless(order):
    """Go through one round after the other."""
    number = 0
    while True:
        yield from order(number).tolist()
        number += 1


@dataclass(frozen=True)
class Predictor:
    """What predicts a scan as a `prediction.network.Network` does: it sees the same of the scan."""

    fitting: Fitting
    settings: Settings
    weights: Path

    def predict(self, images, mean, std):
        """Predict the probability of 8-bit slices, (Z, H, W)."""
        images = nonzero_normalised(images, mean, 1 / std)[:, None]
        batches = np.split(images, range(self.fitting.batch, len(images), self.fitting.batch))
        return np.concatenate([self.fitting.average(batch)[:, 0] for batch in batches])


def predict_case(predictor, case, volume):
    """Give each voxel of a scan its probability of lesion."""
    from prediction.inference import predict_probability

    return predict_probability([predictor], volume, alignment=case.alignment)


def choose_on(cases, predict, aim):
    """Choose the operating point on validation scans, as evaluate.py does for ours."""
    from evaluation.choosing import probability_levels
    from evaluation.scoring import choose_point, try_on_prediction
    from prediction.operating_point import PLAIN
    from scans.volumes import load_lesion, load_volume

    tried = []
    for case in cases:
        volume = load_volume(case.image)
        reference = load_lesion(case.masks, case.labels, volume)
        levels = probability_levels(predict(case, volume))
        tried.append(try_on_prediction(volume, reference, levels, case, aim))
    return PLAIN | choose_point(tried, aim)


def write_masks(cases, predict, points):
    """Write the masks of some scans, at an operating point for each folder."""
    import nibabel

    from prediction.operating_point import mask_of
    from scans.volumes import load_volume, to_original_grid

    for folder in points:
        (folder / "predictions").mkdir(parents=True, exist_ok=True)
    for case in cases:
        volume = load_volume(case.image)
        probability = predict(case, volume)
        for folder, point in points.items():
            mask = mask_of(probability, point["threshold"], point, volume, case.alignment)
            nibabel.save(
                to_original_grid(mask, volume), folder / "predictions" / case.masks[0].name
            )


if __name__ == "__main__":
    run_script(main)
