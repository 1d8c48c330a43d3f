"""Quality checks of a scan, and the lesions that were marked in it."""

import numpy as np

from prediction.inference import format_sizes, is_about_1_mm
from prediction.lesions import box_of, label_lesions
from scans.head import head_planes
from scans.manifest import load_manifest
from system.files import InputError

# Less than that to the right, front and top cuts into nearly every adult's brain.
WHOLE_BRAIN_MM = (120, 150, 100)
FEWEST_LEVELS = 32


def unlike_training(volume, scaled, mean, std, training_scales):
    """Say how a scan differs from those that the network learned from, as a list of warnings.

    `training_scales`, from `read_training_scales`, may be None.
    """
    found = list(volume.warnings)
    if not is_about_1_mm(volume):
        found.append(f"voxels of {format_sizes(volume.spacing_mm)} mm, the network knows 1 mm")
    reach_mm = [np.ptp(np.flatnonzero(axis)) + 1 for axis in head_planes(scaled, mean)]
    reach_mm = np.round(reach_mm * volume.spacing_mm)
    if np.any(reach_mm < WHOLE_BRAIN_MM):
        found.append(f"not a whole brain: the head reaches over {format_sizes(reach_mm)} mm")
    levels = np.count_nonzero(np.bincount(scaled.ravel()))
    if levels < FEWEST_LEVELS:
        found.append(f"only {levels} grey levels, more like a mask than a T1 scan")
    if training_scales is not None:
        middle, spread = training_scales.mean(0), np.maximum(training_scales.std(0), 5)
        if np.any(np.abs((mean, std) - middle) > 3 * spread):
            found.append(
                f"unusual intensities: mean {mean:.0f} and SD {std:.0f} of 255, in training "
                f"{middle[0]:.0f} and {middle[1]:.0f}"
            )
    return found


def read_training_scales(network):
    """Read mean and SD, (scans, 2), in 8 bit, of all scans that the run's slices came from.

    None where the prepared slices are no longer at hand.
    """
    dataset = "brats17" if network.weights.parent.name == "pre_train" else "atlas"
    try:
        rows = load_manifest(network.settings.paths.prepared, dataset)
    except InputError:
        return None
    return rows.drop_duplicates("content")[["mean", "std"]].to_numpy()


def measure_lesions(mask, scaled, mean, voxel_ml):
    """Count and measure the lesions, also left and right of the middle of the head."""
    _, sizes = label_lesions(mask[box_of(mask)])
    planes = np.flatnonzero(head_planes(scaled, mean)[0])
    beside = np.arange(mask.shape[0]) - (planes[0] + planes[-1]) / 2
    by_plane = mask.sum((1, 2), dtype=np.int64)  # (X,)
    # A plane in the very middle belongs half to each side.
    left = by_plane[beside < 0].sum() + by_plane[beside == 0].sum() / 2
    voxels = {
        "volume_ml": sizes.sum(),
        "largest_ml": sizes.max(initial=0),
        "left_ml": left,
        "right_ml": sizes.sum() - left,
    }
    return {"lesions": sizes.size} | {n: round(float(v) * voxel_ml, 4) for n, v in voxels.items()}
