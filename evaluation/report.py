"""The report of an evaluation: one page that opens offline and begins with the answer."""

import json
import math
from datetime import date
from pathlib import Path

import jinja2
import pandas
from markupsafe import Markup

from evaluation.comparison import FIGURES, signed
from evaluation.metrics import STRATA
from evaluation.plots import agreement_plot, curves_plot, paired_plot, volume_plot
from evaluation.summary import notes, number
from evaluation.viewer import COLOURS, slice_viewer
from prediction.operating_point import written
from system.files import load_json, whole_file
from training.pictures import TITLES

TEMPLATES = Path(__file__).with_name("templates")
DEFINITIONS = (
    ("Dice", "2 TP / (P + R): voxels in both masks, twice, over the voxels of both. Both empty: 1."),
    ("precision", "TP / P: share of the prediction that is lesion."),
    ("recall", "TP / R: share of the lesion that is found."),
    ("lesion F1", "As Dice, but counted in lesions (voxels that touch by a face); one that is touched "
     "by a single voxel is found, and so is one that a mask of half the brain covers (ATLAS challenge)."),
    ("lesion-wise Dice", "Mean Dice of each lesion with what touches it; a missed and a wrong lesion "
     "count as 0 (BraTS 2023)."),
    ("HD95, mm", "95th percentile of the distances from one surface to the other, the larger of both "
     "directions. Does not exist if one mask is empty."),
    ("surface distance, mm", "Mean distance of both surfaces to each other."),
    ("volume difference, ml", "Prediction minus mask; compared by its size."),
    ("voxel difference", "The same in voxels, without its sign (ATLAS challenge)."),
    ("lesion count difference", "How many lesions one mask has more than the other."),
    ("wrong lesions, ml", "Volume of the predicted lesions that touch none of the mask."),
)  # fmt: skip
ANSWERS = {
    "helped": ("Yes: {what} helped", "helped"),
    "hurt": ("No: {what} hurt", "hurt"),
    "not shown": ("Not shown that {what} helped or hurt", "open"),
}


def save_report(path, part, rows, runs, comparisons, scenes):
    """Write the report of an evaluation.

    Parameters
    ----------
    path : path-like
    part : {"validation", "test"} or None
        None for masks that another program made.
    rows : list of dict
        Of metrics.csv.
    runs : dict of str to dict
        Of summary.json: `evaluation.comparison.describe` of each run, its ``folders``, several if it was
        cross-validated, and, if it was trained here, its ``operating_points``.
    comparisons : list of dict
        From `evaluation.comparison.compare_runs`.
    scenes : dict of (str, str) to callable
        For subject and session, what returns the scan (`scans.volumes.Volume`), the mask and the
        prediction of the last run, for the viewers.
    """
    names = list(runs)
    table = pandas.DataFrame(rows)
    subjects = table.groupby(["run", "subject"], as_index=False).mean(numeric_only=True)
    stages = _stages([Path(folder) for run in runs.values() for folder in run["folders"]])
    titles = _titles(stages)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("report.html").render(
        answer=_answer(part, runs, comparisons, stages),
        runs=names,
        figures=_figures(runs),
        comparisons=[_comparison(found, subjects) for found in comparisons],
        volume_plot=Markup(volume_plot(subjects, names)),
        strata=_strata(runs),
        notes=notes(runs),
        agreement=[
            Markup(agreement_plot(subjects[subjects.run == name], name, i))
            for i, name in enumerate(names)
        ],
        colours=COLOURS,
        viewed_run=names[-1],
        viewers=_viewers(table, names, scenes),
        curves=[
            Markup(curves_plot(facts["history"], titles[folder]))
            for folder, facts in stages.items()
            if facts["history"]
        ],
        made_from=_made_from(part, runs, stages, titles),
        every=_every(table),
        definitions=DEFINITIONS,
    )
    with whole_file(path) as temporary:
        temporary.write_text(page, "utf-8")


def _stages(folders):
    """Read run.json and history of the runs, and before them of those whose weights they began with."""
    stages = {}
    for folder in folders:
        path = folder / "run.json"
        if not path.exists():
            continue
        facts = load_json(path, "train anew with --restart")
        if facts.get("initial_weights"):
            stages = _stages([Path(facts["initial_weights"]).parent]) | stages
        state = folder / "state.json"
        history = load_json(state, "train anew")["history"] if state.exists() else []
        stages[folder] = facts | {"history": history}
    return stages


