"""Where the head is in a scan."""


def head_planes(scaled, mean):
    """Say for each axis which planes cross the head: those in which 2 % are not dark.

    `scaled` and its `mean` are from `scans.intensity.scale_intensity`. Returns bool arrays (X,),
    (Y,), (Z,).
    """
    head = scaled > mean / 2
    shares = [head.mean(tuple({0, 1, 2} - {axis})) for axis in range(3)]
    return [share >= min(0.02, share.max()) for share in shares]
