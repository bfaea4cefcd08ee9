"""Boolean masks to LVIS polygons, holes included.

The outline runs through the midpoints of the pixel edges that part mask from non-mask, so that
a pixel's centre is inside exactly if the pixel belongs to the mask. A hole is joined to its
outline by a bridge walked there and back: COCO's even-odd rasteriser then leaves the hole open,
which a list of plain polygons (their union) could not.
"""

import numpy as np

# Directions right, down, left, up; the mask lies on the right-hand side of travel.
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def _boundary_edges(mask: np.ndarray) -> dict[tuple[int, int], list[int]]:
    """Corner (x, y) -> directions of the boundary edges that leave it."""
    m = np.pad(mask, 1)
    inside = m[1:-1, 1:-1]
    sides = (
        (inside & ~m[:-2, 1:-1], 0, 0),  # top edge, travelled rightwards
        (inside & ~m[1:-1, 2:], 1, 0),  # right edge, downwards
        (inside & ~m[2:, 1:-1], 1, 1),  # bottom edge, leftwards
        (inside & ~m[1:-1, :-2], 0, 1),  # left edge, upwards
    )
    edges: dict[tuple[int, int], list[int]] = {}
    for direction, (edge, dx, dy) in enumerate(sides):
        ys, xs = np.nonzero(edge)
        for corner in zip((xs + dx).tolist(), (ys + dy).tolist()):
            edges.setdefault(corner, []).append(direction)
    return edges


def _loops(mask: np.ndarray) -> list[np.ndarray]:
    """Closed outlines, each `(P, 2)` midpoints of pixel edges in order of travel."""
    edges = _boundary_edges(mask)
    loops = []
    while edges:
        corner = next(iter(edges))
        direction = edges[corner][0]
        points = []
        while corner in edges:
            leaving = edges[corner]
            # Where two pixels touch at a corner, turning right keeps them apart.
            turn = (direction + 1) % 4
            direction = turn if turn in leaving else leaving[0]
            leaving.remove(direction)
            if not leaving:
                del edges[corner]
            dx, dy = _STEPS[direction]
            points.append((corner[0] + dx / 2, corner[1] + dy / 2))
            corner = (corner[0] + dx, corner[1] + dy)
        loops.append(np.array(points))
    return loops


def _signed_area(points: np.ndarray) -> float:
    x, y = points.T
    return 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def _chord_distance(points: np.ndarray) -> np.ndarray:
    """Distance of each point of a closed outline from the line through its two neighbours."""
    before, after = np.roll(points, 1, axis=0), np.roll(points, -1, axis=0)
    chord, rel = after - before, points - before
    cross = np.abs(chord[:, 0] * rel[:, 1] - chord[:, 1] * rel[:, 0])
    length = np.hypot(chord[:, 0], chord[:, 1])
    return np.where(length > 0, cross / np.maximum(length, 1e-9), np.inf)


def _thin(loop: np.ndarray, tolerance: float) -> np.ndarray:
    """Drop points that lie within `tolerance` of their neighbours' chord, never two in a row.

    Pass after pass until none is left to drop; what a pass moves, the next may move again, so
    the tolerance grows to its full size over the passes.
    """
    for share in (0.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.75, 1.0, 1.0):
        if len(loop) < 6:
            break
        droppable = _chord_distance(loop) <= share * tolerance + 1e-6
        droppable[0] = False
        # Of each run of droppable points, drop every other one.
        index = np.arange(len(loop))
        start = np.maximum.accumulate(np.where(droppable, -1, index))
        loop = loop[~(droppable & ((index - start) % 2 == 1))]
    return loop


def _contains(outer: np.ndarray, point: np.ndarray) -> bool:
    x, y = point
    (x0, y0), (x1, y1) = outer.T, np.roll(outer, -1, axis=0).T
    crosses = (y0 > y) != (y1 > y)
    at = x0 + (y - y0) * (x1 - x0) / np.where(crosses, y1 - y0, 1)
    return bool((crosses & (at > x)).sum() % 2)


def _join(outer: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """One outline that walks `outer`, crosses to `hole`, round it, and back."""
    gap = np.square(outer[:, None] - hole[None]).sum(2)
    i, j = np.unravel_index(gap.argmin(), gap.shape)
    ring = np.roll(hole, -j, axis=0)
    return np.concatenate([outer[: i + 1], ring, ring[:1], outer[i:]])


def mask_to_polygons(mask: np.ndarray, tolerance: float = 0.3) -> list[list[float]]:
    """Polygons `[x0, y0, x1, y1, ...]` in pixels, one for each 4-connected part of a mask.

    Args:
        mask: `(H, W)` bool.
        tolerance: how far, in pixels, thinning may move the outline; 0 keeps it exact.
    """
    mask = np.asarray(mask, bool)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return []
    corner = np.array([columns[0], rows[0]])
    loops = _loops(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    outers = [_thin(loop, tolerance) for loop in loops if _signed_area(loop) > 0]
    for hole in (loop for loop in loops if _signed_area(loop) < 0):
        hole = _thin(hole, tolerance)
        around = [i for i, outer in enumerate(outers) if _contains(outer, hole[0])]
        if around:
            home = min(around, key=lambda i: abs(_signed_area(outers[i])))
            outers[home] = _join(outers[home], hole)
    return [(outer + corner).ravel().tolist() for outer in outers]