def _titles(stages):
    """Name each stage; with its fold where there are several."""
    several = len({facts["fold"] for facts in stages.values()}) > 1
    return {
        folder: TITLES[facts["stage"]] + (f", fold {facts['fold']}" if several else "")
        for folder, facts in stages.items()
    }


def _scored_on(part, run):
    folds = len(run["folders"])
    if folds == 1:
        return f"{part} part"
    if part == "validation":
        return f"cross-validation over {folds} folds"
    return f"{part} part, average of {folds} networks"


def _answer(part, runs, comparisons, stages):
    first = next(iter(runs.values()))
    subjects, scans = first["subjects"], first["scans"]
    of = f"{_scored_on(part, first)}, " if part else ""
    answer = {
        "overline": f"{of}{subjects} subjects, {scans} scans · {date.today():%d %B %Y}",
        "verdict": "", "tone": "open", "warnings": [],
    }  # fmt: skip
    if part == "validation" and len(first["folders"]) > 1:
        answer["warnings"].append(
            "Each subject is predicted by the network that was not trained on it; the operating "
            "point of each fold was chosen on the other folds, but the epoch of its network on these "
            "very subjects. What no choice has seen is the held-back part: evaluate.py --part test."
        )
    elif part == "validation":
        answer["warnings"].append(
            "The operating point (below) was chosen on these very scans: these figures are "
            "kind. The fair ones are those of the held-back part: evaluate.py --part test."
        )
    if comparisons:
        found = comparisons[-1]
        stage_of = {str(folder): facts["stage"] for folder, facts in stages.items()}
        both = [stage_of.get(runs[found[key]]["folders"][0]) for key in ("run", "baseline")]
        what = "transfer learning" if both == ["transfer", "train"] else found["run"]
        dice = found["figures"]["dice"]
        headline, answer["tone"] = ANSWERS[dice["verdict"]]
        answer["verdict"] = dice["verdict"]
        answer["headline"] = headline.format(what=what)
        answer["sentences"] = [found["figures"][key]["sentence"] for key in ("dice", "lesion_f1")]
        if subjects < 6:
            answer["sentences"].append(
                "Fewer than 6 subjects cannot show anything: p stays above 0.05."
            )
    else:
        name, run = next(iter(runs.items()))
        dice = run["figures"]["dice"]
        answer["headline"] = f"{name}: Dice {number(dice['mean'], 3)} ± {number(dice['sd'], 3)}"
        answer["sentences"] = [
            f"Median {number(dice['median'], 3)}, 95 % interval of the mean {_interval(dice, 3)}."
        ]
    answer["title"] = answer["headline"]
    return answer


def _interval(found, digits, write=number):
    if math.isnan(found["low"]):
        return "–"
    return f"{write(found['low'], digits)} to {write(found['high'], digits)}"


def _figures(runs):
    table = []
    for key, figure in FIGURES.items():
        found = [run["figures"][key] for run in runs.values()]
        cells = [
            {
                "mean": f"{number(f['mean'], figure.digits)} ± {number(f['sd'], figure.digits)}",
                "interval": _interval(f, figure.digits),
            }
            for f in found
        ]
        table.append({"label": _label(figure), "cells": cells})
    return table


def _label(figure):
    return figure.label + (f", {figure.unit}" if figure.unit else "")


def _comparison(comparison, subjects):
    run, baseline = comparison["run"], comparison["baseline"]
    rows = []
    for key, found in comparison["figures"].items():
        digits = FIGURES[key].digits
        exists = bool(found["n"])
        rows.append({
            "label": _label(FIGURES[key]),
            "difference": signed(found["mean_difference"], digits) if exists else "–",
            "interval": _interval(found, digits, signed),
            "p": "–" if not exists else "< 0.001" if found["p"] < 0.001 else f"{found['p']:.3f}",
            "effect": signed(found["effect_size"], 2) if exists else "–",
            "counts": f"{found['wins']} / {found['ties']} / {found['losses']}",
            "verdict": found["verdict"],
        })  # fmt: skip
    dice = comparison["figures"]["dice"]
    wide = subjects.pivot(index="subject", columns="run", values="dice")
    return {
        "run": run, "baseline": baseline, "rows": rows,
        "plot": Markup(paired_plot(wide, run, baseline)),
        "counts": f"{dice['wins']} better, {dice['ties']} equal, {dice['losses']} worse.",
    }  # fmt: skip


