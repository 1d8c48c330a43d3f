"""From a trained network and a scan to a lesion mask on the scan's own grid.

Comes in: weights in their run folder, a scan.
Goes out: probability of lesion, a mask cut at an operating point, warnings about unusual scans, a
page on which a person judges the masks, and what was approved.
Imports `system`, `scans`, `training` and `config`. No framework is started.
"""
