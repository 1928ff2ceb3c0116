"""What probes see: colored surfaces, clouds of points and planes around molecules, several probes on one scale."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ase_xai.explainers.explanation import Explanation
from ase_xai.report import colors
from ase_xai.report.colors import Floats, Scale, Several
from ase_xai.report.molecules import View, bonds_of, principal_view, symbol_sizes
from ase_xai.report.sheets import columns_for, draw_bar, sheet
from ase_xai.report.training import DPI, GRAY, INK, MEDIUM, SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 12.0  # inches
AIR = 0.25  # Å around what is drawn
LIGHT_FROM = np.array([-0.35, 0.45, 0.82])
DARKEST = 0.72  # of a color, where the surface turns away from the light
POINT_RADIUS = 0.16  # Å of a dot that stands for a free point
FACES_AT_ONCE = 4000
PROBE = re.compile(r"(?P<quantity>.+) of (?P<probe>[A-Z][a-z]?)")


def probe_surfaces(explanations: Several, *, show: str = "values", both_sides: bool = True) -> Figure:
    """Surfaces or clouds of points around molecules, from the front and from behind, all on one scale.

    Args:
        explanations: of level "surface" or "points", one number a point; only the probe may differ. A mapping gives titles.
        show: "values" or "uncertainty".
        both_sides: whether to show them from behind too.

    Raises:
        ValueError: not drawable together, see `ase_xai.report.colors.together`.
    """
    titled = {title: colors.scalars(record) for title, record in _titled(explanations).items()}
    records = colors.together([_without_probe(record) for record in titled.values()], "surface", "points")
    scale = colors.shared_scale(records, show)
    panels: list[tuple[str, Explanation, View]] = []
    for title, record in titled.items():
        view = _view_of(record)
        panels.append((f"{title}, front" if both_sides else title, record, view))
        panels += [(f"{title}, behind", record, view.behind)] if both_sides else []
    extents = np.array([_extent(record, view) for _, record, view in panels])
    page = sheet(extents, _legend(records, scale), n_columns=min(len(panels), 4), width=WIDTH, bar_each=False)
    for axes, (title, record, view) in zip(page.panels, panels, strict=True):
        fills = scale.colors(colors.shown_numbers(record, show), colors.trusted_rows(record))
        if record.faces is None:
            _draw_points(axes, record, view, fills, page.inch)
        else:
            _draw_surface(axes, record, view, fills, page.inch)
        draw_skeleton(axes, record, view, page.inch)
        axes.set_title(title, fontsize=MEDIUM, color=INK, pad=3)
    draw_bar(page.bars[0], scale, colors.quantity(records[0], show))
    return page.figure


def probe_planes(explanations: Several, *, show: str = "values") -> Figure:
    """Maps of planes through or above molecules, all on one scale, with the atoms seen along the normal.

    Args:
        explanations: of level "grid" with one point along one step; only the probe may differ. A mapping gives titles.
        show: "values" or "uncertainty".

    Raises:
        ValueError: a grid that is not flat; not drawable together, see `ase_xai.report.colors.together`.
    """
    titled = {title: colors.scalars(record) for title, record in _titled(explanations).items()}
    records = colors.together([_without_probe(record) for record in titled.values()], "grid")
    scale = colors.shared_scale(records, show)
    planes = [_plane_of(record) for record in titled.values()]
    extents = np.array([np.abs(corners).max(axis=(0, 1)) + AIR for _, corners in planes])
    page = sheet(extents, _legend(records, scale), n_columns=columns_for(len(planes)), width=WIDTH, bar_each=False)
    for axes, (title, record), (view, at) in zip(page.panels, titled.items(), planes, strict=True):
        trusted, shape = colors.trusted_rows(record), at.shape[:2]
        fills = scale.colors(colors.shown_numbers(record, show), trusted).reshape(*shape, 3)
        axes.pcolormesh(at[..., 0], at[..., 1], fills, shading="gouraud" if trusted.all() else "nearest", rasterized=True)
        _hatch(axes, at[..., 0], at[..., 1], ~trusted.reshape(shape))
        draw_skeleton(axes, record, view, page.inch)
        axes.set_title(title, fontsize=MEDIUM, color=INK, pad=3)
    draw_bar(page.bars[0], scale, colors.quantity(records[0], show))
    return page.figure


def _titled(explanations: Several) -> dict[str, Explanation]:
    """Records by title; where none is given, the formula and the probe."""
    found = colors.named(explanations)
    if isinstance(explanations, dict):
        return found
    titles = [colors.formula(record) for record in found.values()]
    for place, record in enumerate(found.values()):
        matched = PROBE.fullmatch(record.target)
        titles[place] += f", probe {matched['probe']}" if matched else ""
    if len(set(titles)) < len(titles):
        titles = [f"{title} ({place})" for place, title in enumerate(titles, start=1)]
    return dict(zip(titles, found.values(), strict=True))


def _without_probe(record: Explanation) -> Explanation:
    """The record under the name that all probes share, so that several of them make one picture."""
    matched = PROBE.fullmatch(record.target)
    return replace(record, target=matched["quantity"]) if matched else record


def _legend(records: list[Explanation], scale: Scale) -> list[str]:
    return colors.legend(records, scale.words, f"{sum(len(record.values) for record in records):,} points.")


def _view_of(record: Explanation) -> View:
    """The principal view of the atoms, moved so that the points lie about the origin."""
    assert record.points is not None
    view = principal_view(record.numbers, record.positions)
    flat = view(record.points)[:, :2]
    return View(view.axes, view.center + (flat.min(axis=0) + flat.max(axis=0)) / 2 @ view.axes[:2])


def _extent(record: Explanation, view: View) -> Floats:
    assert record.points is not None
    return np.asarray(np.abs(view(record.points)[:, :2]).max(axis=0) + AIR)


def _plane_of(record: Explanation) -> tuple[View, Floats]:
    """A view along the normal of a flat grid, and the places of its points in it (n, m, 2)."""
    assert record.points is not None
    shape = record.grid_shape or (len(record.values), 1, 1)
    flat = [n for n in shape if n > 1]
    if len(flat) != 2:
        raise ValueError(
            f"a map needs a grid with one point along one step, got shape {shape}. Ask in a Plane, or on a surface and draw "
            "it with probe_surfaces; a grid in space is for write_cube and the like."
        )
    points = record.points.reshape(*flat, 3)
    across, up = points[1, 0] - points[0, 0], points[0, 1] - points[0, 0]
    across = across / np.linalg.norm(across)
    normal = np.cross(across, up)
    normal /= np.linalg.norm(normal)
    view = View(np.array([across, np.cross(normal, across), normal]), points.mean(axis=(0, 1)))
    at = view(points.reshape(-1, 3)).reshape(*flat, 3)
    if np.abs(at[..., 2]).max() > 1e-6:
        raise ValueError(
            f"the points of {record.method} leave their plane by {np.abs(at[..., 2]).max():.3g} Å. Use a Plane."
        )
    return view, at[..., :2]


def _hatch(axes: Axes, x: Floats, y: Floats, where: NDArray[np.bool_]) -> None:
    """Hatching where an untrusted value is shown."""
    if where.any():
        drawn: Any = axes.contourf(x, y, where.astype(float), levels=[0.5, 1.5], colors="none", hatches=[colors.HATCH])
        drawn.set_edgecolor("#7A7A7A")
        drawn.set_linewidth(0.0)


def _draw_points(axes: Axes, record: Explanation, view: View, fills: Floats, inch: float) -> None:
    """Dots from back to front."""
    assert record.points is not None
    at, trusted = view(record.points), colors.trusted_rows(record)
    size = (2 * POINT_RADIUS * inch * 72) ** 2
    for rows, hatch in ((trusted, None), (~trusted, colors.HATCH)):
        order = np.flatnonzero(rows)[np.argsort(at[rows, 2], kind="stable")]
        about: dict[str, Any] = {"edgecolors": GRAY, "linewidths": 0.3, "hatch": hatch}
        axes.scatter(at[order, 0], at[order, 1], s=size, c=fills[order], **about)


def _draw_surface(axes: Axes, record: Explanation, view: View, fills: Floats, inch: float) -> None:
    """The triangles that face the reader, as a picture with true occlusion."""
    assert record.points is not None and record.faces is not None
    at, pixel = view(record.points), 1.0 / (1.5 * DPI * inch)  # Å
    low = at[:, :2].min(axis=0) - 2 * pixel
    size = np.ceil((at[:, :2].max(axis=0) + 2 * pixel - low) / pixel).astype(int)
    face, weights = rasterize((at[:, :2] - low) / pixel, at[:, 2], record.faces, (int(size[0]), int(size[1])))
    seen = face >= 0
    corners = record.faces[face[seen]]
    normals = _blend(_normals(at, record.faces)[corners], weights[seen])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    light = np.clip(normals @ (LIGHT_FROM / np.linalg.norm(LIGHT_FROM)), 0.0, 1.0)
    trusted = np.asarray(colors.trusted_rows(record)[corners].all(axis=1))
    gray = Scale("gray", 0.0, 1.0, False, "1", 0, 0).colors(np.full(1, np.nan))
    flat = np.where(trusted[:, None], _blend(fills[corners], weights[seen]), gray)
    picture = np.zeros((*face.shape, 4))
    picture[seen] = np.column_stack([flat * (DARKEST + (1 - DARKEST) * light)[:, None], np.ones(len(flat))])
    high = low + size * pixel
    axes.imshow(picture, extent=(low[0], high[0], low[1], high[1]), origin="lower", interpolation="antialiased", zorder=1)
    hidden = np.zeros(face.shape, dtype=bool)
    hidden[seen] = ~trusted
    x, y = (low[k] + (np.arange(size[k]) + 0.5) * pixel for k in (0, 1))
    _hatch(axes, x, y, hidden)
    axes.set_aspect("auto")  # imshow would change the limits that make lengths true


def _blend(of_corners: Floats, weights: Floats) -> Floats:
    """(n, c) of the corners of triangles (n, 3, c), interpolated."""
    return np.asarray((of_corners * weights[:, :, None]).sum(axis=1))


def _normals(at: Floats, faces: NDArray[np.int64]) -> Floats:
    """(V, 3) of each vertex: the mean of its triangles, weighted by their areas."""
    across = np.cross(at[faces[:, 1]] - at[faces[:, 0]], at[faces[:, 2]] - at[faces[:, 0]])
    summed = np.zeros_like(at)
    np.add.at(summed, faces.ravel(), np.repeat(across, 3, axis=0))
    return summed


def rasterize(
    at: Floats, depth: Floats, faces: NDArray[np.int64], size: tuple[int, int]
) -> tuple[NDArray[np.int64], Floats]:
    """Which triangle each pixel shows, of those that face the reader, and the weights of its corners there.

    Args:
        at: (V, 2) corners in pixels.
        depth: (V,) larger is nearer.
        faces: (T, 3) corners, counter-clockwise where they face the reader.
        size: pixels across and up.

    Returns:
        (up, across) numbers of triangles, -1 where there is none, and (up, across, 3) weights.
    """
    across, up = size
    shown, nearest = np.full(across * up, -1), np.full(across * up, -np.inf)
    weights = np.zeros((across * up, 3))
    a, b, c = (at[faces[:, k]] for k in range(3))
    doubled = _cross(b - a, c - a)
    facing = np.flatnonzero(doubled > 1e-9)
    for start in range(0, len(facing), FACES_AT_ONCE):
        face = facing[start : start + FACES_AT_ONCE]
        low = np.floor(np.minimum(np.minimum(a[face], b[face]), c[face])).astype(int)
        high = np.ceil(np.maximum(np.maximum(a[face], b[face]), c[face])).astype(int)
        low, high = np.clip(low, 0, [across, up]), np.clip(high, 0, [across, up])
        extent = high - low
        counts = extent[:, 0] * extent[:, 1]
        which = np.repeat(np.arange(len(face)), counts)
        inside = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        y, x = np.divmod(inside, np.maximum(extent[which, 0], 1))
        x, y, one = x + low[which, 0], y + low[which, 1], face[which]
        point = np.column_stack([x, y]) + 0.5
        share_b = _cross(point - a[one], c[one] - a[one]) / doubled[one]
        share_c = _cross(b[one] - a[one], point - a[one]) / doubled[one]
        shares = np.column_stack([1 - share_b - share_c, share_b, share_c])
        height = (shares * depth[faces[one]]).sum(axis=1)
        pixel = y * across + x
        hit = np.flatnonzero((shares >= -1e-9).all(axis=1) & (height > nearest[pixel]))
        hit = hit[np.argsort(height[hit], kind="stable")]  # the nearest is written last
        shown[pixel[hit]], nearest[pixel[hit]], weights[pixel[hit]] = one[hit], height[hit], shares[hit]
    return shown.reshape(up, across), weights.reshape(up, across, 3)


def _cross(a: Floats, b: Floats) -> Floats:
    return np.asarray(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])


def draw_skeleton(axes: Axes, record: Explanation, view: View, inch: float) -> None:
    """Thin bonds and symbols of the atoms, on top of everything."""
    from matplotlib.patheffects import withStroke

    at = view(record.positions)
    for i, j in bonds_of(record.numbers, record.positions):
        axes.plot(*at[[i, j], :2].T, color=INK, linewidth=0.8, alpha=0.6, zorder=3)
    halo = [withStroke(linewidth=1.6, foreground="white")]
    for (x, y, _), (symbol, points) in zip(at, symbol_sizes(record.numbers, inch), strict=True):
        size = min(points, SMALL)
        axes.text(x, y, symbol, fontsize=size, color=INK, ha="center", va="center_baseline", zorder=4, path_effects=halo)
