"""From the numbers of all rounds to ratios, verdicts, and the files that keep them."""

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cells import Cell

SIDES = ("Lacuna", "llama.cpp")


@dataclass
class Samples:
    """What the rounds gave for one cell, a list for each side, in the order they were measured."""

    cell: Cell
    numbers: dict[str, list[float]] = field(default_factory=lambda: {side: [] for side in SIDES})
    errors: list[str] = field(default_factory=list)

    @property
    def is_measured(self) -> bool:
        """Whether both sides have a number."""
        return all(self.numbers[side] for side in SIDES)

    def median(self, side: str) -> float:
        """Returns the middle of a side's numbers."""
        return statistics.median(self.numbers[side])

    def spread(self, side: str) -> float:
        """Returns how far a side's numbers are apart, as a share of their middle."""
        numbers = self.numbers[side]
        return (max(numbers) - min(numbers)) / self.median(side)

    @property
    def ratio(self) -> float:
        """Returns how many times as fast Lacuna is, of the medians."""
        ours, theirs = (self.median(side) for side in SIDES)
        return theirs / ours if self.cell.metric.is_time else ours / theirs

    @property
    def verdict(self) -> str:
        """Says whether the ratio is enough."""
        if self.errors or not self.is_measured:
            return "not measured"
        if self.ratio >= self.cell.aim:
            return "aim reached"
        return "reached" if self.ratio >= self.cell.at_least else "**short**"

    def to_json(self) -> dict[str, Any]:
        """Returns everything that is known of the cell."""
        sides = {
            side: {"samples": self.numbers[side], "median": self.median(side), "spread": self.spread(side)}
            for side in SIDES
            if self.numbers[side]
        }
        return {
            "cell": self.cell.name,
            "title": self.cell.title,
            "unit": self.cell.metric.value,
            "sides": sides,
            "ratio": self.ratio if self.is_measured else None,
            "at_least": self.cell.at_least,
            "aim": self.cell.aim,
            "verdict": self.verdict,
            "errors": self.errors,
        }


def figure(number: float) -> str:
    """Returns a number with three digits or so."""
    return f"{number:.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def side_figure(samples: Samples, side: str) -> str:
    """Returns a side's median with its least and most."""
    numbers = samples.numbers[side]
    if not numbers:
        return "failed"
    return f"{figure(samples.median(side))} ({figure(min(numbers))}–{figure(max(numbers))})"


def markdown(all_samples: list[Samples]) -> str:
    """Returns the table for `docs/performance.md`."""
    lines = [
        "| cell | | Lacuna | llama.cpp | ratio | at least | aim | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for samples in all_samples:
        cell = samples.cell
        ours, theirs = (side_figure(samples, side) for side in SIDES)
        ratio = f"{samples.ratio:.2f}" if samples.is_measured else "–"
        limits = f"{cell.at_least:g} | {cell.aim:g}"
        lines.append(f"| {cell.title} | {cell.metric.value} | {ours} | {theirs} | {ratio} | {limits} | {samples.verdict} |")
    return "\n".join(lines) + "\n"


def write_json(path: Path, circumstances: dict[str, Any], all_samples: list[Samples], runs: list[dict[str, Any]]) -> None:
    """Writes the whole result; the old file stays until the new one is complete."""
    cells = [samples.to_json() for samples in all_samples]
    text = json.dumps({"circumstances": circumstances, "cells": cells, "runs": runs}, ensure_ascii=False, indent=1)
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)
