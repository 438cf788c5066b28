"""``pefteach parity``: the largest difference from the reference, for every method on every family."""

from __future__ import annotations

import json as json_

import rich
from rich.table import Table
from tqdm import tqdm

from pefteach.paths import ROOT
from pefteach.workshop.machine import machine, need, where
from pefteach.workshop.parity.cases import CASES
from pefteach.workshop.parity.compare import Differences, compare, quiet

LIMIT = 1e-5
DOC = ROOT / "docs" / "parity.md"
COLUMNS = ("forward", "gradient", "training", "merged")


def print_parity(names: list[str], json: bool = False, write: bool = False) -> int:
    """Compare the named methods (all if none) with their references and print the differences.

    Args:
        write: also write them to ``docs/parity.md``; only for all methods together.

    Returns:
        0 if every difference is within the limit, else 1.

    Raises:
        ValueError: an unknown method, or a reference library that is not installed.
    """
    for name in names:
        if name not in CASES:
            raise ValueError(f"no method is called {name!r}: choose from {', '.join(CASES)}")
    if names and write:
        raise ValueError("docs/parity.md holds every method: leave the names out to write it")
    rows = compare_all(names or list(CASES))
    if json:
        print(json_.dumps({"machine": machine(), "rows": rows}, indent=2))
    else:
        rich.print(_table(rows))
    if write:
        DOC.write_text(_document(rows), encoding="utf-8")
    return 0 if all(row["holds"] for row in rows) else 1


def compare_all(names: list[str]) -> list[dict]:
    """Compare the named methods; one row for each method and family. Differences are absolute, in float32."""
    for package in {case.reference for name, case in CASES.items() if name in names and case.reference}:
        need(package)
    pairs = [(name, family) for name in names for family in CASES[name].compared_on]
    rows = []
    with quiet():
        for name, family in tqdm(pairs, desc="comparing", leave=False, disable=None):
            found: Differences = compare(CASES[name], family)
            rows.append({
                "name": f"{name}, {family}", "reference": CASES[name].reference, "ours": found.largest, "peer": None,
                "ratio": None, "bar": LIMIT, "holds": found.largest <= LIMIT,
                **{column: getattr(found, column) for column in COLUMNS},
            })  # fmt: skip
    return rows


def _cells(row: dict) -> list[str]:
    return ["" if row[column] is None else f"{row[column]:.1e}" for column in COLUMNS]


def _table(rows: list[dict]) -> Table:
    table = Table(title="Largest difference from the reference", caption=where())
    for column in ("", "reference", *COLUMNS, "holds"):
        table.add_column(column)
    for row in rows:
        table.add_row(row["name"], row["reference"], *_cells(row), "yes" if row["holds"] else "NO")
    return table


def _document(rows: list[dict]) -> str:
    alone = ", ".join(name for name, case in CASES.items() if case.reference is None)
    lines = [
        "# Is every method equal to its reference?",
        "",
        "Written by `pefteach parity --write`. Both implementations get the same random tensors on the same tiny model",
        "of each family, with padding on a row, biases that are not zero, layers that are not square and alpha ≠ r.",
        "The figures are the largest absolute differences in float32: of the logits, of the gradients of every trained",
        "tensor, of the losses of ten AdamW steps and the logits after them, and of the merged weights where there are",
        "such.",
        f"The limit is {LIMIT:g}.",
        "",
        "| Method, family | reference | forward | gradient | training | merged |",
        "|---|---|---|---|---|---|",
        *(f"| {row['name']} | {row['reference']} | {' | '.join(_cells(row))} |" for row in rows),
        "",
        f"No library has these, so tests hold them against the formula instead: {alone}.",
        "",
        "peft's LLaMA-Adapter adds the bias of `o_proj` a second time; that one is taken off before the comparison.",
        "",
        f"Measured with: {where()}.",
        "",
    ]
    return "\n".join(lines)
