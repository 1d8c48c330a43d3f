"""Pictures of a run: learning curves and predictions.

Drawn without pyplot, so without a display.
"""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from system.files import whole_file

TITLES = {
    "pre_train": "Pre-training on brain tumours",
    "train": "Training on stroke lesions",
    "transfer": "Transfer to stroke lesions",
}
# Told apart by colour-blind eyes (Okabe and Ito, 2008), and by lightness in print.
TRAINING, VALIDATION, BEST = "#0072B2", "#D55E00", "#555555"
MASK, PREDICTION = "#56B4E9", "#E69F00"
BEST_MARKER = {"marker": "o", "mfc": "white", "mec": VALIDATION, "mew": 2, "ms": 8}


def save_learning_curves(history, stage, path):
    """Draw Dice, loss, precision and recall against the epoch, the best epoch marked, as a PNG."""
    best = max(history, key=lambda entry: entry["val_dice"])
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True).flat
    for panel, name in zip(panels, ("dice", "loss", "precision", "recall"), strict=True):
        draw_curve(panel, history, name)
    for panel in figure.axes[2:]:
        panel.set_xlabel("epoch")
    label = f"best epoch: {best['epoch']}"
    handles = [
        Line2D([], [], color=TRAINING, lw=1.8, label="training"),
        Line2D([], [], color=VALIDATION, lw=1.8, label="validation"),
        Line2D([], [], color=BEST, lw=1, ls=":", **BEST_MARKER, label=label),
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=3, frameon=False)
    figure.suptitle(TITLES[stage], x=0.01, ha="left", fontsize=13, fontweight="bold")
    save_figure(figure, path, 110)


def draw_curve(panel, history, name):
    """Draw one metric of training and validation against the epoch, the best epoch marked."""
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
    panel.plot(best["epoch"], best[f"val_{name}"], **BEST_MARKER, clip_on=False, zorder=3)
    late = best["epoch"] > np.mean(epochs)
    panel.annotate(
        f"{best[f'val_{name}']:.3f}",
        (best["epoch"], best[f"val_{name}"]),
        textcoords="offset points",
        xytext=(-8 if late else 8, 10),
        ha="right" if late else "left",
        color=VALIDATION,
        fontsize=9,
        path_effects=[withStroke(linewidth=3, foreground="white")],
        zorder=4,
    )
    panel.set_title(name.capitalize(), loc="left", fontsize=11)
    # With cross-entropy a loss may be above 1.
    highest = max(entry[key] for entry in history for key in (name, f"val_{name}"))
    panel.set_ylim(0, 1.02 * max(1, highest))
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    panel.xaxis.get_major_locator().set_params(integer=True)


def save_predictions(examples, stage, path):
    """Show slices in rows, as a PNG: image, mask, prediction, and both outlined on the image.

    Each of the `examples` has a label, image, mask and prediction, (H, W), and the Dice of the
    slice.
    """
    height = 2.35 * len(examples) + 1
    figure = Figure(figsize=(9.2, height), facecolor="black", layout="constrained")
    # Left to itself the title touches the edge.
    below_title = (0, 0.005, 1, 1 - 0.38 / height)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, hspace=0, wspace=0, rect=below_title)
    grid = figure.subplots(len(examples), 4, squeeze=False)
    columns = ("image", "mask", "prediction", "overlay")
    for row, (label, image, mask, prediction, dice) in zip(grid, examples, strict=True):
        box = head_box(image)
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
        row[0].text(0.02, 0.02, "L", transform=row[0].transAxes, **text)
        row[0].text(0.02, 1.0, label, transform=row[0].transAxes, **text)
        row[3].text(0.98, 1.0, f"Dice {dice:.2f}", transform=row[3].transAxes, ha="right", **text)
    for panel, column in zip(grid[0], columns, strict=True):
        panel.set_title(column, color="white", fontsize=11, pad=16)
    title = {"color": "white", "fontsize": 13, "fontweight": "bold"}
    figure.suptitle(TITLES[stage], y=1 - 0.12 / height, **title)
    handles = [
        Line2D([], [], color=MASK, lw=2, label="reference mask"),
        Line2D([], [], color=PREDICTION, lw=2, label="prediction"),
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=2, frameon=False, labelcolor="white"
    )
    save_figure(figure, path, 110)


def head_box(image):
    """Return the part of the picture that is not background, with a small frame around it."""
    inside = image > image.min() + 0.1 * (image.max() - image.min())
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not rows.size:
        return slice(None), slice(None)
    return slice(max(rows[0] - 6, 0), rows[-1] + 7), slice(max(columns[0] - 6, 0), columns[-1] + 7)


def save_figure(figure, path, dpi):
    FigureCanvasAgg(figure)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=dpi)
