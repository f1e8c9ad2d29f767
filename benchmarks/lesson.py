"""Does every exercise of the lesson work, whatever the seed? What a class is to see, over several seeds.

    python benchmarks/lesson.py            # seeds 0 to 4, into benchmarks/lesson.csv and the teacher's guide
    python benchmarks/lesson.py --seeds 3

A row of benchmarks/lesson.csv is one number of one exercise with one seed. Seeds in the table are not run again;
after a change of the lesson's networks the table is deleted. The guide, notebooks/class/README.md, gets its table of
expected figures from here. A seed trains some twenty small networks, a few minutes on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from cnn_xray.lesson import EXERCISES, Lesson
from cnn_xray.parameters import LessonParameters
from cnn_xray.storage import atomic_write

TABLE = Path(__file__).with_suffix(".csv")
GUIDE = Path(__file__).parents[1] / "notebooks" / "class" / "README.md"
BOARD = "the shortcut leads on images as in training, and falls below 0.5 where the artifact is on the wrong class"
FINDINGS = {number: (one.numbers, one.finding) for number, one in EXERCISES.items()}
FINDINGS[0] = (("AUC of honest, as in training",), BOARD)  # of the second guess
BEGIN, END = "<!-- figures: written by benchmarks/lesson.py -->", "<!-- /figures -->"


def leaderboard(lesson: Lesson) -> dict[str, float]:
    """AUC of the honest network and of the shortcut, as in training and on the conflict set: the second guess."""
    sets = {"test": "as in training", "conflict": "artifact on the wrong class"}
    arms = ("honest", "shortcut")
    return {f"AUC of {arm}, {name}": lesson.network(arm).auc(images) for images, name in sets.items() for arm in arms}


def measured(seed: int, runs: str) -> list[dict[str, object]]:
    """Every number of every exercise with one seed, as rows of the table."""
    lesson = Lesson(LessonParameters.from_mapping({"seed": seed, "runs": runs}))
    board = leaderboard(lesson)
    honest, shortcut, honest_wrong, shortcut_wrong = board.values()
    misleads = shortcut > honest and shortcut_wrong < 0.5 < honest_wrong
    told = {"exercise": 0, "seed": seed, "holds": misleads}
    rows = [{**told, "number": name, "value": value} for name, value in board.items()]
    for number, exercise in EXERCISES.items():
        values = lesson.truth(number)
        told = {"exercise": number, "seed": seed, "holds": exercise.holds(*values)}
        rows += [{**told, "number": name, "value": value} for name, value in zip(exercise.numbers, values, strict=True)]
    return rows


def expected(table: pd.DataFrame) -> str:
    """The guide's table, Markdown: each number's mean and range over seeds, and with how many the finding holds."""
    lines = [
        "| exercise | number | mean | from | to | a class is to see | seen with |",
        "|---|---|---|---|---|---|---|",
    ]
    for (number, name), part in table.groupby(["exercise", "number"], sort=False):
        value, (names, seen) = part["value"], FINDINGS[number]
        first = name == names[0]
        finding = f"{seen} | {part['holds'].sum()} of {len(part)} seeds" if first else " | "
        figures = f"{value.mean():.2f} | {value.min():.2f} | {value.max():.2f}".replace("-", "−")
        lines.append(f"| {(number or 'guess 2') if first else ''} | {name} | {figures} | {finding} |")
    return "\n".join(lines)


def main() -> None:
    """Run the seeds that are missing, write the table and the guide."""
    options = argparse.ArgumentParser(description="Try every exercise of the lesson on several seeds.")
    options.add_argument("--seeds", type=int, default=5, help="how many, from 0 on (default: 5)")
    options.add_argument("--runs", default="runs", help="folder of the run records (default: runs)")
    given = options.parse_args()
    table = pd.read_csv(TABLE) if TABLE.is_file() else pd.DataFrame({"seed": []})
    for seed in sorted(set(range(given.seeds)) - set(table["seed"])):
        table = pd.concat([table, pd.DataFrame(measured(seed, given.runs))], ignore_index=True)
        with atomic_write(TABLE) as handle:
            table = table.astype({"exercise": int, "seed": int})
            handle.write(table[["exercise", "seed", "number", "value", "holds"]].to_csv(index=False).encode())
    text = GUIDE.read_text(encoding="utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    GUIDE.write_text(f"{before}{BEGIN}\n{expected(pd.read_csv(TABLE))}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
