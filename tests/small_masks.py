"""Small masks, and the slow and obvious way to find their lesions."""

import itertools

import numpy as np
from hypothesis import strategies as st

FACES = [np.array(step) for axis in np.eye(3, dtype=int) for step in (axis, -axis)]
CORNERS = [np.array(step) for step in itertools.product((-1, 0, 1), repeat=3) if any(step)]


def cubes(*corners, shape=(12, 10, 9), side=2):
    """Cubes of side³ voxels whose lowest corners are given."""
    mask = np.zeros(shape, np.uint8)
    for x, y, z in corners:
        mask[x : x + side, y : y + side, z : z + side] = 1
    return mask


def flood_fill(mask, steps=FACES):
    """Sets of voxels that a walk by these steps joins."""
    left, components = set(map(tuple, np.argwhere(mask).tolist())), []
    while left:
        to_do, component = [left.pop()], set()
        while to_do:
            voxel = to_do.pop()
            component.add(voxel)
            neighbours = {tuple((voxel + step).tolist()) for step in steps} & left
            left -= neighbours
            to_do += neighbours
        components.append(component)
    return components


@st.composite
def mask_pairs(draw, largest):
    """Two masks of one shape, each anything from empty to full."""
    shape = draw(st.tuples(*(st.integers(1, side) for side in largest)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    densities = st.sampled_from([0, 0.03, 0.1, 0.3, 0.6, 0.9, 1])
    return tuple((rng.random(shape) < draw(densities)).astype(np.uint8) for _ in range(2))
