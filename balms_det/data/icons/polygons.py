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


def _thin(points: np.ndarray, tolerance: float) -> np.ndarray:
    """Ramer-Douglas-Peucker on an open chain: drops points nearer than `tolerance` to a chord."""
    keep = np.zeros(len(points), bool)
    keep[[0, -1]] = True
    stack = [(0, len(points) - 1)]
    while stack:
        a, b = stack.pop()
        if b - a < 2:
            continue
        chord = points[b] - points[a]
        rel = points[a + 1 : b] - points[a]
        length = np.hypot(*chord)
        cross = np.abs(rel[:, 0] * chord[1] - rel[:, 1] * chord[0])
        distance = cross / length if length else np.hypot(*rel.T)
        far = int(distance.argmax())
        if distance[far] > tolerance:
            keep[a + 1 + far] = True
            stack += [(a, a + 1 + far), (a + 1 + far, b)]
    return points[keep]


def _simplify(loop: np.ndarray, tolerance: float) -> np.ndarray:
    """Thin a closed outline from two far-apart points; one too small to thin stays as it is."""
    start = int(loop.sum(1).argmin())
    loop = np.roll(loop, -start, axis=0)
    middle = int(np.square(loop - loop[0]).sum(1).argmax())
    closed = np.concatenate([loop, loop[:1]])
    first = _thin(closed[: middle + 1], tolerance)
    second = _thin(closed[middle:], tolerance)
    thin = np.concatenate([first[:-1], second[:-1]])
    return thin if len(thin) >= 3 else loop


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
    loops = _loops(np.asarray(mask, bool))
    outers = [_simplify(loop, tolerance) for loop in loops if _signed_area(loop) > 0]
    for hole in (loop for loop in loops if _signed_area(loop) < 0):
        hole = _simplify(hole, tolerance)
        around = [i for i, outer in enumerate(outers) if _contains(outer, hole[0])]
        if around:
            home = min(around, key=lambda i: abs(_signed_area(outers[i])))
            outers[home] = _join(outers[home], hole)
    return [outer.ravel().tolist() for outer in outers]
