"""Train MONAI's BasicUNet by its usual recipe within the budget, and score it on the held-back.

Its network, loss, transforms, loader and optimizer; our split, slices (every lesion slice and as many
empty ones as slices.empty_per_lesion says, drawn anew each round) and choice of the best weights: the
highest Dice of all voxels of every second validation slice. Two contenders come of it: `monai` marks
what is more probable than 0.5; `monai-tuned` has its threshold, smallest lesion and slices chosen on
validation as ours are. Neither averages with the mirrored head.

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
from config import Settings, parse_arguments
from system.console import run_script
from system.files import InputError

BATCH = 8
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-5
# They cost as much as dozens of steps.
VALIDATIONS, VALIDATED = 4, slice(None, None, 2)
MEASURED_STEPS = 3


def main(argv=None):
    settings, arguments = parse_arguments(__doc__, argv, contest.add_arguments)
    if find_spec("monai") is None:
        raise InputError("monai is not installed; pip install -r requirements/contenders.txt")
    contest.set_up_process()
    os.environ["KERAS_BACKEND"] = "torch"  # no TensorFlow beside PyTorch: their threads fight
    folder, trained = contest.contender_folder(settings, arguments, "monai")
    tuned = arguments.results / "monai-tuned" / folder.name
    if tuned.exists() and not trained:
        raise InputError(f"{tuned}: is there already; move it away, or set another seed")
    cases = {}
    if not arguments.train_only:
        # Scans that are gone or changed are said now, not after the training.
        cases = {subset: contest.cases_of(settings, subset) for subset in ("validation", "test")}
    weights, slices = folder / "best.pt", load_slices(settings)
    if not trained:
        train(slices, settings.seed, contest.Budget.given(arguments), weights)
    if cases:
        fitting = Fitting(*slices)
        fitting.load(weights)
        score(Predictor(fitting, settings, weights), cases, folder, tuned, settings)


def train(slices, seed, budget, weights):
    """Train within the budget, from the seed again after what was measured; keep the best weights."""
    from monai.utils import set_determinism

    set_determinism(seed)
    fitting = Fitting(*slices)
    step_s = budget.cost(lambda: fitting.train(MEASURED_STEPS)) / MEASURED_STEPS
    measured = min(MEASURED_STEPS * BATCH, len(fitting.validation))
    validation_s = budget.cost(lambda: fitting.dice(measured))
    validation_s *= len(fitting.validation) / measured
    steps = budget.steps(VALIDATIONS, step_s, validation_s)
    print(f"{VALIDATIONS} times {steps} steps of {step_s:.2f} s, validation {validation_s:.1f} s")

    set_determinism(seed)
    fitting = Fitting(*slices)
    plan = {"step_s": step_s, "validation_s": validation_s, "steps": steps, "epochs": VALIDATIONS}
    weights.parent.mkdir(parents=True)
    budget.spend(lambda: fitting.fit(steps, weights), weights.parent, **plan)


def score(predictor, cases, folder, tuned, settings):
    """Score a network at 0.5, and at an operating point chosen on validation."""
    from prediction.operating_point import PLAIN, describe_point

    predict = partial(predict_case, predictor)
    chosen = choose_on(cases["validation"], predict, settings.evaluation.choose_for)
    print(f"monai-tuned: {describe_point(chosen)}")
    points = {tuned: chosen, folder: PLAIN}  # last the one that says that all is done
    write_masks(cases["test"], predict, points)
    shutil.copy(folder / contest.PLAN, tuned)
    for place in points:
        contest.score(place, cases["test"], settings)


def load_slices(settings):
    """Return rows of training and validation, what reads one as MONAI's dictionary, and the order."""
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
        return {"image": image[None], "mask": mask[None].astype(np.float32)}

    training = subsets["training"]
    lesion = rows.lesion_pixels.to_numpy()[training] > 0
    order = training_order(
        training[lesion], training[~lesion], settings.slices.empty_per_lesion, None, settings.seed
    )
    return read, order, subsets["validation"][VALIDATED]


def nonzero_normalised(image, mean, factor):
    """Do what NormalizeIntensity(nonzero=True) does with the whole scan."""
    return ((image - np.float32(mean)) * np.float32(factor) * (image > 0)).astype(np.float32)


class Fitting:
    """A fresh BasicUNet and what it is trained with.

    Parameters
    ----------
    read : callable
        Row number to MONAI's dictionary of a slice.
    order : callable
        Round (from 0) to row numbers of training slices.
    validation : ndarray
        Row numbers.
    """

    def __init__(self, read, order, validation):
        import torch
        from monai.data import DataLoader, IterableDataset
        from monai.losses import DiceCELoss
        from monai.networks.nets import BasicUNet
        from monai.transforms import (
            Compose,
            RandAffined,
            RandFlipd,
            RandGaussianNoised,
            RandScaleIntensityd,
            RandShiftIntensityd,
        )

        both = ("image", "mask")
        transforms = Compose(
            [
                read,
                RandFlipd(both, prob=0.5, spatial_axis=1),  # left-right
                RandAffined(
                    both,
                    prob=0.5,
                    rotate_range=np.radians(15),
                    scale_range=(0.1, 0.1),
                    translate_range=(12, 12),
                    mode=("bilinear", "nearest"),
                    padding_mode="zeros",
                ),
                RandGaussianNoised("image", prob=0.15, std=0.1),
                RandScaleIntensityd("image", factors=0.1, prob=0.5),
                RandShiftIntensityd("image", offsets=0.1, prob=0.5),
            ]
        )
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = BasicUNet(spatial_dims=2, in_channels=1, out_channels=1).to(self.device)
        self.loss = DiceCELoss(sigmoid=True, batch=True)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY
        )
        dataset = IterableDataset(endless(order), transforms)
        self.batches = iter(DataLoader(dataset, batch_size=BATCH, num_workers=0))
        self.read, self.validation = read, validation

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
        for start in range(0, count or len(self.validation), BATCH):
            batch = [self.read(row) for row in self.validation[start : start + BATCH]]
            found = self.probability(np.stack([slice_["image"] for slice_ in batch])) > 0.5
            masks = np.stack([slice_["mask"] for slice_ in batch]) > 0
            both += np.count_nonzero(found & masks)
            either += np.count_nonzero(found) + np.count_nonzero(masks)
        return 2 * both / max(either, 1)

    def fit(self, steps, best):
        """Train on a cosine schedule, and keep the weights of the best validation in a file."""
        import torch

        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, VALIDATIONS * steps)
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
        batches = np.split(images, range(BATCH, len(images), BATCH))
        return np.concatenate([self.fitting.probability(batch)[:, 0] for batch in batches])


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
