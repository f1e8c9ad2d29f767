"""Are the instruments to be believed? Verdicts on the border where the truth is known because it was planted.

    python benchmarks/instruments.py                          # four kinds of phantom, seeds 10 to 19
    python benchmarks/instruments.py path/to/chest_xray       # markers planted into real images, seeds 0 and 1

Adds a row a network to benchmarks/instruments.csv, which notebook 04 shows; what is there already is not run again, so
delete it after a change of the method. What counts as a yes was fixed on phantoms of seeds below 10, hence other
seeds here. On two cores a phantom takes about a minute, a network on real images (96 px, 8 epochs) some three minutes.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from cnn_xray import verdict
from cnn_xray.data import load_dataset
from cnn_xray.parameters import PHANTOM, ShortcutParameters
from cnn_xray.runs import run_of
from cnn_xray.storage import atomic_write

TABLE = Path(__file__).with_suffix(".csv")
# truth → where the artifact is that goes with the label, and what makes it
PHANTOMS: dict[str, tuple[str, dict[str, Any]]] = {
    "border marker, unrelated to the label (ρ = 0)": ("none", {"artifact_rho": 0.0}),
    "border marker (ρ = 0.95)": ("border", {}),
    "marker inside the lungs (ρ = 0.95)": ("inside", {"artifact_location": "inside"}),
    "blur of the whole image (ρ = 0.95)": (
        "global",
        {"artifact_location": "global", "artifact_kinds": "blur", "artifact_amplitude": 3.0},
    ),
}
SMALL = {"image_size": 96, "width": 16, "epochs": 8, "patience": 8}
REAL: dict[str, tuple[str, dict[str, Any]]] = {
    "real images, border marker planted (ρ = 0.95)": ("border", {"artifact_rho": 0.95, **SMALL}),
    "real images, border marker planted (ρ = 0)": ("none", {"artifact_rho": 0.0, **SMALL}),
}


def verdict_row(truth: str, place: str, p: ShortcutParameters) -> dict[str, Any]:
    """The verdict on one network: truth, place of the artifact, seed, run, verdict, every answer with its figure.

    Parameters
    ----------
    truth
        What was planted, in words.
    place
        Where the artifact is that goes with the label: border, inside, global or none.
    p
        Data and network.
    """
    data = load_dataset(p)
    run = run_of(p, data)
    asked = verdict.border_figures(run.score, p, data, run.attention)
    found = verdict.judge(asked, planted=True)
    figures = {
        f"{question}: {column}": found.table.loc[question, column]
        for question in found.table.index
        for column in ("answer", "value", "low", "high", "p (Holm)")
    }
    known = {"truth": truth, "place": place, "seed": p.seed, "run": run.id}
    return {**known, "verdict": found.name, "border shortcut": found.border_shortcut, **figures}


def main(data: str = PHANTOM) -> None:
    """Judge every truth with every seed, each row written as soon as it is known.

    Parameters
    ----------
    data
        The phantom, or real images into which markers are planted.
    """
    truths, seeds = (PHANTOMS, range(10, 20)) if data == PHANTOM else (REAL, range(2))
    done = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=["truth", "seed"])
    for seed, (truth, (place, change)) in itertools.product(seeds, truths.items()):
        if ((done["truth"] == truth) & (done["seed"] == seed)).any():
            continue
        one = verdict_row(truth, place, ShortcutParameters.from_mapping({"data": data, "seed": seed, **change}))
        done = pd.concat([done, pd.DataFrame([one])], ignore_index=True)
        with atomic_write(TABLE) as file:
            file.write(done.to_csv(index=False, float_format="%.4g").encode())
        print(f"{truth}, seed {seed}: {one['verdict']}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
