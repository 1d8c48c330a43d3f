"""An interactive slice viewer of one scan with mask and prediction, as a page of its own.

The viewer is nilearn's (brainsprite); here are its colours, the box of the head it shows, and its
keys.
"""

import base64
import io
import re
import warnings
from pathlib import Path

import nibabel
import numpy as np
from matplotlib.colors import ListedColormap
from nilearn.plotting import view_img
from PIL import Image

from prediction.lesions import box_of
from scans.head import head_planes
from training.pictures import MASK, PREDICTION

# In the mask alone, in both, in the prediction alone; told apart by colour-blind eyes.
COLOURS = {"missed": MASK, "found": "#009E73", "wrongly marked": PREDICTION}
KEYS = Path(__file__).with_name("templates") / "viewer.html"
MARGIN = 4  # voxels around the head
Image.MAX_IMAGE_PIXELS = None  # the pictures are nilearn's, and as large as the scan


def slice_viewer(volume, reference, prediction, opacity=1.0):
    """Build the viewer of a scan, opened in the middle of the lesion, the masks of some opacity.

    The voxels of `volume` are all 0 where no image is at hand. Returns a page that needs nothing from
    outside, and the height of its picture as a share of its width.
    """
    at_hand = bool(volume.voxels.any())
    labels = np.where(reference > 0, 1 + (prediction > 0), 3 * (prediction > 0)).astype(np.uint8)
    image, shown = np.zeros(reference.shape, np.uint8), labels > 0
    if at_hand:
        image, mean, _ = volume.scaled
        x, y, z = head_planes(image, mean)
        shown = shown | (x[:, None, None] & y[:, None] & z)
    box = _with_margin(box_of(shown), labels.shape)
    corner = [side.start for side in box]
    affine = volume.affine @ nibabel.affines.from_matvec(np.eye(3), corner)
    image, labels = image[box], labels[box]
    with warnings.catch_warnings():
        # Where every voxel of the box is marked there is nothing below the threshold, and where none
        # is, nothing above.
        warnings.filterwarnings(
            "ignore", "Threshold given was|The given float value must not exceed"
        )
        page = view_img(
            nibabel.Nifti1Image(labels, affine),
            bg_img=nibabel.Nifti1Image(image, affine) if at_hand else False,
            cut_coords=nibabel.affines.apply_affine(affine, _middle(labels)),
            cmap=ListedColormap(list(COLOURS.values())),
            vmin=1,
            vmax=3,
            symmetric_cmap=False,
            threshold=0.5,
            opacity=opacity,
            resampling_interpolation="nearest",
            colorbar=False,
            black_bg=True,
        ).html
    page = re.sub(r"<link\s+rel=.icon.[^>]*>", "", page)  # asks the network for a picture
    page = re.sub(r"data:image/png;base64,([^\"']+)", _as_jpeg, page)
    # After brainsprite's own script, and before the one that starts it.
    before, name, after = page.partition("function brainsprite(")
    script, end, after = after.partition("</script>")
    page = before + name + script + end + KEYS.read_text("utf-8") + after
    x_mm, y_mm, z_mm = np.array(labels.shape) * volume.spacing_mm
    # Sagittal, coronal and axial side by side, and a tenth for the coordinates.
    return page, float(1.1 * max(y_mm, z_mm) / (y_mm + 2 * x_mm))


def _as_jpeg(match):
    """Store a grey picture in a sixth of the bytes: noise is what PNG cannot shrink."""
    picture = Image.open(io.BytesIO(base64.b64decode(match[1])))
    if "A" in picture.mode and picture.getextrema()[-1][0] < 255:
        return match[0]
    content = io.BytesIO()
    picture.convert("RGB").getchannel("R").save(content, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def _with_margin(box, shape):
    return tuple(
        slice(max(side.start or 0, MARGIN) - MARGIN, min(side.stop + MARGIN, size))
        for side, size in zip(box, shape, strict=True)
    )


def _middle(labels):
    """Return a voxel in the largest slice of the mask, or else of the prediction."""
    lesion = np.isin(labels, (1, 2))
    lesion = lesion if lesion.any() else labels > 0
    if not lesion.any():
        return np.array(labels.shape) // 2
    z = lesion.sum((0, 1)).argmax()
    inside = np.argwhere(lesion[:, :, z])
    nearest = inside[np.abs(inside - np.median(inside, axis=0)).sum(1).argmin()]
    return np.append(nearest, z)
