"""Loops over pairs and atoms for symmetry functions; symbols as in `density`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ase_xai.networks.compiled.loops import compiled


@compiled
def _monomials(u: Any, exponents: Any, powers: Any, values: Any, mirrored: Any) -> None:
    """m_c(u) and m_c(-u)."""
    for axis in range(3):
        powers[axis, 0] = 1
        for p in range(1, powers.shape[1]):
            powers[axis, p] = powers[axis, p - 1] * u[axis]
    for c in range(len(exponents)):
        a, b, d = exponents[c, 0], exponents[c, 1], exponents[c, 2]
        values[c] = powers[0, a] * powers[1, b] * powers[2, d]
        mirrored[c] = values[c] if (a + b + d) % 2 == 0 else -values[c]


@compiled
def _add(row: Any, factor: Any, values: Any) -> None:
    for k in range(len(row)):
        row[k] += factor * values[k]


@compiled
def _dot(one: Any, other: Any) -> Any:
    total = one.dtype.type(0)
    for k in range(len(one)):
        total += one[k] * other[k]
    return total


@compiled
def density(
    first: Any,
    second: Any,
    directions: Any,
    shapes: Any,
    channel: Any,
    weight: Any,
    exponents: Any,
    radial: Any,
    moments: Any,
    diagonal: Any,
) -> None:
    n_radial, n_angular, n_monomials = radial.shape[2], moments.shape[2], len(exponents)
    powers = np.empty((3, np.max(exponents) + 1), shapes.dtype)
    ahead, back = np.empty(n_monomials, shapes.dtype), np.empty(n_monomials, shapes.dtype)
    for p in range(len(first)):
        i, j = first[p], second[p]
        ci, cj, wi, wj = channel[i], channel[j], weight[i], weight[j]
        _monomials(directions[p], exponents, powers, ahead, back)
        _add(radial[i, cj], wj, shapes[p, :n_radial])
        _add(radial[j, ci], wi, shapes[p, :n_radial])
        for n in range(n_angular):
            a = shapes[p, n_radial + n]
            _add(moments[i, cj, n], wj * a, ahead)
            _add(moments[j, ci, n], wi * a, back)
            diagonal[i, cj, n] += wj * wj * a * a
            diagonal[j, ci, n] += wi * wi * a * a


@compiled
def density_gradient(
    first: Any,
    second: Any,
    directions: Any,
    shapes: Any,
    channel: Any,
    weight: Any,
    exponents: Any,
    distances: Any,
    slopes: Any,
    g_radial: Any,
    g_moments: Any,
    g_diagonal: Any,
    gradient: Any,
) -> None:
    n_radial, n_angular, n_monomials = g_radial.shape[2], g_moments.shape[2], len(exponents)
    powers = np.empty((3, np.max(exponents) + 1), shapes.dtype)
    ahead, back = np.empty(n_monomials, shapes.dtype), np.empty(n_monomials, shapes.dtype)
    both = np.empty(n_monomials, shapes.dtype)
    by_monomial = np.empty(n_monomials, shapes.dtype)
    turn = np.empty(3, shapes.dtype)
    for p in range(len(first)):
        i, j = first[p], second[p]
        ci, cj, wi, wj = channel[i], channel[j], weight[i], weight[j]
        u = directions[p]
        _monomials(u, exponents, powers, ahead, back)
        along = wj * _dot(slopes[p, :n_radial], g_radial[i, cj]) + wi * _dot(slopes[p, :n_radial], g_radial[j, ci])
        by_monomial[:] = 0
        for n in range(n_angular):
            a, slope = shapes[p, n_radial + n], slopes[p, n_radial + n]
            gi, gj = g_moments[i, cj, n], g_moments[j, ci, n]
            for c in range(n_monomials):
                sign = ahead.dtype.type(1) if (exponents[c, 0] + exponents[c, 1] + exponents[c, 2]) % 2 == 0 else -1
                both[c] = wj * gi[c] + wi * sign * gj[c]
            along += slope * _dot(both, ahead)
            along += 2 * a * slope * (wj * wj * g_diagonal[i, cj, n] + wi * wi * g_diagonal[j, ci, n])
            _add(by_monomial, a, both)
        for axis in range(3):
            turn[axis] = 0
        for c in range(n_monomials):
            ex, ey, ez = exponents[c, 0], exponents[c, 1], exponents[c, 2]
            if ex > 0:
                turn[0] += by_monomial[c] * ex * powers[0, ex - 1] * powers[1, ey] * powers[2, ez]
            if ey > 0:
                turn[1] += by_monomial[c] * ey * powers[0, ex] * powers[1, ey - 1] * powers[2, ez]
            if ez > 0:
                turn[2] += by_monomial[c] * ez * powers[0, ex] * powers[1, ey] * powers[2, ez - 1]
        across = _dot(turn, u)
        for axis in range(3):
            gradient[p, axis] = along * u[axis] + (turn[axis] - across * u[axis]) / distances[p]


@compiled
def density_tangent(
    first: Any,
    second: Any,
    directions: Any,
    shapes: Any,
    channel: Any,
    weight: Any,
    exponents: Any,
    distances: Any,
    slopes: Any,
    tangents: Any,
    radial: Any,
    moments: Any,
    diagonal: Any,
) -> None:
    n_radial, n_angular, n_monomials = radial.shape[2], moments.shape[2], len(exponents)
    powers = np.empty((3, np.max(exponents) + 1), shapes.dtype)
    ahead, back = np.empty(n_monomials, shapes.dtype), np.empty(n_monomials, shapes.dtype)
    d_ahead, d_back = np.empty(n_monomials, shapes.dtype), np.empty(n_monomials, shapes.dtype)
    du = np.empty(3, shapes.dtype)
    for p in range(len(first)):
        i, j = first[p], second[p]
        ci, cj, wi, wj = channel[i], channel[j], weight[i], weight[j]
        u = directions[p]
        _monomials(u, exponents, powers, ahead, back)
        stretch = _dot(u, tangents[p])
        for axis in range(3):
            du[axis] = (tangents[p, axis] - stretch * u[axis]) / distances[p]
        for c in range(n_monomials):
            ex, ey, ez = exponents[c, 0], exponents[c, 1], exponents[c, 2]
            value = shapes.dtype.type(0)
            if ex > 0:
                value += du[0] * ex * powers[0, ex - 1] * powers[1, ey] * powers[2, ez]
            if ey > 0:
                value += du[1] * ey * powers[0, ex] * powers[1, ey - 1] * powers[2, ez]
            if ez > 0:
                value += du[2] * ez * powers[0, ex] * powers[1, ey] * powers[2, ez - 1]
            d_ahead[c] = value
            d_back[c] = value if (ex + ey + ez) % 2 == 0 else -value
        _add(radial[i, cj], wj * stretch, slopes[p, :n_radial])
        _add(radial[j, ci], wi * stretch, slopes[p, :n_radial])
        for n in range(n_angular):
            a, da = shapes[p, n_radial + n], stretch * slopes[p, n_radial + n]
            _add(moments[i, cj, n], wj * da, ahead)
            _add(moments[i, cj, n], wj * a, d_ahead)
            _add(moments[j, ci, n], wi * da, back)
            _add(moments[j, ci, n], wi * a, d_back)
            diagonal[i, cj, n] += 2 * wj * wj * a * da
            diagonal[j, ci, n] += 2 * wi * wi * a * da


@compiled
def multiply(moments: Any, diagonal: Any, starts: Any, multiplicities: Any, channel_pairs: Any, invariants: Any) -> None:
    """Invariants from moments; monomials of order p are those from starts[p] to starts[p+1]."""
    for i in range(len(moments)):
        for q in range(len(channel_pairs)):
            a, b = channel_pairs[q, 0], channel_pairs[q, 1]
            for n in range(moments.shape[2]):
                one, other, out = moments[i, a, n], moments[i, b, n], invariants[i, q, n]
                for p in range(len(out)):
                    total = one.dtype.type(0)
                    for c in range(starts[p], starts[p + 1]):
                        total += multiplicities[c] * one[c] * other[c]
                    out[p] = (total - diagonal[i, a, n]) / 2 if a == b else total


@compiled
def multiply_gradient(
    moments: Any,
    g_invariants: Any,
    starts: Any,
    multiplicities: Any,
    channel_pairs: Any,
    g_moments: Any,
    g_diagonal: Any,
) -> None:
    for i in range(len(moments)):
        for q in range(len(channel_pairs)):
            a, b = channel_pairs[q, 0], channel_pairs[q, 1]
            for n in range(moments.shape[2]):
                one, other, g = moments[i, a, n], moments[i, b, n], g_invariants[i, q, n]
                g_one, g_other = g_moments[i, a, n], g_moments[i, b, n]
                for p in range(len(g)):
                    if a == b:
                        g_diagonal[i, a, n] -= g[p] / 2
                        for c in range(starts[p], starts[p + 1]):
                            g_one[c] += g[p] * multiplicities[c] * one[c]
                    else:
                        for c in range(starts[p], starts[p + 1]):
                            g_one[c] += g[p] * multiplicities[c] * other[c]
                            g_other[c] += g[p] * multiplicities[c] * one[c]


@compiled
def multiply_tangent(
    moments: Any,
    d_moments: Any,
    d_diagonal: Any,
    starts: Any,
    multiplicities: Any,
    channel_pairs: Any,
    d_invariants: Any,
) -> None:
    for i in range(len(moments)):
        for q in range(len(channel_pairs)):
            a, b = channel_pairs[q, 0], channel_pairs[q, 1]
            for n in range(moments.shape[2]):
                one, other, out = moments[i, a, n], moments[i, b, n], d_invariants[i, q, n]
                d_one, d_other = d_moments[i, a, n], d_moments[i, b, n]
                for p in range(len(out)):
                    total = one.dtype.type(0)
                    for c in range(starts[p], starts[p + 1]):
                        total += multiplicities[c] * (d_one[c] * other[c] + one[c] * d_other[c])
                    out[p] = (total - d_diagonal[i, a, n]) / 2 if a == b else total
