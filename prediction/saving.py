"""What was predicted in a scan, written whole; the process that writes loads no network."""

import contextlib
import time
from dataclasses import dataclass

import numpy as np

from prediction.outputs import Outputs
from prediction.pictures import save_overlay
from scans.alignment_picture import save_alignment
from scans.nifti import save_nifti
from system.files import file_hash, save_json, whole_file
from system.parallel import attempt


@dataclass(frozen=True)
class Prediction:
    """What was predicted in a scan, ready to be written.

    `images` and `texts` are by the file they go to. `scaled`, the scan in 8 bit, and `mask`, uint8,
    are on its own grid, (X, Y, Z). `aligned` is the scan on the template, None unless that is
    doubtful. `row` is that of predictions.csv; `lesions` has a row a lesion, see
    `prediction.quality.describe_lesions`.
    """

    outputs: Outputs
    images: dict
    texts: dict
    scaled: np.ndarray
    spacing_mm: np.ndarray
    mask: np.ndarray
    aligned: np.ndarray | None
    made_from: dict
    row: dict
    warnings: list
    lesions: list


def save_outcome(outcome):
    """Write a prediction, if there is one; the result is the line to print about it."""
    return outcome if outcome.error else attempt(save_prediction, outcome.result)


def save_prediction(prediction):
    """Write all results of one scan; return the line to print about it."""
    started = time.perf_counter()
    outputs, row = prediction.outputs, prediction.row
    outputs.check_free()  # once more: a person may have drawn in them meanwhile
    outputs.clear()
    lesions = "1 lesion" if row["lesions"] == 1 else f"{row['lesions']} lesions"
    line = f"{outputs.scan.name}: {lesions}, {row['volume_ml']:.1f} ml"
    with contextlib.ExitStack() as moves:
        places = [*prediction.images, *prediction.texts, outputs.picture]
        places += [outputs.alignment_picture] * (prediction.aligned is not None)
        temporary = {path: moves.enter_context(whole_file(path)) for path in places}
        for path, image in prediction.images.items():
            save_nifti(image, temporary[path], compresslevel=6)
        for path, text in prediction.texts.items():
            temporary[path].write_text(text, "utf-8")
        save_overlay(
            prediction.scaled,
            prediction.mask,
            prediction.spacing_mm,
            line,
            temporary[outputs.picture],
        )
        if prediction.aligned is not None:
            save_alignment(prediction.aligned, temporary[outputs.alignment_picture])
        files = {path.name: file_hash(temporary[path]) for path in places}
        # Before they are moved: after a kill a second start knows them as its own.
        save_json(outputs.facts, {"files": files})
    row["seconds"] = round(row["seconds"] + time.perf_counter() - started, 2)
    facts = outputs.about_mask() | {
        "made_from": prediction.made_from,
        "prediction": row,
        "warnings": prediction.warnings,
        "lesions": prediction.lesions,
        "files": files,
    }
    save_json(outputs.facts, facts)
    return f"{line}; {row['warnings']}" if row["warnings"] else line
