"""Pictures of the lesions of a whole data set: where they lie, and how large they are."""

from functools import partial

import nibabel
import numpy as np
from matplotlib.figure import Figure
from nibabel.processing import resample_from_to

from prediction.bids_outputs import SPACE
from prediction.outputs import raw_of, sidecar
from scans.template import AFFINE, SHAPE, is_on_template, load_template
from scans.volumes import read_voxels
from system.files import InputError, Problem, load_json
from system.parallel import attempt
from training.pictures import PREDICTION, head_box, save_figure

HEIGHTS_MM = (-40, -25, -10, 0, 10, 20, 35, 50)


def save_group_pictures(scans, output):
    """Draw the lesions of all scans of a derivative data set, by the facts of `bids_tables.save_tables`.

    Returns masks that cannot be drawn, as problems.
    """
    if not scans:
        return []
    save_volumes([facts["prediction"] for facts in scans], output / "figures" / "volumes.png")
    drawn_too = {raw_of(facts) for facts in scans}
    participants, problems = {}, []
    for file in sorted(output.glob(f"sub-*/**/sub-*space-{SPACE}_*desc-lesion_mask.nii.gz")):
        about = attempt(partial(load_json, how_to_get_it="start again"), sidecar(file)).result
        # Of predict.py, in the same folder, there may be others, and those of a scan that was killed.
        if isinstance(about, dict) and raw_of(about) in drawn_too:
            participants.setdefault(file.name.split("_")[0], []).append(file)
    count, drawn = np.zeros(SHAPE, np.uint16), 0
    for own in participants.values():
        masks = [attempt(load_mask_on_template, file) for file in own]
        problems += [
            Problem.of(mask.error, file)
            for file, mask in zip(own, masks, strict=True)
            if mask.error
        ]
        if marked := [mask.result for mask in masks if not mask.error]:
            count += np.any(marked, axis=0)
            drawn += 1
    if drawn:
        save_map(count, drawn, output / "figures" / "where.png")
    return problems


def load_mask_on_template(file):
    """Read a mask of MNI space, on whatever grid, as bool (X, Y, Z) on the template's."""
    mask = read_voxels(file)
    if is_on_template(mask.voxels.shape, mask.affine):
        return mask.voxels > 0
    image = nibabel.Nifti1Image((mask.voxels > 0).astype(np.uint8), mask.affine)
    found = np.asarray(resample_from_to(image, (SHAPE, AFFINE), order=0).dataobj) > 0
    # In finer voxels a small lesion may lie between those of the template.
    marked = nibabel.affines.apply_affine(
        np.linalg.inv(AFFINE) @ mask.affine, np.argwhere(mask.voxels > 0)
    )
    nearest = np.rint(marked).astype(int)
    inside = np.all((nearest >= 0) & (nearest < SHAPE), axis=1)
    found[tuple(nearest[inside].T)] = True
    if mask.voxels.any() and not found.any():
        raise InputError(f"{file}: lies outside of MNI space, so it is not in where.png; repair it")
    return found


def save_map(count, participants, path):
    """Show in how many participants each voxel of the template is lesion, in axial slices."""
    planes = [round(mm - AFFINE[2, 3]) for mm in HEIGHTS_MM]
    grey, count = (v[:, ::-1, planes].transpose(2, 1, 0) for v in (load_template().voxels, count))
    box = head_box((255 * grey.max(0)).astype(np.uint8))
    figure = Figure(figsize=(11, 6.6), facecolor="black", layout="constrained")
    panels = figure.subplots(2, 4).ravel()
    most = max(int(count.max()), 1)
    for panel, mm, head, lesions in zip(panels, HEIGHTS_MM, grey, count, strict=True):
        panel.set_axis_off()
        panel.imshow(head[box], cmap="gray", vmin=0, vmax=1)
        shown = np.ma.masked_equal(lesions[box], 0)
        drawn = panel.imshow(shown, cmap="inferno", vmin=0, vmax=most, alpha=0.85)
        text = {"color": "white", "fontsize": 9, "transform": panel.transAxes}
        panel.text(0.02, 0.98, f"z {mm} mm", va="top", **text)
        panel.text(0.02, 0.02, "L", **text)
    bar = figure.colorbar(drawn, ax=panels, shrink=0.6, aspect=25, pad=0.01)
    bar.ax.tick_params(colors="white", labelsize=9)
    bar.set_label("participants", color="white")
    bar.locator.set_params(integer=True)
    people = "1 participant" if participants == 1 else f"{participants} participants"
    title = f"Where the lesions of {people} lie, in {len(HEIGHTS_MM)} slices"
    figure.suptitle(title, color="white", fontsize=13)
    save_figure(figure, path, 110)


def save_volumes(rows, path):
    """Show the lesion volume of each scan, the largest first."""
    rows = sorted(rows, key=lambda row: -row["volume_ml"])
    volumes = np.array([row["volume_ml"] for row in rows])
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    panel = figure.subplots()
    places = np.arange(1, len(rows) + 1)
    panel.bar(places, volumes, color=PREDICTION, width=0.8)
    panel.set_yscale("symlog", linthresh=1)
    # To the next power of ten, so that two ticks tell the scale.
    panel.set_ylim(0, 10 ** np.ceil(np.log10(max(volumes.max(), 2))))
    panel.set(xlabel="scans, by volume", ylabel="lesions, ml")
    panel.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    panel.yaxis.set_major_formatter("{x:g}")
    panel.spines[["top", "right"]].set_visible(False)
    without = np.count_nonzero(volumes == 0)
    scans = "1 scan" if len(rows) == 1 else f"{len(rows)} scans"
    title = f"{scans}: median {np.median(volumes):.1f} ml, {without} without lesion"
    panel.set_title(title, loc="left", fontweight="bold")
    save_figure(figure, path, 110)
