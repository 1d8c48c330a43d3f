"""Pictures and tables of runs: learning curves, predictions, best figures.

Drawn without pyplot, so without a display.
"""

import warnings
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from system.files import load_json, whole_file

TITLES = {
    "pre_train": "Pre-training on brain tumours",
    "train": "Training on stroke lesions",
    "transfer": "Transfer: from tumours to stroke lesions",
}
# Told apart by colour-blind eyes (Okabe and Ito, 2008), and by lightness in print.
TRAINING, VALIDATION, BEST = "#0072B2", "#D55E00", "#555555"
MASK, PREDICTION = "#56B4E9", "#E69F00"


def save_learning_curves(history, stage, path):
    """Draw Dice, loss, precision and recall against the epoch, the best epoch marked.

    Parameters
    ----------
    history : list of dict
        One entry an epoch: ``epoch``, the four figures, and the same with ``val_`` before them.
    stage : str
        Names the figure.
    path : path-like
        A PNG, replaced whole.
    """
    best = max(history, key=lambda entry: entry["val_dice"])
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True).flat
    for panel, name in zip(panels, ("dice", "loss", "precision", "recall"), strict=True):
        draw_curve(panel, history, name)
    for panel in figure.axes[2:]:
        panel.set_xlabel("epoch")
    handles = [
        Line2D([], [], color=TRAINING, lw=1.8, label="training"),
        Line2D([], [], color=VALIDATION, lw=1.8, label="validation"),
        Line2D([], [], color=BEST, lw=1, ls=":", marker="o", mfc="white", mec=VALIDATION, mew=2,
               ms=8, label=f"best epoch: {best['epoch']}"),
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper right", ncols=3, frameon=False)
    figure.suptitle(TITLES[stage], x=0.01, ha="left", fontsize=13, fontweight="bold")
    _save(figure, path, 110)


def draw_curve(panel, history, name):
    """Draw one figure of training and validation against the epoch, the best epoch marked."""
    epochs = [entry["epoch"] for entry in history]
    best = max(history, key=lambda entry: entry["val_dice"])
    marker = "o" if len(epochs) < 30 else None
    for key, colour, label in (
        (name, TRAINING, "training"),
        (f"val_{name}", VALIDATION, "validation"),
    ):
        values = [entry[key] for entry in history]
        panel.plot(epochs, values, colour, marker=marker, markersize=3, lw=1.8, label=label)
    panel.axvline(best["epoch"], color=BEST, lw=1, ls=":")
    panel.plot(
        best["epoch"], best[f"val_{name}"], "o", ms=8, mfc="white", mec=VALIDATION, mew=2,
        clip_on=False, zorder=3,
    )  # fmt: skip
    late = best["epoch"] > np.mean(epochs)
    panel.annotate(
        f"{best[f'val_{name}']:.3f}", (best["epoch"], best[f"val_{name}"]),
        textcoords="offset points", xytext=(-8 if late else 8, 10),
        ha="right" if late else "left", color=VALIDATION, fontsize=9,
        path_effects=[withStroke(linewidth=3, foreground="white")], zorder=4,
    )  # fmt: skip
    panel.set_title(name.capitalize(), loc="left", fontsize=11)
    # With cross-entropy a loss may be above 1.
    highest = max(entry[key] for entry in history for key in (name, f"val_{name}"))
    panel.set_ylim(0, 1.02 * max(1, highest))
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    panel.xaxis.get_major_locator().set_params(integer=True)


def save_predictions(examples, stage, path):
    """Show slices in rows: image, mask, prediction, and both outlined on the image.

    Parameters
    ----------
    examples : list of (str, ndarray, ndarray, ndarray, float)
        Label, image (H, W), mask and prediction (H, W, bool), Dice of the slice.
    stage : str
        Names the figure.
    path : path-like
        A PNG, replaced whole.
    """
    figure = Figure(
        figsize=(9.2, 2.35 * len(examples) + 0.8), facecolor="black", layout="constrained"
    )
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, hspace=0, wspace=0)
    grid = figure.subplots(len(examples), 4, squeeze=False)
    columns = ("image", "mask", "prediction", "overlay")
    for row, (label, image, mask, prediction, dice) in zip(grid, examples, strict=True):
        box = _head(image)
        image, mask, prediction = image[box], mask[box], prediction[box]
        low, high = np.percentile(image, (1, 99.5))
        shown = {"cmap": "gray", "vmin": low, "vmax": high, "interpolation": "bilinear"}
        for panel, column in zip(row, columns, strict=True):
            panel.set_axis_off()
            if column in ("image", "overlay"):
                panel.imshow(image, **shown)
            else:
                area, colour = (mask, MASK) if column == "mask" else (prediction, PREDICTION)
                panel.imshow(image, **shown, alpha=0.25)
                panel.contourf(area, levels=[0.5, 1.5], colors=[colour])
        for area, colour in ((mask, MASK), (prediction, PREDICTION)):
            if area.any():
                row[3].contour(area, levels=[0.5], colors=[colour], linewidths=1.2)
        text = {"color": "white", "fontsize": 8.5, "va": "bottom", "parse_math": False}
        row[0].text(0.02, 1.0, label, transform=row[0].transAxes, **text)
        row[3].text(0.98, 1.0, f"Dice {dice:.2f}", transform=row[3].transAxes, ha="right", **text)
    for panel, column in zip(grid[0], columns, strict=True):
        panel.set_title(column, color="white", fontsize=11, pad=16)
    figure.suptitle(TITLES[stage], color="white", fontsize=13, fontweight="bold")
    handles = [
        Line2D([], [], color=MASK, lw=2, label="mask (drawn by hand)"),
        Line2D([], [], color=PREDICTION, lw=2, label="prediction"),
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=2, frameon=False, labelcolor="white"
    )
    _save(figure, path, 110)


