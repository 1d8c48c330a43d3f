"""A picture of a scan with its predicted lesions outlined."""

import warnings

import numpy as np
from matplotlib.figure import Figure
from skimage.measure import regionprops

from prediction.lesions import label_lesions
from training.pictures import PREDICTION, head_box, save_figure


def slices_to_show(mask, most=8):
    """Choose axial slices in which each lesion is seen, large ones where they are largest.

    The others are spread in between; without a lesion all are spread over the head.
    """
    heights, depth = np.flatnonzero(mask.any((0, 1))), mask.shape[2]
    if not heights.size:
        heights = np.arange(depth // 6, max(depth - depth // 6, depth // 6 + 1))
    labels, sizes = label_lesions(mask)
    lesions, largest = regionprops(labels), []
    for i in np.argsort(-sizes, kind="stable"):
        bottom, top = lesions[i].bbox[2::3]
        if len(largest) < most and not any(bottom <= z < top for z in largest):
            largest.append(bottom + lesions[i].image.sum((0, 1)).argmax())
    between = np.linspace(0, len(heights) - 1, min(most - len(largest), len(heights))).round()
    return np.unique([*largest, *heights[between.astype(int)]])


def save_overlay(image, mask, spacing_mm, label, path):
    """Show up to 8 axial slices of a scan (see `slices_to_show`), the lesions outlined, as a PNG.

    `image` and `mask` are uint8 (X, Y, Z) in RAS; `label` stands above the slices.
    """
    chosen = slices_to_show(mask)
    # (Z, Y, X) with the front at the top and the left on the left, as in all pictures here.
    image, mask = (v[:, ::-1].transpose(2, 1, 0) for v in (image, mask))
    box = head_box(image.max(0))
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
        save_figure(figure, path, 90)