def _strata(runs):
    tables = []
    first = next(iter(runs.values()))
    for key, title in (("by_lesion_volume", "lesion volume"), ("by_site", "site")):
        names = STRATA if key == "by_lesion_volume" else first[key]
        rows = [
            [name, first[key][name]["subjects"]]
            + [number(run[key][name]["dice"]["mean"], 3) for run in runs.values()]
            for name in names
        ]
        tables.append({"title": title, "rows": rows})
    return tables


def _viewers(table, names, scenes):
    """Build viewers of the best, the median and the worst subject of the last run."""
    rows = table[table.run == names[-1]].sort_values(["dice", "subject"], ascending=False)
    rows = rows.drop_duplicates("subject")
    last = len(rows) - 1
    ranks = {0: "best", last: "worst", (last + 1) // 2: "median"}
    viewers = []
    for position, rank in sorted(ranks.items()):
        row = rows.iloc[position]
        html, aspect = slice_viewer(*scenes[row.subject, row.session]())
        same = (table.subject == row.subject) & (table.session == row.session)
        dice = {name: table[same & (table.run == name)].dice.iloc[0] for name in names}
        viewers.append({
            "rank": rank, "subject": row.subject, "html": html, "aspect": round(aspect, 4),
            "facts": f"lesion of {row.lesion_volume_ml:.1f} ml; Dice "
            + ", ".join(f"{value:.2f} ({name})" for name, value in dice.items()),
        })  # fmt: skip
    return viewers


def _made_from(part, runs, stages, titles):
    """Tables of what was run: the stages with their settings, then what they share."""
    if not stages:
        rows = [(name, ", ".join(run["folders"])) for name, run in runs.items()]
        return [{"columns": None, "rows": rows}]
    rows = [["folder", *map(str, stages)]]
    settings = [facts["identity"][facts["stage"]] for facts in stages.values()]
    for key in dict.fromkeys(key for found in settings for key in found):
        if key != "initial_weights":
            rows.append(
                [key.replace("_", " "), *(_written(found.get(key, "")) for found in settings)]
            )
    facts = list(stages.values())
    rows += [
        [
            "split",
            *(
                f"seed {one['seed']}, fold {one['fold']}, identity {one['identity']['split']}"
                for one in facts
            ),
        ],
        ["starts from", *(one["initial_weights"] or "scratch" for one in facts)],
        [
            "best epoch",
            *(
                f"{one['best']['epoch']} of {one['epochs']}" if one["finished"] else ""
                for one in facts
            ),
        ],
        [
            "Dice watched, best",
            *(f"{one['best']['val_dice']:.3f}" if one["finished"] else "" for one in facts),
        ],
        ["seconds", *(f"{one['seconds']:.0f}" if one["finished"] else "" for one in facts)],
        ["command", *(" ".join(one["command"]) for one in facts)],
    ]
    shared = facts[-1]
    common = [
        *([f"{name} is scored on", _scored_on(part, run)] for name, run in runs.items()),
        *(
            [f"operating point of {name}", written(point)]
            for run in runs.values()
            for name, point in run.get("operating_points", {}).items()
        ),
        ["network", _written(shared["identity"]["unet"])],
        ["slices", f"identity {shared['identity']['slices']}"],
        ["versions", _written(shared["versions"])],
    ]  # fmt: skip
    return [
        {"columns": list(titles.values()), "rows": rows},
        {"columns": None, "rows": common},
    ]


def _written(value):
    if isinstance(value, dict):
        return ", ".join(
            f"{name.replace('_', ' ')} {_written(part)}" for name, part in value.items()
        )
    return str(value) if isinstance(value, str) else json.dumps(value)


def _every(table):
    digits = {name: figure.digits for name, figure in FIGURES.items()}
    digits |= {"lesion_volume_ml": 2, "lesion_outside_ml": 2}
    shown = table.copy()
    for name, places in digits.items():
        shown[name] = [number(value, places) for value in table[name]]
    return {
        "columns": [name.replace("_", " ") for name in shown.columns],
        "rows": shown.to_numpy().tolist(),
    }
