"""Heads with lesions that no person has: the demo's data, from the MNI152 template alone.

Comes in: a seed and a number of subjects.
Goes out: folders in the layouts of ATLAS v2.0 and BraTS17.
Imports `system` and `scans`.
"""
