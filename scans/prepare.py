"""One scan prepared: cut into slices on disk, with the facts that the manifest is made of."""

import hashlib
from pathlib import Path

import cv2
import numpy as np

from scans.alignment import aligner
from scans.alignment_picture import save_alignment
from scans.geometry import depth_seen, look_at, places_seen
from scans.near_duplicates import make_thumbnail
from scans.nifti import check_is_file
from scans.template import brain_and_margin
from scans.volumes import load_lesion, load_volume, volume_to_slices
from system.files import InputError, OutputError, cannot_write, load_json, save_json, whole_file

# Larger than what a stroke leaves of one hemisphere.
LARGE_ML = 600
# Raised whenever the slices or facts of the same scan would be others: old ones are made again.
VERSION = 2


def prepare_scan(scan, folder, labels, slices, geometry):
    """Cut one scan into slices on disk, unless that is done already; return its facts.

    `slices` and `geometry` are the settings of these sections. The facts (thumbnail, voxel size,
    lesion volume in ml, alignment, warnings, one entry a slice) are saved last, as json: where that
    file stands, the slices are whole.
    """
    folder, format = Path(folder), slices.format
    facts_file = folder / scan.dataset / f"{scan.name}.json"
    for path in (scan.image, *scan.masks):
        check_is_file(path)
    if "\\" in scan.name:  # the manifest refuses what elsewhere would lead to other folders
        raise InputError(f"{scan.image}: has a backslash in its name; rename it")
    # A changed setting, source file or version makes the slices stale.
    made_from = {
        "version": VERSION,
        "image": str(scan.image.absolute()),
        "masks": [str(mask.absolute()) for mask in scan.masks],
        "changed_ns": [path.stat().st_mtime_ns for path in (scan.image, *scan.masks)],
        "labels": labels,
        "size": slices.size,
        "skip": slices.skip,
        "format": format,
        **geometry.model_dump(),
    }
    if geometry.align == "template":
        made_from["aligner"] = aligner()
    if facts_file.exists():
        facts = load_json(
            facts_file, "choose another paths.prepared, or delete it if it is not yours"
        )
        if not (isinstance(facts, dict) and "made_from" in facts):
            raise InputError(
                f"{facts_file}: prep.py did not write it, and would; choose another paths.prepared"
            )
        if _are_current(facts, folder, made_from):
            return facts
        _declare_stale(facts_file, folder)

    volume = load_volume(scan.image)
    lesion = load_lesion(scan.masks, labels, volume)
    warnings = [*volume.warnings, *_check_lesion(lesion, scan, volume)]
    seen = look_at(volume, geometry)
    scaled, mean, std = seen.volume.scaled
    depth, slice_mm = depth_seen(volume, seen.alignment)
    left_out = round(slices.skip / slice_mm)
    if depth <= 2 * left_out:
        raise InputError(
            f"{depth} axial slices, and slices.skip leaves out {2 * left_out}; set it lower"
        )
    kept = slice(left_out, depth - left_out)
    images, masks = (
        volume_to_slices(v[:, :, kept], slices.size) for v in (scaled, _mask_seen(lesion, seen))
    )
    image_files = _save_slices(
        images, folder, f"{scan.dataset}/images/{scan.name}", left_out, format
    )
    mask_pixels = masks * 255 if format == "png" else masks
    mask_files = _save_slices(
        mask_pixels, folder, f"{scan.dataset}/masks/{scan.name}", left_out, format
    )

    of_the_scan = {
        "dataset": scan.dataset,
        "subject": scan.subject,
        "session": scan.session,
        "site": scan.site,
    }
    intensities = {
        "mean": round(mean, 4),
        "std": round(std, 4),
        "content": hashlib.sha256(images).hexdigest()[:16],
        "mask_content": hashlib.sha256(masks).hexdigest()[:16],
    }
    picture = alignment_picture(folder, scan)
    picture.unlink(missing_ok=True)
    if seen.alignment and seen.alignment.doubts:
        with whole_file(picture) as temporary:
            # With the skull, which says more than the brain that the template cuts out anyhow.
            save_alignment(seen.bring(volume.voxels), temporary)
    rows = []
    for i, mask in enumerate(masks):
        place = {
            "z": left_out + i,
            "lesion_pixels": int(np.count_nonzero(mask)),
            "image": image_files[i],
            "mask": mask_files[i],
            "position": i if format == "npy" else 0,
            "skip_mm": slices.skip,
            **geometry.model_dump(),
        }
        rows.append(of_the_scan | place | intensities)
    voxel_ml = float(np.prod(volume.spacing_mm)) / 1000
    places = places_seen(lesion, volume, seen.alignment)
    below = np.count_nonzero(places[:, 2] <= left_out - 0.5)
    above = np.count_nonzero(places[:, 2] > depth - left_out - 0.5)
    hidden = np.count_nonzero(~_in_brain(places)) if seen.brain_alone else 0
    if places.size and not masks.any():
        warnings.append("nothing of the lesion is on the slices, taken as free of lesions")
    facts = {
        "made_from": made_from,
        "warnings": warnings,
        "left_out": left_out,
        "alignment": seen.alignment.as_facts() if seen.alignment else None,
        "thumbnail": make_thumbnail(scaled),
        "voxel_mm": [round(float(mm), 4) for mm in volume.spacing_mm],
        "lesion_ml": np.count_nonzero(lesion) * voxel_ml,
        "lesion_outside_ml": (below + above) * voxel_ml,
        "lesion_below_ml": below * voxel_ml,
        "lesion_hidden_ml": hidden * voxel_ml,
        "slices": rows,
        "bytes": {name: (folder / name).stat().st_size for name in [*image_files, *mask_files]},
    }
    save_json(facts_file, facts)
    return facts


