"""The report of an evaluation: one page that opens offline and begins with the answer."""

import math
from pathlib import Path

import jinja2
import pandas
from markupsafe import Markup

from evaluation.answer import describe_scored, make_answer
from evaluation.formatting import interval, mean_and_sd, number, p_value, signed
from evaluation.made_from import read_stages, tables_of_settings
from evaluation.metric_table import METRICS
from evaluation.plots import agreement_plot, curves_plot, paired_plot, volume_plot
from evaluation.sentences import notes
from evaluation.statistics import DECIMALS
from evaluation.viewer import COLOURS, slice_viewer
from system.files import save_text
from training.pictures import TITLES

TEMPLATES = Path(__file__).with_name("templates")
DEFINITIONS = {
    "Dice": "2 TP / (P + R): voxels in both masks, twice, over the voxels of both. Both empty: 1.",
    "precision": "TP / P: share of the prediction that is lesion.",
    "recall": "TP / R: share of the lesion that is found.",
    "lesion F1": "As Dice, but counted in lesions (voxels that touch by a face); one that is touched by "
    "a single voxel is found, and so is one that a mask of half the brain covers (ATLAS challenge).",
    "lesion-wise Dice": "Mean Dice of each lesion with what touches it; a missed and a wrong lesion "
    "count as 0 (BraTS 2023).",
    "HD95, mm": "95th percentile of the distances from one surface to the other, the larger of both "
    "directions. Does not exist if one mask is empty.",
    "surface distance, mm": "Mean distance of both surfaces to each other.",
    "volume difference, ml": "Prediction minus mask.",
    "voxel difference": "The same in voxels, without its sign (ATLAS challenge).",
    "lesion count difference (ATLAS)": "How many lesions one mask has more than the other, of voxels "
    "that touch by a face.",
    "wrong lesions, ml": "Volume of the predicted lesions that touch none of the mask.",
    "absolute volume difference, ml": "Prediction minus mask without its sign (ISLES'26).",
    "lesion count difference": "How many lesions one mask has more than the other, of voxels that "
    "touch by a face, an edge or a corner (ISLES'26).",
    "recognition quality": "As Dice, but counted in such lesions: one of the prediction and one of the "
    "mask are the same if they share a quarter of their union, one to one (ISLES'26).",
    "PR-AUC": "Area under precision against recall over all thresholds (ISLES'26). Nothing marked: a "
    "little more than 0.5, and 1 where there is no lesion; a lesion marked where there is none: 0.",
}


def save_report(path, subset, scores, runs, comparisons, sentences=()):
    """Write the report of an evaluation.

    `subset` is None for masks that another program made; `runs` are those of summary.json,
    `comparisons` from `evaluation.comparison.compare_runs`; `sentences` go before its notes.
    """
    names = list(runs)
    table = pandas.DataFrame(scores.rows)
    subjects = table.groupby(["run", "subject"], as_index=False).mean(numeric_only=True)
    folders = [Path(folder) for run in runs.values() for folder in run["folders"]]
    # Another program, too, may leave a run.json beside its masks.
    stages = read_stages(folders) if subset else {}
    titles = _stage_titles(stages)
    scored_on = {name: describe_scored(subset, run) for name, run in runs.items()}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("report.html").render(
        answer=make_answer(subset, runs, comparisons, stages, scored_on[names[0]]),
        runs=names,
        several_seeds=any(run["seeds"] > 1 for run in runs.values()),
        metrics=_metrics(runs),
        comparisons=[_comparison(found, subjects) for found in comparisons],
        volume_plot=Markup(volume_plot(subjects, names)),
        strata=_strata(runs),
        notes=[*sentences, *notes(runs)],
        agreement=[
            Markup(agreement_plot(subjects[subjects.run == name], name, i))
            for i, name in enumerate(names)
        ],
        colours=COLOURS,
        viewed_run=names[-1],
        lesions=bool((table.lesion_volume_ml > 0).any()),
        viewers=_viewers(table, names, scores.views),
        curves=[
            Markup(curves_plot(facts["history"], titles[folder]))
            for folder, facts in stages.items()
            if facts["history"]
        ],
        settings=tables_of_settings(runs, stages, titles, scored_on),
        all_scans=_all_scans(table),
        definitions=DEFINITIONS,
    )
    save_text(path, page)


def _stage_titles(stages):
    """Name each stage; with its seed and fold where there are several."""
    telling = [
        key for key in ("seed", "fold") if len({facts[key] for facts in stages.values()}) > 1
    ]
    return {
        folder: ", ".join([TITLES[facts["stage"]], *(f"{key} {facts[key]}" for key in telling)])
        for folder, facts in stages.items()
    }


