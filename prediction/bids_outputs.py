"""What is made of a scan of a BIDS data set, on its own grid and on the template's."""

import json
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from prediction.outputs import Outputs, sidecar
from scans.template import AFFINE

SPACE = "MNI152NLin2009aSym"
TEMPLATE = "https://www.bic.mni.mcgill.ca/~vfonov/icbm/2009/mni_icbm152_nlin_sym_09a_nifti.zip"
MASK = {"Type": "Lesion", "Description": "lesions as a U-Net outlined them"}
PROBABILITY = {"Description": "probability of lesion; all 0 where no lesion was marked in the scan"}
# RAS, as here, to LPS, as ITK has it, and back.
_FLIP = np.diag([-1.0, -1, 1, 1])


@dataclass(frozen=True)
class BidsOutputs(Outputs):
    """A scan of a BIDS data set and its derivatives, on its own grid and on the template's.

    `raw` is the scan below the data set's folder; `template_stem` is empty where the scan itself is
    on the template's grid by name.
    """

    raw: str = ""
    template_stem: str = ""
    transform_stem: str = ""

    @property
    def picture(self):
        return self.folder.parent / "figures" / f"{self.mask_stem}.png"

    @property
    def transform(self):
        return self.folder / f"{self.transform_stem}.txt"

    @property
    def on_template(self):
        """The mask and the probability on the template's grid."""
        return [self.folder / f"{self.template_stem}_{kind}.nii.gz" for kind in ("mask", "probseg")]

    @property
    def results(self):
        own = [*super().results, sidecar(self.probability)]
        if self.template_stem:
            own += [self.transform, *self.on_template, *map(sidecar, self.on_template)]
        return tuple(own)

    def about_mask(self):
        return MASK | self._about(f"bids:raw:{self.raw}")

    def further_results(self, mask, probability, seen):
        where = f"bids:raw:{self.raw}"
        texts = {sidecar(self.probability): _json(PROBABILITY | self._about(where))}
        if not self.template_stem:
            return {}, texts
        sources = [where, f"bids::{Path(self.raw).parent.as_posix()}/{self.transform.name}"]
        brought = (seen.bring(mask) >= 0.5).astype(np.uint8), seen.bring(probability)
        images = {
            path: nibabel.Nifti1Image(voxels, AFFINE)
            for path, voxels in zip(self.on_template, brought, strict=True)
        }
        for image in images.values():
            image.header.set_xyzt_units("mm")
            image.header["sform_code"] = image.header["qform_code"] = 4  # MNI 152
        about = {"Sources": sources, "SpatialReference": TEMPLATE, "Resolution": "1 mm"}
        mask_file, probability_file = self.on_template
        texts[sidecar(mask_file)] = _json(MASK | about)
        texts[sidecar(probability_file)] = _json(PROBABILITY | about)
        to_scan = seen.alignment.to_scan if seen.alignment else np.eye(4)
        texts[self.transform] = as_itk(to_scan)
        return images, texts

    def _about(self, where):
        on_template = SPACE in self.mask_stem
        return {"Sources": [where], "SpatialReference": TEMPLATE if on_template else where}


def as_itk(to_scan):
    """Write a transform as ITK's text, for `antsApplyTransforms -i SCAN -r TEMPLATE`.

    Like all of ITK's it leads from the points of the result, the template's, to those of the scan.
    """
    matrix = _FLIP @ to_scan @ _FLIP
    numbers = " ".join(f"{value:.10g}" for value in (*matrix[:3, :3].ravel(), *matrix[:3, 3]))
    return (
        "#Insight Transform File V1.0\n#Transform 0\n"
        "Transform: MatrixOffsetTransformBase_double_3_3\n"
        f"Parameters: {numbers}\nFixedParameters: 0 0 0\n"
    )


def _json(content):
    return json.dumps(content, indent=2) + "\n"