def alignment_picture(folder, scan):
    """Name the picture of a scan whose alignment is doubtful."""
    return Path(folder, scan.dataset, "doubtful", f"{scan.name}.png")


def _mask_seen(lesion, seen):
    """Bring a mask to the network's grid: lesion is what covers half of a voxel that is seen."""
    brought = (seen.bring(lesion) >= 0.5).view(np.uint8) if seen.alignment else lesion
    return np.where(brain_and_margin(), brought, np.uint8(0)) if seen.brain_alone else brought


def _in_brain(places):
    """Say which places on the template's grid, float (n, 3), are seen of the brain alone."""
    brain, nearest = brain_and_margin(), np.rint(places).astype(int)
    on_grid = ((nearest >= 0) & (nearest < brain.shape)).all(1)
    inside = brain[tuple(np.clip(nearest, 0, np.array(brain.shape) - 1).T)]
    return on_grid & inside


def _check_lesion(lesion, scan, volume):
    """Refuse a mask that cannot be that of a lesion, as its inverse; return warnings."""
    names = " and ".join(map(str, scan.masks))
    scaled, mean, _ = volume.scaled
    marked = scaled.T[lesion.T.view(bool)]  # in the order of memory, the quickest to walk
    dark = int(mean / 2)
    if np.count_nonzero(marked > dark) > np.count_nonzero(scaled > dark) / 2:
        raise InputError(f"{names}: covers more than half of the head; invert or redraw the mask")
    if np.count_nonzero(marked == 0) > marked.size / 2:
        raise InputError(f"{names}: lies mostly where the image is 0; redraw the mask")
    lesion_ml = marked.size * np.prod(volume.spacing_mm) / 1000
    return [f"a lesion of more than {LARGE_ML} ml"] if lesion_ml > LARGE_ML else []


def _are_current(facts, folder, made_from):
    """Say whether facts were made from the same files and settings, and their slices are whole."""
    if facts["made_from"] != made_from:
        return False
    files = {folder / name: size for name, size in facts.get("bytes", {}).items()}
    return bool(files) and all(f.is_file() and f.stat().st_size == files[f] for f in files)


def _declare_stale(facts_file, folder):
    """Delete what says that the slices are whole: a kill must not leave old and new ones mixed."""
    try:
        (folder / "slices.csv").unlink(missing_ok=True)
        facts_file.unlink()
    except OSError as error:
        raise OutputError(cannot_write(facts_file, error)) from error


def _save_slices(stack, folder, stem, left_out, format):
    """Save slices, (Z, H, W), as one stack or as a picture each; return the file of each slice."""
    if format == "npy":
        with whole_file(folder / f"{stem}.npy") as temporary:
            np.save(temporary, stack, allow_pickle=False)
        return [f"{stem}.npy"] * len(stack)
    names = [f"{stem}/z{left_out + i:03d}.png" for i in range(len(stack))]
    for name, picture in zip(names, stack, strict=True):
        with whole_file(folder / name) as temporary:
            if not cv2.imwrite(str(temporary), picture):
                raise OSError("the picture could not be written")
    return names
