"""Gather the metrics of all contenders in one table, with what each does worse or better than ours.

Reads   evaluation/metrics.csv and budget.json in <contender>/seed-<seed>, as the contenders leave them
Keeps   them in benchmarks/results/contenders, so that the table grows from one machine to the next

A subject's metrics are averaged over its sessions and over the seeds; intervals are of the mean over
subjects with a lesion (95 %, bootstrap), differences are paired by subject; false positives are what
is marked in heads without one. Without a folder the table is made of what was kept before.

    python -m benchmarks.contenders.table contenders --ours strong
"""

import json
from pathlib import Path

import pandas

from benchmarks.bench import RESULTS, markdown
from config import parse_arguments
from evaluation.comparison import compare_runs, describe
from evaluation.formatting import p_value, signed
from system.console import run_script
from system.files import InputError, whole_file

KEPT = RESULTS / "contenders"
# What is kept of a contender, and its name there.
FILES = {
    "evaluation/metrics.csv": "metrics.csv",
    "budget.json": "budget.json",
}


def add_arguments(parser):
    parser.add_argument(
        "results", type=Path, nargs="?", metavar="FOLDER", help="of contenders, to be kept"
    )
    parser.add_argument("--ours", default="strong", help="the one to compare with; default: strong")


def main(argv=None):
    settings, arguments = parse_arguments(__doc__, argv, add_arguments)
    if arguments.results:
        keep(arguments.results, KEPT)
    rows = load_rows(KEPT)
    print(markdown(table(rows, arguments.ours, settings.seed)))


def keep(results, kept):
    """Copy the metrics and the budgets of contenders, but not their networks and masks."""
    found = sorted(results.glob("*/seed-*/evaluation/metrics.csv"))
    if not found:
        raise InputError(f"{results}: no <contender>/seed-<seed>/evaluation/metrics.csv is in it")
    seeds = [metrics.parents[1] for metrics in found]
    for file in (seed / name for seed in seeds for name in FILES):
        if not file.exists():
            raise InputError(f"{file}: is missing; move an unfinished contender away")
    for seed in seeds:
        for file, name in FILES.items():
            with whole_file(kept / seed.relative_to(results) / name) as path:
                path.write_bytes((seed / file).read_bytes())


def load_rows(kept):
    """Read the metrics of all, and of budget.json the steps; the run of a row is its contender."""
    tables = []
    for path in sorted(kept.glob("*/seed-*/metrics.csv")):
        plan = json.loads(path.with_name("budget.json").read_text())
        whose = {"run": path.parts[-3], "seed": path.parts[-2]}
        tables.append(pandas.read_csv(path).assign(**whose, steps=plan["epochs"] * plan["steps"]))
    if not tables:
        raise InputError(f"{kept}: no <contender>/seed-<seed>/metrics.csv is in it")
    return pandas.concat(tables, ignore_index=True)


def table(rows, ours, seed):
    """Describe each contender in a row, ours first.

    Parameters
    ----------
    rows : pandas.DataFrame
        From `load_rows`.
    ours : str
        The contender that the others are compared with.
    seed : int
        Of the bootstrap.
    """
    contenders = sorted(rows.run.unique(), key=lambda name: (name != ours, name))
    if contenders[0] != ours:
        raise InputError(f"--ours {ours}: is not among {', '.join(contenders)}")
    subjects = rows.groupby("run").subject.agg(frozenset)
    if odd := [name for name in contenders if subjects[name] != subjects[ours]]:
        raise InputError(f"{', '.join(odd)}: scored on other subjects than {ours}")
    return [row(rows, name, ours, seed) for name in contenders]


def row(rows, name, ours, seed):
    with_lesion = rows[rows.lesion_volume_ml > 0]
    own, healthy = (part[part.run == name] for part in (with_lesion, rows.drop(with_lesion.index)))
    found = describe(own, seed)
    cells = {
        "contender": f"**{name}**" if name == ours else name,
        "seeds": own.seed.nunique(),
        "steps": " ".join(f"{steps:,}" for steps in own.groupby("seed").steps.first()),
        "Dice": with_interval(found["metrics"]["dice"]),
        "lesion F1": with_interval(found["metrics"]["lesion_f1"]),
        "Dice by seed": " ".join(f"{dice:.3f}" for dice in own.groupby("seed").dice.mean()),
        "false positives, ml, median (range)": with_range(
            healthy.groupby("subject").volume_difference_ml.mean()
        ),
    }
    compared = name != ours and compare_runs(with_lesion, name, ours, seed)["metrics"]
    for metric, label in (("dice", "Dice"), ("lesion_f1", "lesion F1")):
        cells[f"{label} − {ours}"] = difference(compared[metric]) if compared else ""
    return cells


def with_range(values):
    if not len(values):
        return "–"
    return f"{values.median():.2f} ({values.min():.2f}–{values.max():.2f})"


def with_interval(found):
    return f"{found['mean']:.3f} ({found['low']:.3f}–{found['high']:.3f})"


def difference(found):
    interval = " to ".join(signed(found[end], 3) for end in ("low", "high"))
    return f"{signed(found['mean_difference'], 3)} ({interval}; {p_value(found['p'])})"


if __name__ == "__main__":
    run_script(main)
