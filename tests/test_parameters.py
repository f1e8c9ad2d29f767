"""Parameters are strict, and what is refused is told in a sentence that helps."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from IPython.core.interactiveshell import InteractiveShell
from papermill import inspect_notebook
from tiny_notebooks import write
from traitlets.config import Config

from cnn_xray import InputError, geometry
from cnn_xray.parameters import (
    NOTEBOOKS,
    PHANTOM,
    RECIPES,
    SWAP,
    WIDEST_BORDER,
    AttentionParameters,
    AuditParameters,
    CroppingParameters,
    DataParameters,
    RecipeParameters,
    ShortcutParameters,
    TrainParameters,
    literal_assignments,
    parameters_cell,
    parameters_page,
)
from cnn_xray.runs import identity

ROOT = Path(__file__).parents[1]


def refusal(cls, **values) -> str:
    with pytest.raises(InputError) as caught:
        cls.from_mapping(values)
    return str(caught.value)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"crop": 0.6}, "crop is 0.6, but it must be a number at least 0 and below 0.5."),
        ({"crop": -0.1}, "crop is -0.1, but it must be a number at least 0 and below 0.5."),
        ({"crop": "0.1"}, "crop is '0.1', but it must be a number at least 0 and below 0.5."),
        ({"zoom": float("nan")}, "zoom is nan, but it must be a number at least 0 and at most 1."),
        ({"rotation": float("inf")}, "rotation is inf, but it must be a number at least 0 and at most 180."),
        ({"epochs": 0}, "epochs is 0, but it must be a whole number at least 1 and at most 500, or None."),
        (
            {"epochs": 3.5},
            "epochs is 3.5, but it must be a whole number at least 1 and at most 500, or None.",
        ),
        ({"batch_size": True}, "batch_size is True, but it must be a whole number at least 1 and at most 1024."),
        ({"flip": "false"}, "flip is 'false', but it must be True or False."),
        ({"flip": 1}, "flip is 1, but it must be True or False."),
        ({"aspect": "round"}, "aspect is 'round', but it must be one of 'squash', 'letterbox', 'square'."),
        ({"recipe": "lage"}, "recipe is 'lage', but it must be one of 'auto', 'plain', 'swap', 'large'."),
        ({"recipe": "phantom"}, "recipe is 'phantom', but it must be one of 'auto', 'plain', 'swap', 'large'."),
        ({"recipe": None}, "recipe is None, but it must be one of 'auto', 'plain', 'swap', 'large'."),
        ({"border": 0.5}, "border is 0.5, but it must be a number above 0 and below 0.5."),
        ({"artifact_rho": 1}, "artifact_rho is 1, but it must be a number above -1 and below 1, or None."),
        ({"labels": "shuffled"}, "labels is 'shuffled', but it must be one of 'true', 'permuted'."),
        ({"data": ""}, "data is '', but it must be a text that is not empty."),
        ({"data": 2024}, "data is 2024, but it must be a text that is not empty."),
        ({"epohs": 3}, "There is no parameter 'epohs'; the nearest one is 'epochs'."),
        ({"recip": "large"}, "There is no parameter 'recip'; the nearest one is 'recipe'."),
        ({"learning-rate": 1}, "There is no parameter 'learning-rate'; the nearest one is 'learning_rate'."),
        ({"outline": 1}, "There is no parameter 'outline'; notebooks/PARAMETERS.md lists them."),
        ({"padding": "ring"}, "padding is 'ring', but it must be one of 'same', 'reflect'."),
    ],
)
def test_a_wrong_value_is_one_sentence(value, sentence):
    assert refusal(TrainParameters, **value) == sentence


def test_all_problems_are_told_at_once():
    told = refusal(TrainParameters, crop=0.6, epohs=3, batch_size=0)
    assert [line.split()[0] for line in told.splitlines()] == ["crop", "batch_size", "There"]


def test_a_whole_number_is_a_number():
    assert TrainParameters.from_mapping({"crop": 0, "rotation": 10}).crop == 0.0


def test_artifacts_that_cannot_be_are_refused():
    assert "'marker' cannot be at the location 'global'" in refusal(DataParameters, artifact_location="global")
    p = DataParameters.from_mapping({"artifact_location": "inside", "artifact_kinds": "marker, tubing"})
    assert p.kinds() == ("marker", "tubing")


def test_the_second_arm_must_crop_more_than_the_first():
    assert refusal(CroppingParameters, crop=0.2) == "crop_after is 0.125, but it must be above crop, which is 0.2."
    assert CroppingParameters.from_mapping({"crop": 0.2, "crop_after": 0.3}).crop_after == 0.3


@pytest.mark.parametrize("cls", [ShortcutParameters, CroppingParameters])
def test_the_tests_are_of_networks_that_see_whole_images_under_true_labels(cls):
    assert refusal(cls, keep="without_border").startswith(
        "keep is 'without_border', but the networks tested here see whole images"
    )
    assert "leave it at 'true'" in refusal(cls, labels="permuted")
    assert cls().probe(keep="without_border", labels="permuted").keep == "without_border"


@pytest.mark.parametrize("cls", [ShortcutParameters, CroppingParameters])
def test_a_border_whose_seam_would_cover_the_whole_image_is_refused(cls):
    assert "leaves nothing of the image; give at most 0.4." in refusal(cls, border=0.45)
    assert cls.from_mapping({"border": WIDEST_BORDER}).border * (1 + geometry.SEAM) == 0.5


def test_parameters_cannot_be_changed_afterwards():
    with pytest.raises(ValueError, match="frozen"):
        TrainParameters().crop = 0.1


def test_none_is_filled_in_by_the_kind_of_data_as_described():
    optional = {name: field for name, field in DataParameters.model_fields.items() if field.default is None}
    assert (optional.pop("artifact_rho").description or "").endswith("None: 0.95 phantom, none in files")
    for artifact_rho, data, expected in ((None, "phantom", 0.95), (None, "images", None), (0.0, "images", 0.0)):
        for cls in (DataParameters, TrainParameters):
            assert cls(data=data, artifact_rho=artifact_rho).resolved().artifact_rho == expected
    assert set(optional) == {"image_size"}
    words = re.search(r"None: (\d+) phantom, (\d+) files, (\d+) large$", optional["image_size"].description)
    phantom, files, large = map(int, words.groups())
    assert TrainParameters(recipe="large").side == large
    for cls in (DataParameters, AuditParameters, TrainParameters):
        assert (cls().resolved().image_size, cls(data="images").resolved().image_size) == (phantom, files)
        assert cls(image_size=36).resolved().image_size == cls(image_size=36).side == 36


def test_a_size_of_which_the_maps_would_not_cover_the_last_pixels_is_refused_before_a_training():
    for side, near in ((150, "144 or 152"), (33, "32 or 34"), (500, "480 or 512")):
        with pytest.raises(InputError, match=f"image_size is {side}, but .* give {near}"):
            TrainParameters(image_size=side).resolved()
    assert AuditParameters(image_size=150).resolved().side == 150  # no network
    with pytest.raises(InputError, match="probe_size is 90, but .* cells of 4 px: give 88 or 92"):
        ShortcutParameters(probe_size=90).resolved()


FILLED_IN = (  # by data and recipe: side, channels of the first block, epochs
    ("phantom", "plain", (64, 16, 16)),
    ("images", "plain", (128, 32, 32)),
    ("phantom", "swap", (64, 16, 16)),
    ("images", "swap", (128, 32, 32)),
    ("phantom", "large", (224, 32, 32)),
    ("images", "large", (224, 32, 32)),
)


@pytest.mark.parametrize(("data", "recipe", "expected"), FILLED_IN)
def test_a_recipe_fills_in_what_is_none(data, recipe, expected):
    p = TrainParameters.from_mapping({"data": data, "recipe": recipe})
    filled = p.resolved()
    assert (filled.image_size, filled.width, filled.epochs) == expected and p.side == expected[0]
    assert filled.resolved() == filled
    left = {name for name, value in filled.model_dump().items() if value is None}
    assert left == ({"artifact_rho"} if data == "images" else set())
    changed = {name for name in TrainParameters.model_fields if getattr(p, name) != getattr(filled, name)}
    assert changed - {"artifact_rho"} == {"image_size", "width", "epochs"}


@pytest.mark.parametrize("name", ["image_size", "width", "epochs"])
@pytest.mark.parametrize(("data", "recipe", "expected"), FILLED_IN)
def test_a_given_value_wins_over_the_recipe(data, recipe, expected, name):
    filled = TrainParameters.from_mapping({"data": data, "recipe": recipe, name: 36}).resolved()
    others = dict(zip(("image_size", "width", "epochs"), expected, strict=True)) | {name: 36}
    assert {other: getattr(filled, other) for other in others} == others
    assert filled.side == filled.image_size


def test_every_recipe_can_be_chosen_and_holds_what_is_allowed():
    choices = get_args(TrainParameters.model_fields["recipe"].annotation)
    assert {PHANTOM, *choices} - {"auto"} == set(RECIPES)
    for values in RECIPES.values():
        assert TrainParameters.from_mapping(values).resolved().model_dump().items() >= values.items()


def test_a_run_by_recipe_is_the_run_with_its_values_written_out():
    by_recipe = TrainParameters(data="images", recipe="large").resolved()
    written_out = TrainParameters(data="images", **RECIPES["large"]).resolved()
    assert identity(by_recipe) == identity(written_out)
    assert identity(by_recipe) != identity(TrainParameters(data="images").resolved())


def test_what_changes_nothing_makes_no_other_run():
    waiting = {"data": "images", "keep_epoch": "best"}
    last, sooner = TrainParameters(data="images"), TrainParameters(data="images", patience=2)
    assert identity(last.resolved()) == identity(sooner.resolved())  # the last epoch is kept: nothing is waited for
    assert identity(TrainParameters(**waiting)) != identity(TrainParameters(**waiting, patience=2))


def test_the_swap_recipe_trains_with_swaps_and_02_takes_it_for_files():
    chosen = TrainParameters.from_mapping({"data": "images", "recipe": "swap"})
    assert {name: getattr(chosen, name) for name in SWAP} == SWAP and chosen.swap != "none"
    named = TrainParameters.from_mapping({"data": "images", **SWAP})
    assert identity(chosen.resolved()) == identity(named.resolved())
    assert TrainParameters.from_mapping({"recipe": "swap", "swap": "border"}).swap == "border"
    assert "say what is swapped" in refusal(TrainParameters, recipe="swap", swap="none")
    of_02 = {
        "swap": [{"data": "images"}, {"data": "images", "recipe": "auto"}, {"recipe": "swap"}],
        "plain": [{}, {"data": "images", "recipe": "plain"}, {"data": "images", "evidence_penalty": 0.1}],
    }
    for recipe, given in of_02.items():
        for one in given:
            found = RecipeParameters.from_mapping(one)
            assert found.recipe == recipe and found.swap == TrainParameters.from_mapping({"recipe": recipe}).swap
    assert TrainParameters(data="images").swap == ShortcutParameters(data="images").swap == "none"


def test_probes_are_not_trained_with_swaps():
    p = ShortcutParameters.from_mapping({"swap": "outside_lungs", "swap_aligned": True, "consistency": 0.1})
    assert identity(p.probe().resolved()) == identity(ShortcutParameters().probe().resolved())


def test_probes_stay_small_whatever_the_recipe():
    for recipe in ("plain", "swap", "large"):
        p = ShortcutParameters(data="images", recipe=recipe).probe().resolved()
        assert (p.image_size, p.width, p.epochs, p.patience) == (96, 16, 8, 8)


def test_names_come_from_cells_that_only_assign_literals():
    cells = [
        "",
        "# Parameters\ncrop: float = 0.1  # meaning\nepochs = -3",
        "a = b = [1, (2, 'x')]",
        "zoom = float('nan')",
        'size: "int or None" = None',
        "p = load(crop)",
        "epohs = 3\nprint(epohs)",
        "n = n + 1",
        "%matplotlib inline",
        "x: int",
        "first, second = 1, 2",
        "p.crop = 3",
        "PAPERMILL_INPUT_PATH = 'in.ipynb'",
    ]
    assert literal_assignments(cells, set()) == ["crop", "epochs", "a", "b", "zoom", "size"]


def test_a_cell_corrected_and_run_again_replaces_its_earlier_wording():
    known = {"crop", "epochs", "seed"}
    wrong, right = "crop = 0\nepohs = 3", "crop = 0\nepochs = 3"
    assert literal_assignments([wrong, right], known) == ["crop", "epochs"]
    assert literal_assignments([right, wrong], known) == ["crop", "epochs", "epohs"]
    assert literal_assignments(["crop = 0\nseed = 1\nepohs = 3", "crop = 1"], known) == [
        "crop",
        "seed",
        "epohs",
    ]
    assert literal_assignments(["epohs = 3", right], known) == ["epohs", "crop", "epochs"]


@pytest.fixture
def shell():
    InteractiveShell.clear_instance()
    settings = Config()
    settings.HistoryManager.hist_file = ":memory:"
    yield InteractiveShell.instance(config=settings)
    InteractiveShell.clear_instance()


def test_a_notebook_reads_its_cells_in_any_order_of_work(shell):
    def run(*cells):
        for cell in cells:
            result = shell.run_cell(cell, store_history=True)
        return result

    read = "from cnn_xray.parameters import RecipeParameters\np = RecipeParameters.from_notebook()"
    assert "rotation" not in RecipeParameters.shown
    assert run(parameters_cell(RecipeParameters), "crop = 0\nseed = 3\nrotation = 4", read).success
    assert shell.user_ns["p"] == RecipeParameters(crop=0, seed=3, rotation=4)
    run("figure = [1, 2][0]", "seed = 4", read)
    assert shell.user_ns["p"].seed == 4
    failed = run("epohs = 3", read)
    assert isinstance(failed.error_in_exec, InputError)
    assert failed.error_in_exec._render_traceback_() == [
        "InputError: There is no parameter 'epohs'; the nearest one is 'epochs'."
    ]
    run("del epohs", read)
    assert shell.user_ns["p"].seed == 4


def test_outside_a_notebook_there_is_nothing_to_read():
    InteractiveShell.clear_instance()
    with pytest.raises(InputError, match="use from_mapping"):
        TrainParameters.from_notebook()


@pytest.mark.parametrize("cls", NOTEBOOKS.values())
def test_papermill_lists_what_a_notebook_is_about_and_points_to_the_rest(cls, tmp_path):
    (name,) = (key for key, value in NOTEBOOKS.items() if value is cls)
    listed = inspect_notebook(write(tmp_path / f"{name}.ipynb"))
    assert list(listed) == cls.shown and 7 <= len(cls.shown) <= 20
    for key, told in listed.items():
        assert told["help"].startswith(cls.model_fields[key].description)
        assert told["inferred_type_name"] != "None"
    assert listed.get("image_size", {"inferred_type_name": "int or None"})["inferred_type_name"] == "int or None"
    assert listed["data"]["default"] == '"phantom"'
    assert told["help"].endswith("; all parameters: notebooks/PARAMETERS.md")


@pytest.mark.parametrize("cls", NOTEBOOKS.values())
def test_the_parameters_cell_holds_the_defaults_of_what_is_shown(cls):
    source = parameters_cell(cls)
    space: dict = {}
    exec(source, space)
    assert {name: space[name] for name in cls.shown} == {name: cls.model_fields[name].default for name in cls.shown}
    assert literal_assignments([source], set()) == cls.shown
    assert max(map(len, source.splitlines())) <= 110


def test_choices_are_told_beside_the_meaning():
    assert 'tta: str = "shifts"  # logits are the mean over (shifts: both ways, and flipped): none | flip | shifts' in (
        parameters_cell(RecipeParameters)
    )


def test_the_page_lists_every_parameter_once_with_the_notebooks_that_know_it():
    rows = [line.strip("|").split(" | ") for line in parameters_page().splitlines() if line.startswith("| `")]
    assert len({tuple(cells[:-1]) for cells in rows}) == len(rows)
    told = {(cells[0].strip(" `"), cells[2]): cells[1:] for cells in rows}
    assert {name for name, _ in told} == {name for cls in NOTEBOOKS.values() for name in cls.model_fields}
    assert told["crop", "`0.0`"] == [
        "a number at least 0 and below 0.5",
        "`0.0`",
        "fraction cut from each side of the frame",
        "**01** **02** **03** **04** **05** 06 appendix ",
    ]
    assert told["zoom", "`0.15`"][2:] == ["largest random \\|log scale\\|", "**02** 03 04 05 06 **appendix** "]
    assert [default for name, default in told if name == "layer"] == ["`'relu0a'`"]


def test_cells_and_page_are_written_anew(tmp_path):
    file = write(tmp_path / "02_train.ipynb")
    whole = file.read_text()
    file.write_text(whole.replace("crop: float = 0.0", "ring: float = 0.5"))
    subprocess.run([sys.executable, ROOT / "assets" / "refresh_parameters.py", tmp_path], check=True)
    assert file.read_text() == whole
    assert (tmp_path / "PARAMETERS.md").read_text() == parameters_page()


def test_later_notebooks_know_all_that_training_knows():
    train = list(TrainParameters.model_fields)
    for cls in (AttentionParameters, CroppingParameters):
        assert list(cls.model_fields)[: len(train)] == train
