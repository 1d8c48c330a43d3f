"""Where the folds and seeds of a cross-validation lie: [by_site/][seed_1/]fold_0/train."""

import re


def fold_folder(runs, by, seed, first_seed, fold):
    """Return the folder of a fold: those by subject and of the first seed lie nearest to `runs`."""
    runs = runs / "by_site" if by == "site" else runs
    return (runs if seed == first_seed else runs / f"seed_{seed}") / f"fold_{fold}"


def home_of(run):
    """Return the folder that all folds of a seed share with the run in a folder."""
    return run.parent.parent if _is_fold(run.parent) else run.parent


def place_of(run):
    """Name what the folders of all folds and seeds of a run have in common."""
    home = home_of(run)
    home = home.parent if re.fullmatch(r"seed_\d+", home.name) else home
    return home / "fold_*" / run.name if _is_fold(run.parent) else home / run.name


def _is_fold(folder):
    return bool(re.fullmatch(r"fold_\d+", folder.name))
