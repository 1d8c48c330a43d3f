"""Heads with lesions that no person has: of the MNI152 template alone, or of real heads and shapes.

Comes in: a seed and a number of subjects; scans of healthy people, masks of strokes in MNI space.
Goes out: folders in the layouts of ATLAS v2.0 and BraTS17.
Imports `system` and `scans`.
"""