def _metrics(runs):
    table = []
    for key, metric in METRICS.items():
        cells = []
        for run in runs.values():
            found = run["metrics"][key]
            below = [interval(found, metric.digits)]
            if count := found["missing"]:
                below.append(f"{count} scan{'s' * (count > 1)} without")
            if not math.isnan(found["sd_between_seeds"]):
                below.append(f"seeds ± {number(found['sd_between_seeds'], metric.digits)}")
            cells.append({"mean": mean_and_sd(found, metric.digits), "below": below})
        table.append({"label": metric.title, "cells": cells})
    return table


def _comparison(comparison, subjects):
    run, baseline = comparison["run"], comparison["baseline"]
    rows = []
    for key, found in comparison["metrics"].items():
        digits, exists = METRICS[key].digits, bool(found["n"])
        row = {
            "label": METRICS[key].title,
            "difference": signed(found["mean_difference"], digits) if exists else "–",
            "interval": interval(found, digits, signed),
            "p": p_value(found["p"]).removeprefix("p ").removeprefix("= ") if exists else "–",
            "effect": signed(found["effect_size"], 2) if exists else "–",
            "counts": f"{found['wins']} / {found['ties']} / {found['losses']}",
            "verdict": found["verdict"],
        }
        rows.append(row)
    dice = comparison["metrics"]["dice"]
    wide = subjects.pivot(index="subject", columns="run", values="dice")
    return {
        "run": run,
        "baseline": baseline,
        "rows": rows,
        "plot": Markup(paired_plot(wide, run, baseline)),
        "counts": f"{dice['wins']} better, {dice['ties']} equal, {dice['losses']} worse.",
    }


def _strata(runs):
    first = next(iter(runs.values()))
    return [
        {
            "title": by,
            "rows": [
                [name, stratum["subjects"]]
                + [number(run["strata"][by][name]["dice"]["mean"], 3) for run in runs.values()]
                for name, stratum in strata.items()
            ],
        }
        for by, strata in first["strata"].items()
        if len(strata) > 1
    ]


def _viewers(table, names, views):
    """Build viewers of the best, median and worst subject with a lesion of the last run.

    Where none has one, of all.
    """
    rows = table[table.run == names[-1]]
    patients = rows[rows.lesion_volume_ml > 0]
    rows = rows if patients.empty else patients
    seeds = (
        f" (seed {rows.seed.min()} is shown)" if "seed" in rows and rows.seed.nunique() > 1 else ""
    )
    means = rows.groupby(["subject", "session"], dropna=False)[["dice", "lesion_volume_ml"]].mean()
    rows = means.reset_index()
    # A subject is as good as the mean of its sessions; the one nearest to that is shown.
    rows["of_subject"] = rows.groupby("subject").dice.transform("mean").round(DECIMALS)
    rows["off"] = (rows.dice - rows.of_subject).abs().round(DECIMALS)
    rows = rows.sort_values(["of_subject", "subject", "off"], ascending=[False, False, True])
    rows = rows.drop_duplicates("subject")
    last = len(rows) - 1
    ranks = {(last + 1) // 2: "median", last: "worst", 0: "best"}
    viewers = []
    for position, rank in sorted(ranks.items()):
        row = rows.iloc[position]
        html, aspect = slice_viewer(*views[row.subject, row.session]())
        same = (table.subject == row.subject) & (table.session == row.session)
        dice = {name: table[same & (table.run == name)].dice.mean() for name in names}
        shown = ", ".join(f"{value:.2f} ({name})" for name, value in dice.items())
        viewer = {
            "rank": rank,
            "subject": row.subject,
            "html": html,
            "aspect": round(aspect, 4),
            "facts": f"lesion of {row.lesion_volume_ml:.1f} ml; Dice {shown}{seeds}",
        }
        viewers.append(viewer)
    return viewers


def _all_scans(table):
    """Return metrics.csv as it is shown."""
    digits = {name: metric.digits for name, metric in METRICS.items()}
    volumes = ("lesion_volume_ml", "lesion_outside_ml", "lesion_below_ml")
    digits |= dict.fromkeys((*volumes, "longest_voxel_side_mm"), 2)
    shown = table.fillna({name: "" for name in table if name not in digits})
    for name, places in digits.items():
        shown[name] = [number(value, places) for value in table[name]]
    return {
        "columns": [name.replace("_", " ") for name in shown.columns],
        "rows": shown.to_numpy().tolist(),
    }
