"""Has a network trained on heats of formation learned something like a periodic table?

    python examples/elements.py [OUTPUT_FOLDER]

The element vectors of SchNet "elements" (56 elements in cubic perovskites): distances within groups of the periodic table
against chance, order within each group, the most similar partner of each element; embedding.png (two principal components)
and similar-to-*.png (distances on a periodic table).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from ase_xai import load
from ase_xai.explainers import ElementEmbeddings
from ase_xai.explainers.embeddings import cosine_similarity, order_within_groups
from ase_xai.report import embedding, periodic_table


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "elements-output")
    folder.mkdir(parents=True, exist_ok=True)
    calculator = load("elements")
    explanation = ElementEmbeddings(n_components=None)(calculator)
    shares = explanation.settings["explained_variance"]
    print(f"{len(explanation.labels)} elements; first two components hold {sum(shares[:2]):.0%} of the variance")
    for name, about in explanation.settings["comparisons"].items():
        print(f"{name}: {about['value']:.3f}, p = {about['p']:.4f} by permutation")
    print("\n| group | light to heavy | order along its own first component |\n| --- | --- | --- |")
    for group, about in order_within_groups(calculator).items():
        print(f"| {group} | {' '.join(about['elements'])} | {about['order']:.2f} |")
    symbols, cosine = cosine_similarity(calculator)
    np.fill_diagonal(cosine, -1)
    print("\nmost similar: " + ", ".join(f"{s}-{symbols[row.argmax()]}" for s, row in zip(symbols, cosine, strict=True)))
    embedding(explanation).savefig(folder / "embedding.png", dpi=150)
    for symbol in ("K", "Ti", "O"):
        periodic_table(explanation, distance_to=symbol).savefig(folder / f"similar-to-{symbol}.png", dpi=150)
    print(f"\nfigures in {folder}/")


if __name__ == "__main__":
    main()
