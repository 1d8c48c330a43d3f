"""From NIfTI files in a folder to slices on disk that a network can learn from.

Comes in: a folder of scans with masks, or a single scan.
Goes out: volumes in one orientation and on one intensity scale, prepared slices, splits by subject.
Imports `system` only.
"""
