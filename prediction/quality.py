"""Quality checks of a scan, and the lesions that were marked in it."""

import numpy as np

from prediction.inference import format_sizes, is_about_1_mm
from prediction.lesions import box_of, label_lesions
from scans.geometry import places_seen
from scans.head import head_planes
from scans.manifest import load_manifest
from scans.template import SHAPE
from system.files import InputError

# Less than that to the right, front and top cuts into nearly every adult's brain.
WHOLE_BRAIN_MM = (120, 150, 100)
FEWEST_LEVELS = 32
# A scan brought to 1 mm from larger voxels than that is blurred.
COARSE_MM = 2


def unlike_training(seen, training_scales):
    """Say how a scan differs from those that the network learned from, as a list of warnings.

    `training_scales`, from `read_training_scales`, may be None.
    """
    volume, alignment = seen.scan, seen.alignment
    found = list(volume.warnings)
    scaled, mean, std = seen.volume.scaled
    if alignment:
        found += [f"alignment is doubtful: {doubt}" for doubt in alignment.doubts]
    if volume.spacing_mm.max() > COARSE_MM or not (alignment or is_about_1_mm(volume)):
        found.append(f"voxels of {format_sizes(volume.spacing_mm)} mm, the network knows 1 mm")
    if not alignment:
        reach_mm = [np.ptp(np.flatnonzero(axis)) + 1 for axis in head_planes(scaled, mean)]
        reach_mm = np.round(reach_mm * volume.spacing_mm)
        if np.any(reach_mm < WHOLE_BRAIN_MM):
            found.append(f"not a whole brain: the head reaches over {format_sizes(reach_mm)} mm")
    # Interpolation makes new levels, so those of the scan itself.
    levels = np.count_nonzero(np.bincount(volume.scaled[0].ravel("K")))
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

    None where the prepared slices are no longer at hand, or show another geometry.
    """
    dataset = "brats17" if network.weights.parent.name == "pre_train" else "atlas"
    try:
        rows = load_manifest(network.settings.paths.prepared, dataset)
    except InputError:
        return None
    first, geometry = rows.iloc[0], network.settings.geometry
    # "align" is also a method of a row.
    if (first["align"], first.brain) != (geometry.align, geometry.brain):
        return None
    return rows.drop_duplicates("content")[["mean", "std"]].to_numpy()


def measure_lesions(mask, seen):
    """Count and measure the lesions, also left and right of the middle of the head."""
    _, sizes = label_lesions(mask[box_of(mask)])
    voxel_ml = float(np.prod(seen.scan.spacing_mm)) / 1000
    across = places_seen(mask, seen.scan, seen.alignment)[:, 0]
    if seen.alignment:
        middle = (SHAPE[0] - 1) / 2
    else:
        scaled, mean, _ = seen.volume.scaled
        planes = np.flatnonzero(head_planes(scaled, mean)[0])
        middle = (planes[0] + planes[-1]) / 2
    beside = across - middle
    # A plane in the very middle belongs half to each side.
    left = np.count_nonzero(beside < 0) + np.count_nonzero(beside == 0) / 2
    voxels = {
        "volume_ml": sizes.sum(),
        "largest_ml": sizes.max(initial=0),
        "left_ml": left,
        "right_ml": sizes.sum() - left,
    }
    return {"lesions": sizes.size} | {n: round(float(v) * voxel_ml, 4) for n, v in voxels.items()}
