"""Tables of what a trip to a GPU brought back.

Reads   RESULTS: tables_jax.json, tables_torch.json, experiment.zip (from trip.py); a prepared folder
Writes  the tables, to standard output

    python -m benchmarks.gpu.table RESULTS --prepared output/prepared
"""

import argparse
import csv
import io
import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pandas

from benchmarks.bench import markdown
from benchmarks.gpu.trip import FORWARD_GFLOP
from config import load_settings
from evaluation.cases import find_cases
from evaluation.formatting import p_value
from evaluation.metrics import subject_metrics
from evaluation.statistics import compare, summary
from prediction.inference import predict_probability
from prediction.network import load_networks
from scans.splits import load_split
from scans.volumes import load_lesion, load_volume

BF16_PEAK_TFLOP = 989  # dense, of an H100 SXM


def speed(results):
    """Return the rows of slices a second, ours on JAX beside PyTorch."""
    cells = {}
    for name in ("jax", "torch"):
        for row in json.loads((results / f"tables_{name}.json").read_text())["rows"]:
            cells.setdefault((row["filters"], row["batch"], row["precision"]), {})[name] = row
    rows = []
    for (filters, batch, precision), found in cells.items():
        rate = {name: row.get("slices_per_s") for name, row in found.items()}
        cell = {"filters": filters, "batch": batch, "precision": precision}
        for name, label in (("jax", "ours on JAX"), ("torch", "PyTorch, compiled")):
            cell[f"{label}, slices/s"] = f"{rate[name]:,.0f}" if rate.get(name) else "–"
        ratio = rate["jax"] / rate["torch"] if rate.get("jax") and rate.get("torch") else None
        cell["ours / PyTorch"] = f"{ratio:.2f}" if ratio else "–"
        tflop = 3 * FORWARD_GFLOP[filters] * (rate.get("jax") or np.nan) / 1000
        share = tflop / BF16_PEAK_TFLOP
        cell["share of bf16 peak, ours"] = f"{share:.1%}" if np.isfinite(share) else "–"
        busy = found.get("jax", {}).get("busy")
        cell["GPU busy, ours"] = f"{busy:.0%}" if busy else "–"
        rows.append(cell)
    return rows


def unpack(results, folder):
    """Unpack the runs, each with the settings of its network; return their folders by name."""
    with zipfile.ZipFile(results / "experiment.zip") as archive:
        archive.extractall(folder)
    runs = {place.name: place for place in sorted(folder.iterdir())}
    for place in runs.values():
        load_settings().save(place / "config.yaml")
    return runs


def watched(runs):
    """Return the rows of what training watched: epochs, best epoch, pooled validation Dice."""
    rows = []
    for name, place in runs.items():
        history = list(csv.DictReader(io.StringIO((place / "history.csv").read_text())))
        best = max(history, key=lambda row: float(row["val_dice"]))
        facts = json.loads((place / "facts.json").read_text())
        row = {"run": name, "epochs": len(history), "best epoch": best["epoch"]}
        for metric in ("dice", "precision", "recall"):
            row[metric] = f"{float(best[f'val_{metric}']):.3f}"
        rows.append(row | {"seconds": f"{facts['seconds']:.0f}"})
    return rows


def per_subject(runs, prepared):
    """Return the rows of Dice and lesion F1 per subject in 3D at threshold 0.5, and the scores."""
    split = load_split(prepared, "atlas", 0)
    lesion_runs = {name: place for name, place in runs.items() if not name.startswith("pre_train")}
    networks = load_networks([place / "best.weights.h5" for place in lesion_runs.values()])
    scores = []
    for subset in ("validation", "test"):
        for case in find_cases(prepared, split, subset):
            volume = load_volume(case.image)
            reference = load_lesion(case.masks, case.labels, volume)
            for name, network in zip(lesion_runs, networks, strict=True):
                mask = predict_probability([network], volume, alignment=case.alignment) > 0.5
                metrics = subject_metrics(reference, mask, volume.spacing_mm)
                scores.append({"run": name, "subset": subset, "subject": case.subject} | metrics)
    table = pandas.DataFrame(scores)
    rows = []
    for (subset, name), own in table.groupby(["subset", "run"], sort=False):
        row = {"subset": subset, "run": name, "subjects": own.subject.nunique()}
        for metric in ("dice", "lesion_f1"):
            found = summary(own.groupby("subject")[metric].mean(), 0)
            row[metric] = f"{found['mean']:.3f} ({found['low']:.3f}–{found['high']:.3f})"
        rows.append(row)
    return rows, table


def differences(table):
    """Return the sentences that compare transfer with train, subject by subject."""
    sentences = []
    for subset, own in table.groupby("subset", sort=False):
        wide = own.pivot_table(index="subject", columns="run", values="dice")
        if {"train-0", "transfer-0"} <= set(wide):
            found = compare(wide["transfer-0"], wide["train-0"], 0, larger_is_better=True)
            sentences.append(
                f"{subset}: transfer against train, {found['mean_difference']:+.3f} Dice "
                f"({found['low']:+.3f} to {found['high']:+.3f}; {p_value(found['p'])}; "
                f"{found['wins']} better, {found['losses']} worse)"
            )
    return sentences


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--prepared", type=Path, required=True)
    arguments = parser.parse_args()
    print(markdown(speed(arguments.results)), "\n")
    with tempfile.TemporaryDirectory() as folder:
        runs = unpack(arguments.results, Path(folder))
        print(markdown(watched(runs)), "\n")
        rows, table = per_subject(runs, arguments.prepared)
    print(markdown(rows), "\n")
    print("\n".join(differences(table)))


if __name__ == "__main__":
    main()
