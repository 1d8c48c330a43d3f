"""The table of the stages that are finished."""

from pathlib import Path

from system.retired import STAGES
from training.provenance import run_facts


def print_results(runs):
    """Print one line for each finished stage: epochs, and the validation metrics of the best."""
    print(
        f"\n{'stage':12}{'epochs':>7}{'best epoch':>12}{'Dice':>8}{'precision':>11}{'recall':>8}"
        f"{'seconds':>9}   (best validation Dice, all pixels pooled)"
    )
    for stage in STAGES:
        facts = run_facts(Path(runs, stage), "run the stage again")
        if facts.get("finished"):
            best = facts["best"]
            print(
                f"{stage:12}{facts['epochs']:7}{best['epoch']:12}{best['val_dice']:8.3f}"
                f"{best['val_precision']:11.3f}{best['val_recall']:8.3f}{facts['seconds']:9.0f}"
            )
