"""The loader: slices a second of ours, torch's DataLoader, MONAI and the reference's way.

Each gives image and mask of all prepared slices, standardised, float32, 8 a batch, in random order.
Then the share of a real epoch that the training step waits for the next batch.

    ./run bench loader
    .venv/bin/python -m benchmarks.loader --scans /data/ATLAS_2/Training/R001
"""

import time
from itertools import islice

import numpy as np

from benchmarks.bench import (
    SCANS,
    Contestant,
    arguments,
    compare,
    find_or_make_scans,
    prepare,
    quickest,
    report,
    scratch,
    spread,
    times_ours,
)

BATCH = 8
SYNTHETIC_SCANS = 6
WAITING_STEPS = 60
MOVED_BY = ("rotation_degrees", "shift", "zoom", "flip")  # what all sides have of the augmentation


def open_slices(folder):
    """Return the reader of prepared slices, their count, and what config.yaml augments by."""
    from config import load_settings
    from scans.manifest import load_manifest
    from scans.reader import SliceReader

    rows = load_manifest(folder, "atlas")
    augmentation = load_settings().augmentation.model_dump(exclude={"carve_mix"})
    return SliceReader(folder, rows), len(rows), augmentation


def drain(make_batches, slices):
    """Return work that goes through `slices` slices of the batches and counts them."""

    def work():
        count = sum(len(images) for images, _ in islice(make_batches(), -(-slices // BATCH)))
        return {"slices": count}

    return work


def our_batches(folder, augmented):
    from data import Batches

    reader, count, augmentation = open_slices(folder)

    def order(epoch):
        return np.random.default_rng(epoch).permutation(count)

    return Batches(reader, order, BATCH, 0, augmentation if augmented else None)


def epochs_of(batches, as_keras_takes_them):
    """Yield batches epoch by epoch, as Keras gets them on TensorFlow."""
    batches.epochs = 100
    stream = as_keras_takes_them(batches)
    for epoch in range(batches.epochs):
        batches.epoch = epoch
        yield from stream


def ours(folder, augmented, slices):
    from system.devices import feed

    batches = our_batches(folder, augmented)
    return drain(lambda: epochs_of(batches, feed), slices)


def plain_numpy(folder, augmented, slices):
    """Read ahead in threads, as JAX and PyTorch get the batches."""
    batches = our_batches(folder, augmented)
    return drain(lambda: batches.stream(0, 100), slices)


def py_dataset(folder, augmented, slices):
    """Read the same batches as Keras passes a PyDataset on to TensorFlow."""
    from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

    batches = our_batches(folder, augmented)
    return drain(
        lambda: epochs_of(batches, lambda own: PyDatasetAdapter(own).get_tf_dataset()), slices
    )


class TorchSlices:
    """The same reading and augmentation, slice by slice, as a torch Dataset wants it."""

    def __init__(self, folder, augmented):
        self.reader, self.count, self.augmentation = open_slices(folder)
        self.augmented = augmented

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        import torch

        from augmentation import augment

        image, mask = self.reader.read_channels(row)
        if self.augmented:
            image, mask = augment(image, mask, np.random.default_rng(), **self.augmentation)
        image = self.reader.standardise(row, image[..., 0])
        return torch.from_numpy(image[None]), torch.from_numpy(mask.astype(np.float32)[None])


def epochs(loader, as_pair=tuple):
    while True:
        for batch in loader:
            yield as_pair(batch)


def data_loader(dataset, workers, slices, as_pair=tuple):
    import torch

    torch.set_num_threads(1 if workers else torch.get_num_threads())
    # Workers that stay for the next epoch: ours need no start either.
    loader = torch.utils.data.DataLoader(
        dataset, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    batches = epochs(loader, as_pair)
    return drain(lambda: batches, slices)


def torch_loader(folder, augmented, slices, workers):
    return data_loader(TorchSlices(folder, augmented), workers, slices)


def monai_loader(folder, augmented, slices, workers):
    """MONAI keeps all decoded slices in memory and augments by its dictionary transforms."""
    from monai.data import CacheDataset
    from monai.transforms import Compose, RandAffined, RandFlipd

    reader, count, augmentation = open_slices(folder)
    names = ["image", "mask"]

    def load(row):
        image, mask = reader.read(row)
        image = reader.standardise(row, image)
        return {"image": image[None], "mask": mask[None].astype(np.float32)}

    turn = np.radians(augmentation["rotation_degrees"])
    shift, zoom = augmentation["shift"] * 240, augmentation["zoom"]
    steps = [
        RandAffined(
            names,
            prob=1.0,
            rotate_range=turn,
            translate_range=(shift, shift),
            scale_range=(zoom, zoom),
            mode=("bilinear", "nearest"),
            padding_mode="zeros",
        ),
        RandFlipd(names, prob=0.5, spatial_axis=1),
    ]
    dataset = CacheDataset([load(row) for row in range(count)], Compose(steps if augmented else []))
    return data_loader(dataset, workers, slices, lambda b: (b["image"], b["mask"]))


def reference(folder, augmented, slices):
    """A picture a slice, read and resized by scikit-image, moved by scipy: as the reference did."""
    from scipy.ndimage import affine_transform
    from skimage.io import imread
    from skimage.transform import resize

    from augmentation import draw_distortions

    reader, count, augmentation = open_slices(folder)
    ranges = {name: augmentation[name] for name in MOVED_BY}
    rng = np.random.default_rng(0)

    def read(row):
        image, mask = (
            resize(imread(folder / name), (240, 240), order=order, preserve_range=True)
            for name, order in ((reader.image[row], 1), (reader.mask[row], 0))
        )
        if augmented:
            matrix = draw_distortions(rng, 1, image.shape, **ranges)[0]
            matrix = matrix[::-1, [1, 0, 2]]  # (x, y) to (row, column)
            image, mask = (
                affine_transform(a, matrix[:, :2], matrix[:, 2], order=order)
                for a, order in ((image, 1), (mask, 0))
            )
        return reader.standardise(row, image), (mask > 0).astype(np.float32)

    def batches():
        while True:
            rows = rng.integers(count, size=BATCH)
            images, masks = zip(*map(read, rows), strict=True)
            yield np.stack(images)[..., None].astype(np.float32), np.stack(masks)[..., None]

    return drain(batches, slices)


def waiting(folder, augmented):
    """Train the default network for some steps; say which share of the time it had no batch."""
    from benchmarks.step import build_keras, make_keras_step
    from system.devices import feed

    batches = our_batches(folder, augmented)
    model = build_keras(filters=8)
    make_keras_step(model)

    def work():
        waited, started = 0.0, time.perf_counter()
        stream = epochs_of(batches, feed)
        for _ in range(WAITING_STEPS):
            asked = time.perf_counter()
            images, masks = next(stream)
            waited += time.perf_counter() - asked
            model.train_on_batch(images, masks)
        return {"waiting": waited / (time.perf_counter() - started)}

    return work


def main():
    options = arguments(__doc__, 5, scans=SCANS)
    rows, samples = [], {}
    with scratch() as folder:
        scans = find_or_make_scans(options.scans, folder, SYNTHETIC_SCANS)
        stacks, pictures = folder / "stacks", folder / "pictures"
        prepare(scans, stacks)
        prepare(scans, pictures, "png")
        for augmented in (False, True):
            many, few = (4000, 160) if not augmented else (2000, 120)
            peers = {
                "ours, on JAX and PyTorch": [
                    Contestant("ours, on JAX and PyTorch", plain_numpy, (stacks, augmented, many))
                ],
                "Keras' PyDataset": [
                    Contestant("Keras' PyDataset", py_dataset, (stacks, augmented, many))
                ],
                "torch DataLoader": [
                    Contestant(
                        f"torch DataLoader, {n} workers", torch_loader, (stacks, augmented, many, n)
                    )
                    for n in (0, 1, 2)
                ],
                "MONAI CacheDataset": [
                    Contestant(
                        f"MONAI CacheDataset, {n} workers",
                        monai_loader,
                        (stacks, augmented, many // 4, n),
                    )
                    for n in (0, 2)
                ],
                "reference": [Contestant("reference", reference, (pictures, augmented, few))],
            }
            turns = compare(
                [
                    Contestant("ours", ours, (stacks, augmented, many)),
                    *(contestant for group in peers.values() for contestant in group),
                ],
                options.rounds,
            )
            # A second of CPU or wall time a slice, whatever number of slices was asked for.
            for sample in (s for group in turns.values() for s in group):
                sample["cpu_per_slice"] = sample["cpu_s"] / sample["slices"]
                sample["wall_per_slice"] = sample["wall_s"] / sample["slices"]
            best = [quickest(turns, [c.name for c in g], "wall_per_slice") for g in peers.values()]
            for name in ("ours", *best):
                rows.append(
                    {
                        "augmentation": "yes" if augmented else "no",
                        "loader": name,
                        "slices/s": spread(1 / s["wall_per_slice"] for s in turns[name]),
                        "slices per CPU second": spread(
                            1 / s["cpu_per_slice"] for s in turns[name]
                        ),
                        "wall, times ours": times_ours(
                            turns["ours"], turns[name], "wall_per_slice"
                        ),
                        "CPU, times ours": times_ours(turns["ours"], turns[name], "cpu_per_slice"),
                    }
                )
            samples |= {f"augmentation {augmented}, {name}": group for name, group in turns.items()}
        turns = compare(
            [
                Contestant("without augmentation", waiting, (stacks, False)),
                Contestant("with augmentation", waiting, (stacks, True)),
            ],
            3,
        )
    report("loader", rows, samples | turns, scans=options.scans)
    for name, group in turns.items():
        share = spread(s["waiting"] for s in group)
        print(
            f"share of {WAITING_STEPS} steps (n = 8, batch 8) spent waiting for data, {name}: "
            f"{share.median:.2%} ({share.low:.2%} to {share.high:.2%})"
        )


if __name__ == "__main__":
    main()
