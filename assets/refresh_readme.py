"""Bring the README up to date with the committed reports: its picture and its tables of results.

Run `python assets/refresh_readme.py` after `make report`; `--check` only says whether the table is up to date.
"""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from PIL import Image

from cnn_xray.parameters import SWAP
from cnn_xray.report.words import HEADLINE

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
from instruments import READERS, cases, how_often_right, how_well_figures_tell  # noqa: E402

BEGIN, END = "<!-- results: made by assets/refresh_readme.py from the committed reports -->", "<!-- /results -->"
NOT_GIVEN, UNKNOWN, MEDMNIST = "–", "not known", "training images, split by image"
SWEEP = "benchmarks/reduce/default.csv"
OURS = {  # by table of runs: the network, and what its recipe was chosen on
    SWEEP: (
        "**this one** (`recipe swap`)",
        "as `recipe plain`, and swaps on validation patients; the idea had been tried on test images (`06_reduce`)",
    ),
    "reports/kermany/runs.csv": (
        "**this one** (`recipe plain`)",
        "training patients; criterion and more aspect-ratio jitter thought of after test results "
        "(`appendix_recipe_selection`)",
    ),
    "benchmarks/recipe/large.csv": (
        "**this one at 224 px** (`recipe large`, runs of version 0.1.0)",
        "as `recipe plain`, nothing chosen beyond it",
    ),
}
V2 = "[MedMNIST v2](https://doi.org/10.1038/s41597-022-01721-8)"
REFERENCES = (  # as reported on these 624 images, in the columns of the table
    ("Inception-V3 ([Kermany et al. 2018](https://doi.org/10.1016/j.cell.2018.02.010))", "ImageNet", UNKNOWN)
    + (".928", ".968", ".932", ".901"),
    ("ResNet-50, two-stage fine-tuning †", "ImageNet", UNKNOWN, ".878", ".941", ".874", ".885"),
    ("VGG16, fine-tuned †", "ImageNet", UNKNOWN, ".886", ".966", ".877", ".902"),
    ("ResNet-50, fine-tuned, MixUp and CutMix †", "ImageNet", UNKNOWN, ".933", NOT_GIVEN, ".977", ".859"),
    ("best of many backbones, 224 px ([MedMNIST+](https://arxiv.org/abs/2404.15786))", "ImageNet, DINO", MEDMNIST)
    + (".916", ".989", NOT_GIVEN, NOT_GIVEN),
    (f"Google AutoML Vision, 28 px ({V2})", "not said", MEDMNIST, ".946", ".991", NOT_GIVEN, NOT_GIVEN),
    (f"ResNet-50, 224 px ({V2})", "nothing", MEDMNIST, ".884", ".962", NOT_GIVEN, NOT_GIVEN),
)
NOTE = (
    "Ours are means over seeds with their range, at probability 0.5, an image's logit being the mean of ten views; the "
    "intervals over patients, which are wider, are in `02_train`. The others are as their authors report them; † a "
    "public project without a paper."
)
REDUCED = {  # columns of a sweep's table, in words
    "test_auc": "AUC",
    "test_accuracy": "accuracy",
    "test_specificity": "specificity",
    "test_R outside the lungs": "R, all outside the lungs",
    "test_R outside the lungs, hard seam": "the same, by a surgery unlike that of training (hard seam)",
    "test_R border outside the lungs": "R, border outside the lungs",
    "test_AUC, lungs alone": "AUC from the lungs alone",
    "test_AUC, without lungs": "AUC from all but the lungs",
}
PICTURE = "Evidence before and after cropping in the original frame, artifact: border"


def results() -> str:
    """The tables of results in Markdown: mean over the seeds, with the range; and how the verdicts came out."""
    phantom, kermany = (full(f"reports/{report}/runs.csv") for report in ("phantom", "kermany"))
    tried = pd.read_csv(ROOT / "benchmarks" / "instruments.csv")
    planted, real = tried[tried["data"] == "phantom"], tried[tried["data"] != "phantom"]
    nothing = planted[planted["place"] == "none"]["verdict"]
    called = real.groupby("place", sort=False)["border shortcut"].agg(["sum", "size"])
    places = {
        "border": "where it lies at the border",
        "inside": "where it lies inside",
        "none": "where it tells nothing",
    }
    lines = [
        "| network, on the 624 test images | pretrained on | chosen on | accuracy | AUC | sensitivity | specificity |",
        "|---|---|---|---|---|---|---|",
        *(ours(table, *words) for table, words in OURS.items()),
        *(f"| {' | '.join(one)} |" for one in REFERENCES),
        "",
        NOTE,
        "",
        "| data | figure | before cropping | border masked | after cropping |",
        "|---|---|---|---|---|",
        *(
            row(part, "conflict_auc", f"phantom, artifact: {location} | AUC with the artifact on the wrong class")
            for location, part in phantom.groupby("artifact_location")
        ),
        row(kermany, "test_auc", "real images (624 for testing) | AUC"),
        row(kermany, "test_accuracy", "real images (624 for testing) | accuracy at 0.5"),
        "",
        "Training that leans less on the border, on the real images (`06_reduce`); R is the share of the way from "
        "normal to pneumonia that the score moves when that region is another patient's. These are the sweep's "
        "networks, most of them trained on a GPU, and not those of the first table's `recipe plain`:",
        "",
        *reduced(),
        "",
        "| images | verdict on the border, before → after cropping | of what, and how far it is shared |",
        "|---|---|---|",
        *verdicts("phantom"),
        *verdicts("kermany"),
        "",
        f"Where the truth was planted ({len(planted)} of {len(cases('phantom'))} planned phantoms): networks of which "
        "a border shortcut is called, with the 95 % interval of the rate. A picture calls one where its figure for the "
        "border lies above nothing; the last line "
        "is fair to any other threshold (`04_shortcut_tests`).",
        "",
        *believed(planted),
        "",
        f"Of the {len(nothing)} networks whose artifact has nothing to do with the label, "
        f"{nothing.str.contains('harmed').sum()} are said to be harmed by something else than the border. "
        "With a marker planted into real images, a border shortcut is called in "
        + ", ".join(
            f"{called['sum'][place]} of {called['size'][place]} networks {where}" for place, where in places.items()
        )
        + ".",
    ]
    return "\n".join(lines)


