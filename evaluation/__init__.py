"""From masks to an answer: how good they are, per subject in 3D, and whether a run is better.

Comes in: finished runs, or masks that another program made, and the reference masks.
Goes out: a table of metrics, statistics over subjects, paired comparisons, a report.
Imports `system`, `scans`, `training` and `prediction`.
"""