def save_overlay(image, mask, spacing_mm, label, path):
    """Show up to 8 axial slices of a scan, the lesion outlined; without lesion, slices all over.

    Parameters
    ----------
    image : ndarray, uint8, shape (X, Y, Z)
        In RAS, from `scans.intensity.scale_intensity`.
    mask : ndarray, uint8, shape (X, Y, Z)
    spacing_mm : ndarray, shape (3,)
    label : str
        Stands above the slices.
    path : path-like
        A PNG, replaced whole.
    """
    depth = image.shape[2]
    heights = np.flatnonzero(mask.any((0, 1)))
    if not heights.size:
        heights = np.arange(depth // 6, max(depth - depth // 6, depth // 6 + 1))
    chosen = heights[np.unique(np.linspace(0, len(heights) - 1, 8).round().astype(int))]
    # (Z, Y, X) with the front at the top and the left on the left, as in all pictures here.
    image, mask = (v[:, ::-1].transpose(2, 1, 0) for v in (image, mask))
    box = _head(image.max(0))
    image, mask = image[:, *box], mask[:, *box]
    height_mm, width_mm = image.shape[1] * spacing_mm[1], image.shape[2] * spacing_mm[0]
    columns = min(len(chosen), 4)
    rows = -(-len(chosen) // columns)
    size = (2.6 * columns, 2.6 * rows * height_mm / width_mm + 0.7)
    figure = Figure(figsize=np.clip(size, 2.6, 24), facecolor="black", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, hspace=0, wspace=0)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels:
        panel.set_axis_off()
    for panel, z in zip(panels, chosen, strict=False):
        aspect = spacing_mm[1] / spacing_mm[0]
        panel.imshow(image[z], cmap="gray", vmin=0, vmax=255, aspect=aspect)
        if mask[z].any():
            panel.contour(mask[z], levels=[0.5], colors=[PREDICTION], linewidths=1.2)
        text = {"color": "white", "fontsize": 8, "transform": panel.transAxes}
        panel.text(0.02, 0.98, f"z {z}", va="top", **text)
        panel.text(0.02, 0.02, "L", **text)
    # Between two dollar signs matplotlib would read a formula.
    figure.suptitle(label.replace("$", r"\$"), color="white", fontsize=9, wrap=True)
    with warnings.catch_warnings():
        # A file's name may be in a script that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        _save(figure, path, 90)


def print_results(runs):
    """Print one line for each finished stage: epochs, and the validation figures of the best."""
    print(
        f"\n{'stage':12}{'epochs':>7}{'best epoch':>12}{'Dice':>8}{'precision':>11}{'recall':>8}"
        f"{'seconds':>9}   (best validation Dice, all pixels pooled)"
    )
    for stage in TITLES:
        path = Path(runs, stage, "run.json")
        if path.exists() and (facts := load_json(path, "run the stage again"))["finished"]:
            best = facts["best"]
            print(
                f"{stage:12}{facts['epochs']:7}{best['epoch']:12}{best['val_dice']:8.3f}"
                f"{best['val_precision']:11.3f}{best['val_recall']:8.3f}{facts['seconds']:9.0f}"
            )


def _head(image):
    """Return the part of the picture that is not background, with a small frame around it."""
    inside = image > image.min() + 0.1 * (image.max() - image.min())
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not rows.size:
        return slice(None), slice(None)
    return slice(max(rows[0] - 6, 0), rows[-1] + 7), slice(max(columns[0] - 6, 0), columns[-1] + 7)


def _save(figure, path, dpi):
    FigureCanvasAgg(figure)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=dpi)
