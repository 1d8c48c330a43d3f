"""The tables of a derivative data set: a row a lesion, and a row a scan."""

import re
from pathlib import Path

from prediction.bids_outputs import SPACE
from prediction.outputs import are_whole, raw_of, read_facts
from system.files import save_json, save_text

LESION_COLUMNS = {
    "participant_id": "as in the data set",
    "session_id": "as in the data set",
    "scan": "the T1-weighted image, below the data set's folder",
    "lesion": "number in the scan, the largest first",
    "volume_ml": "in the scan's own space",
    "side": "left or right, where nine tenths of the lesion lie there, else both",
    "x_mm": f"centre of the lesion in {SPACE}, positive to the right",
    "y_mm": f"centre of the lesion in {SPACE}, positive to the front",
    "z_mm": f"centre of the lesion in {SPACE}, positive to the top",
}
SCAN_COLUMNS = {
    "participant_id": "as in the data set",
    "session_id": "as in the data set",
    "scan": "the T1-weighted image, below the data set's folder",
    "lesions": "how many",
    "volume_ml": "of all lesions",
    "left_ml": "of what lies left of the middle",
    "right_ml": "of what lies right of the middle",
    "similarity": "of the edges of scan and template after alignment, -1 to 1",
    "certainty": "mean probability of what is marked; of an empty mask 1 - the highest",
    "warnings": "why the mask may be wrong",
}


def save_tables(output):
    """Write lesions.tsv, a row a lesion, and scans.tsv, a row a scan, of all that is in `output`.

    Returns the facts of the scans; see `prediction.outputs.read_facts`.
    """
    everything = [
        read_facts(path) for path in sorted(output.glob("sub-*/**/sub-*_desc-lesion_mask.json"))
    ]
    # Of predict.py, in the same folder, there may be others.
    everything = [facts for facts in everything if are_whole(facts) and raw_of(facts)]
    scans, lesions = [], []
    for facts in everything:
        raw = raw_of(facts)
        labels = {part[:4]: part for part in Path(raw).parts[:-1]}
        name = {
            "participant_id": labels["sub-"],
            "session_id": labels.get("ses-"),
            "scan": raw,
        }
        scans.append(facts["prediction"] | name)
        for number, lesion in enumerate(facts["lesions"], 1):
            lesions.append(name | {"lesion": number} | lesion)
    for stem, columns, rows in (
        ("lesions", LESION_COLUMNS, lesions),
        ("scans", SCAN_COLUMNS, scans),
    ):
        lines = ["\t".join(columns)]
        lines += ["\t".join(_cell(row.get(name)) for name in columns) for row in rows]
        save_text(output / f"{stem}.tsv", "\n".join(lines) + "\n")
        save_json(
            output / f"{stem}.json", {name: {"Description": text} for name, text in columns.items()}
        )
    return everything


def _cell(value):
    """Write a value as BIDS has it in tables: n/a where there is none, no tab in a text."""
    return "n/a" if value in (None, "") else re.sub(r"\s+", " ", str(value))
