"""Scans with the lesions that predictions are scored against."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from scans.alignment import Alignment
from scans.manifest import load_manifest, metadata_columns
from scans.names import scan_name
from scans.splits import rows_of
from system.files import InputError, load_json


@dataclass(frozen=True)
class Case:
    """A scan with the lesion, drawn by hand, that a prediction is scored against.

    It is the union of `masks`, whose `labels` count as lesion. `image` is None where it is not at
    hand. The network's axial slices are those of `alignment`, or the scan's own where it is None;
    training left out `skip` of them at either end, with `lesion_outside_ml` of lesion, of which
    `lesion_below_ml` at the bottom (NaN where not known). `metadata` is what else is known of the
    person, by column; see `scans.metadata`.
    """

    subject: str
    session: str
    site: str
    image: Path | None
    masks: tuple[Path, ...]
    labels: list | None
    skip: int = 0
    lesion_outside_ml: float = math.nan
    lesion_below_ml: float = math.nan
    alignment: Alignment | None = None
    metadata: dict = field(default_factory=dict)

    @property
    def name(self):
        return scan_name(self.subject, self.session)


def find_cases(prepared, split, subset):
    """List the scans of one subset of a split, with all their sessions, each a `Case`."""
    rows = load_manifest(prepared, "atlas")
    rows = rows.iloc[rows_of(rows, split)[subset]]
    if rows.empty:
        raise InputError(
            f"{prepared}: no subject is in the {subset} subset; see split in config.yaml"
        )
    cases = []
    for row in rows.drop_duplicates(["subject", "session"]).to_dict("records"):
        name = scan_name(row["subject"], row["session"])
        facts = load_json(Path(prepared, "atlas", f"{name}.json"), "run prep.py again")
        made_from = facts["made_from"]
        files = [Path(made_from["image"]), *map(Path, made_from["masks"])]
        for file, changed_ns in zip(files, made_from["changed_ns"], strict=True):
            if not file.is_file() or file.stat().st_mtime_ns != changed_ns:
                raise InputError(f"{file}: gone or changed since prep.py read it; run it again")
        cases.append(
            Case(
                row["subject"],
                row["session"],
                row["site"],
                files[0],
                tuple(files[1:]),
                made_from["labels"],
                facts["left_out"],
                facts["lesion_outside_ml"],
                facts["lesion_below_ml"],
                Alignment.from_facts(facts["alignment"]) if facts["alignment"] else None,
                {name: row[name] for name in metadata_columns(rows) if row[name]},
            )
        )
    return cases