def believed(trials: pd.DataFrame) -> list[str]:
    """How often a border shortcut is called where the truth was planted: by the verdict, and by pictures."""
    right = how_often_right(trials).drop(columns="networks").reset_index()
    alone = how_well_figures_tell(trials)
    names = ("verdict: The border's own", *READERS.values())
    own, *pictures = (str(alone[name]) if name in alone else "" for name in names)
    last = ["AUC of the figure itself", "", f"*The border's own*: {own}", *pictures]
    lines = [right.columns, ["---"] * len(right.columns), *right.to_numpy(), last]
    return [f"| {' | '.join(line)} |" for line in lines]


def reduced() -> list[str]:
    """A line a way to train, at the default size: means over the seeds, with the range."""
    runs = pd.read_csv(ROOT / SWEEP).dropna(subset=list(REDUCED))
    lines = [["training", *REDUCED.values()], ["---"] * (1 + len(REDUCED))]
    for arm, of_arm in runs.groupby("arm", sort=False):
        lines.append([str(arm), *(spread(of_arm[name]) for name in REDUCED)])
    return [f"| {' | '.join(line)} |" for line in lines]


def full(table: str) -> pd.DataFrame:
    """A table's networks trained in full on training images as they are: no small probes, no swaps, each once."""
    runs = pd.read_csv(ROOT / table).dropna(subset="test_auc")
    swapped = runs.filter(["swap"]).isin(["border", "outside_lungs"]).any(axis=1)  # older records name no swap
    runs = runs[runs["keep"].isin(["all", "without_border"]) & ~swapped & (runs["epochs"] == runs["epochs"].max())]
    runs = runs[runs["labels"].astype(str).str.lower() == "true"] if "labels" in runs else runs
    one = [name for name in ("artifact_location", "keep", "crop", "seed") if name in runs]
    return runs.drop_duplicates(one)  # on the phantom a probe of the whole image is a network trained in full


def ours(table: str, network: str, chosen_on: str) -> str:
    """One line: the seeds of a report's uncropped networks, or of the sweep's proposed arm, at probability 0.5."""
    if table == SWEEP:
        runs = pd.read_csv(ROOT / table)
        seeds = runs[runs.filter(SWAP).eq(pd.Series(SWAP)).all(axis=1)]
    else:
        runs = full(table)
        seeds = runs[(runs["keep"] == "all") & (runs["crop"] == 0)]
    found = (spread(seeds[f"test_{name}"]) for name in ("accuracy", "auc", "sensitivity", "specificity"))
    return f"| {network} | **nothing** | {chosen_on} | {' | '.join(found)} |"


def row(runs: pd.DataFrame, metric: str, words: str) -> str:
    """One line: the metric of uncropped networks, of those with a masked border and of cropped ones; same seeds."""
    masked, cropped = runs["keep"] == "without_border", runs["crop"] > runs["crop"].min()
    arms = [runs[arm].set_index("seed")[metric] for arm in (~masked & ~cropped, masked, cropped)]
    together = pd.concat(arms, axis=1, join="inner")
    return f"| {words} | {' | '.join(spread(values) for _, values in together.items())} |"


def spread(values: pd.Series) -> str:
    """Mean, range and number of seeds."""
    many = f"{values.min():.3f} to {values.max():.3f}, {len(values)} seeds"
    return f"{values.mean():.3f} ({many if len(values) > 1 else '1 seed'})"


def outputs(report: str, notebook: str) -> list[dict[str, Any]]:
    """What an executed notebook of a report shows: MIME type → data, an entry an output."""
    executed = nbformat.read(ROOT / "reports" / report / f"{notebook}.ipynb", as_version=4)
    return [output.get("data", {}) for cell in executed.cells for output in cell.get("outputs", ())]


def verdicts(report: str) -> list[str]:
    """A line a data set: what notebook 05 says of the border before and after cropping."""
    begins = "Before and after cropping, "
    told = (data[HEADLINE] for data in outputs(report, "05_before_after_cropping") if HEADLINE in data)
    found = ((one["label"].removeprefix(begins), one) for one in told if one["label"].startswith(begins))
    where = "" if report == "kermany" else f"{report}, "
    return [f"| {where}{data} | *{one['value']}* | {one['meaning']} |" for data, one in found]


def picture() -> None:
    """assets/before_after.jpg, the figure of the phantom's executed notebook 05."""
    encoded = next(
        data[kind]
        for data in outputs("phantom", "05_before_after_cropping")
        for kind in ("image/jpeg", "image/png")
        if kind in data and data.get("text/plain", "").startswith(PICTURE)
    )
    image = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    image.save(ROOT / "assets" / "before_after.jpg", quality=85, optimize=True)


def main() -> int:
    """Exit status 1 when asked to check and the table is not up to date."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    fresh = f"{before}{BEGIN}\n{results()}\n{END}{after}"
    if "--check" in sys.argv:
        return int(fresh != text)
    picture()
    readme.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
