"""Loops over pairs for the continuous-filter convolution; symbols as in `convolution`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ase_xai.networks.compiled.loops import compiled


@compiled
def _weights(u: Any, w: Any) -> None:
    """Cubic Lagrange weights of the knots at u = -1, 0, 1, 2."""
    w[0] = -u * (u - 1) * (u - 2) / 6
    w[1] = (u + 1) * (u - 1) * (u - 2) / 2
    w[2] = -(u + 1) * u * (u - 2) / 2
    w[3] = (u + 1) * u * (u - 1) / 6


@compiled
def _slopes(u: Any, scale: Any, w: Any) -> None:
    """Their derivatives with respect to the distance; `scale` is 1/h."""
    w[0] = -(3 * u * u - 6 * u + 2) / 6 * scale
    w[1] = (3 * u * u - 4 * u - 1) / 2 * scale
    w[2] = -(3 * u * u - 2 * u - 2) / 2 * scale
    w[3] = (3 * u * u - 1) / 6 * scale


@compiled
def _interpolate(table: Any, k: Any, w: Any, row: Any) -> None:
    a, b, c, d = w[0], w[1], w[2], w[3]
    t0, t1, t2, t3 = table[k], table[k + 1], table[k + 2], table[k + 3]
    for f in range(len(row)):
        row[f] = a * t0[f] + b * t1[f] + c * t2[f] + d * t3[f]


@compiled
def _add_product(row: Any, weights: Any, values: Any) -> None:
    for f in range(len(row)):
        row[f] += weights[f] * values[f]


@compiled
def add_neighbors(first: Any, second: Any, knot: Any, fraction: Any, table: Any, x: Any, y: Any) -> None:
    w, filters = np.empty(4, x.dtype), np.empty(x.shape[1], x.dtype)
    for p in range(len(first)):
        i, j = first[p], second[p]
        _weights(fraction[p], w)
        _interpolate(table, knot[p], w, filters)
        _add_product(y[i], filters, x[j])
        _add_product(y[j], filters, x[i])


@compiled
def _cross(xi: Any, xj: Any, gi: Any, gj: Any, products: Any) -> None:
    for f in range(len(products)):
        products[f] = xj[f] * gi[f] + xi[f] * gj[f]


@compiled
def _scatter(table: Any, k: Any, w: Any, products: Any) -> None:
    for a in range(4):
        row, weight = table[k + a], w[a]
        for f in range(len(products)):
            row[f] += weight * products[f]


@compiled
def table_gradient(first: Any, second: Any, knot: Any, fraction: Any, x: Any, g: Any, gradient: Any) -> None:
    w, products = np.empty(4, x.dtype), np.empty(x.shape[1], x.dtype)
    for p in range(len(first)):
        i, j = first[p], second[p]
        _weights(fraction[p], w)
        _cross(x[i], x[j], g[i], g[j], products)
        _scatter(gradient, knot[p], w, products)


@compiled
def pair_products(
    first: Any, second: Any, knot: Any, fraction: Any, scale: Any, table: Any, x: Any, g: Any, out: Any
) -> None:
    w = np.empty(4, x.dtype)
    slopes, products = np.empty(x.shape[1], x.dtype), np.empty(x.shape[1], x.dtype)
    for p in range(len(first)):
        i, j = first[p], second[p]
        _slopes(fraction[p], scale, w)
        _interpolate(table, knot[p], w, slopes)
        _cross(x[i], x[j], g[i], g[j], products)
        total = x.dtype.type(0)
        for f in range(len(slopes)):
            total += slopes[f] * products[f]
        out[p] = total


@compiled
def pair_products_gradient(
    first: Any,
    second: Any,
    knot: Any,
    fraction: Any,
    scale: Any,
    table: Any,
    x: Any,
    g: Any,
    h: Any,
    dx: Any,
    dg: Any,
    dtable: Any,
) -> None:
    w = np.empty(4, x.dtype)
    slopes, products = np.empty(x.shape[1], x.dtype), np.empty(x.shape[1], x.dtype)
    for p in range(len(first)):
        i, j = first[p], second[p]
        _slopes(fraction[p], scale, w)
        for a in range(4):
            w[a] *= h[p]
        _interpolate(table, knot[p], w, slopes)
        _cross(x[i], x[j], g[i], g[j], products)
        _add_product(dg[i], slopes, x[j])
        _add_product(dg[j], slopes, x[i])
        _add_product(dx[j], slopes, g[i])
        _add_product(dx[i], slopes, g[j])
        _scatter(dtable, knot[p], w, products)
