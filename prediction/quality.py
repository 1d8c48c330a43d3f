"""Quality checks of a scan, and the lesions that were marked in it."""

from pathlib import Path

import numpy as np
from nibabel.affines import apply_affine

from prediction.inference import format_sizes, is_about_1_mm
from prediction.lesions import box_of, label_lesions
from scans.geometry import places_seen
from scans.head import head_planes
from scans.template import AFFINE, SHAPE, is_on_template
from scans.volumes import NO_ORIENTATION
from system.files import InputError
from training.provenance import run_facts

# Less than that to the right, front and top cuts into nearly every adult's brain.
WHOLE_BRAIN_MM = (120, 150, 100)
FEWEST_LEVELS = 32
COPY_ANEW = "copy it anew from the run, or delete it"
# A scan brought to 1 mm from larger voxels than that is blurred.
COARSE_MM = 2


def unlike_training(seen, intensities):
    """Say how a scan differs from those that the network learned from, as a list of warnings.

    `intensities`, from `read_intensities`, may be None.
    """
    volume, alignment = seen.scan, seen.alignment
    found = list(volume.warnings)
    scaled, mean, std = seen.volume.scaled
    if alignment:
        found += [f"alignment is doubtful: {doubt}" for doubt in alignment.doubts]
    if volume.spacing_mm.max() > COARSE_MM:
        found.append(f"voxels of {format_sizes(volume.spacing_mm)} mm: small lesions may be missed")
    elif not (alignment or is_about_1_mm(volume)):
        found.append(f"voxels of {format_sizes(volume.spacing_mm)} mm, not of 1 mm as in training")
    if not alignment:
        reach_mm = [np.ptp(np.flatnonzero(axis)) + 1 for axis in head_planes(scaled, mean)]
        reach_mm = np.round(reach_mm * volume.spacing_mm)
        if np.any(reach_mm < WHOLE_BRAIN_MM):
            found.append(f"not a whole brain: the head reaches over {format_sizes(reach_mm)} mm")
    # Interpolation makes new levels, so those of the scan itself.
    levels = np.count_nonzero(np.bincount(volume.scaled[0].ravel("K")))
    if levels < FEWEST_LEVELS:
        found.append(f"only {levels} grey levels, more like a mask than a T1 scan")
    if intensities is not None:
        middle = [intensities[name]["mean"] for name in ("mean", "std")]
        spread = [max(intensities[name]["std"], 5) for name in ("mean", "std")]
        if np.any(np.abs(np.subtract((mean, std), middle)) > 3 * np.array(spread)):
            found.append(
                f"unusual intensities: mean {mean:.0f} and SD {std:.0f} of 255, in training "
                f"{middle[0]:.0f} and {middle[1]:.0f}"
            )
    return found


def read_intensities(weights):
    """Read from the run.json beside weights how bright the scans of their training were.

    Of the mean and the SD of the scans, in 8 bit, ``mean`` and ``std``; see
    `data.StageData.intensities`. None where the run wrote nothing down.
    """
    path = Path(weights).with_name("run.json")
    if (stored := run_facts(path.parent, COPY_ANEW).get("intensities")) is None:
        return None
    try:
        return {
            name: {key: float(stored[name][key]) for key in ("mean", "std")}
            for name in ("mean", "std")
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(f"{path}: `intensities` is not as a run wrote it; {COPY_ANEW}") from None


def describe_lesions(mask, seen):
    """Describe each lesion of a mask, the largest first.

    Returns
    -------
    list of dict
        ``volume_ml``; ``side``, left or right where nine tenths of it lie there, else both;
        ``x_mm``, ``y_mm``, ``z_mm``, its centre in MNI space. Of a scan that the template was not
        found in, or whose left and right cannot be told, what is unknown is None.
    """
    box = box_of(mask)
    labels, sizes = label_lesions(mask[box])
    voxel_ml = float(np.prod(seen.scan.spacing_mm)) / 1000
    on_template = lies_on_template(seen)
    told = NO_ORIENTATION not in seen.scan.warnings
    voxels = np.argwhere(labels)
    numbers = labels[tuple(voxels.T)]
    corner = [axis.start or 0 for axis in box]
    places = apply_affine(AFFINE @ seen.to_seen, voxels + corner)
    # All lesions at once: there may be hundreds.
    count = np.maximum(sizes, 1)
    sums = [np.bincount(numbers, column, sizes.size + 1)[1:] for column in places.T]
    centres = (np.stack(sums, axis=-1) / count[:, None]).round(1)
    left, right = (
        np.bincount(numbers, on_side, sizes.size + 1)[1:] / count
        for on_side in (places[:, 0] < 0, places[:, 0] > 0)
    )
    lesions = []
    for lesion in np.argsort(-sizes, kind="stable"):
        side = "left" if left[lesion] >= 0.9 else "right" if right[lesion] >= 0.9 else "both"
        row = {"volume_ml": round(float(sizes[lesion]) * voxel_ml, 4)}
        row |= {"side": side if on_template and told else None}
        for axis, mm in zip("xyz", centres[lesion], strict=True):
            row[f"{axis}_mm"] = float(mm) if on_template and (told or axis != "x") else None
        lesions.append(row)
    return lesions


def lies_on_template(seen):
    """Say whether places that the network sees are places in MNI space."""
    return bool(seen.alignment) or is_on_template(seen.scan.voxels.shape, seen.scan.affine)


def measure_lesions(mask, seen):
    """Count and measure the lesions, also left and right of the middle of the head."""
    _, sizes = label_lesions(mask[box_of(mask)])
    voxel_ml = float(np.prod(seen.scan.spacing_mm)) / 1000
    across = places_seen(mask, seen.scan, seen.alignment)[:, 0]
    if lies_on_template(seen):
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


def certainty(probability, mask):
    """Say how sure the network is of a mask, 0 to 1.

    The mean probability of what is marked; where nothing is, how improbable the likeliest voxel is.
    """
    return float(probability[mask > 0].mean() if mask.any() else 1 - probability.max())


def reaches_edge(mask):
    """Say whether a lesion touches the frame of its scan, so that it may go on outside."""
    return any(np.take(mask, (0, -1), axis).any() for axis in range(3))
