"""The committed reports in a real browser: for whom, at which widths, and what is played with (make test-browser)."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REPORTS = [ROOT / "reports" / name for name in ("phantom", "kermany")]
PAGES = [page for report in (*REPORTS, ROOT / "reports" / "class") for page in sorted(report.glob("*.html"))]
AXE = ROOT / ".venv/axe/node_modules/axe-core/axe.min.js"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert found, f"No browser was found; install one of {', '.join(BROWSERS)}."
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page on which any error of a script fails the test."""
    page, errors = browser.new_page(viewport={"width": 1300, "height": 1000}), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert not errors


def address(file: Path) -> str:
    return file.resolve().as_uri()


def named(pages):
    return pytest.mark.parametrize("file", pages, ids=lambda file: f"{file.parent.name}/{file.stem}")


@named(PAGES)
@pytest.mark.parametrize(("width", "scheme"), [(1300, "light"), (390, "dark")])
def test_axe_finds_nothing_serious(file, width, scheme, page):
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.goto(address(file))
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    page.wait_for_timeout(200)  # the details open
    page.add_script_tag(path=AXE)
    found = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    told = [f"{one['id']}: {one['help']}: {node['html'][:200]}" for one in serious for node in one["nodes"][:3]]
    assert not told, "\n".join(told)


@named(PAGES)
def test_no_page_is_wider_than_a_phone(file, page):
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(address(file))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@named([report / "02_train.html" for report in REPORTS])
def test_the_threshold_slider_counts_the_test_images(file, page):
    page.goto(address(file))
    slider, said = page.locator("[data-play=threshold] input"), page.locator("[data-play=threshold] output")
    numbers = lambda: [int(one) for one in re.findall(r"(\d+) of (\d+)", said.inner_text()) for one in one]  # noqa: E731
    found, ill, alarms, well = numbers()
    slider.fill("0")
    assert numbers() == [ill, ill, well, well]
    slider.focus()
    page.keyboard.press("End")
    assert numbers()[0] <= found and numbers()[2] <= alarms
    before = slider.input_value()
    page.keyboard.press("ArrowLeft")
    assert float(slider.input_value()) < float(before)


@named([report / "index.html" for report in REPORTS])
def test_runs_are_sorted_and_filtered(file, page):
    page.goto(address(file))
    page.locator("summary", has_text="all runs").click()
    rows = page.locator("[data-play=sortable] tbody tr")
    column = page.locator("[data-play=sortable] thead th").all_inner_texts().index("test_auc")
    texts = lambda: [row.locator("td").nth(column).inner_text() for row in rows.all()]  # noqa: E731
    values = lambda: [float(text) for text in texts() if text != "–"]  # noqa: E731
    head = page.locator("th button", has_text="test_auc")
    head.click()
    assert values() == sorted(values())
    head.click()
    assert values() == sorted(values(), reverse=True)
    assert "–" not in texts()[: len(values())]  # missing ones come last
    page.locator("input[type=search]").fill("border")
    assert 0 < sum(row.is_visible() for row in rows.all()) < rows.count()
    assert all("border" in row.inner_text() for row in rows.all() if row.is_visible())


IMAGES = [page for report in REPORTS for page in sorted(report.glob("images-*.html"))]


@named([*(report / "index.html" for report in REPORTS), *IMAGES])
def test_images_are_compared_by_drag_and_by_key_and_cells_are_read(file, page):
    page.goto(address(file))
    box = page.locator("[data-play=maps]").first
    slider, canvas, said = box.locator("input[type=range]"), box.locator("canvas"), box.locator("output")
    drawn = lambda: canvas.evaluate("one => one.toDataURL()")  # noqa: E731
    page.wait_for_function("document.querySelector('[data-play=maps] output').textContent")
    shown = [drawn()]
    slider.focus()
    page.keyboard.press("ArrowRight")
    shown.append(drawn())
    edge, names = slider.bounding_box(), box.locator(".names span").all_inner_texts()
    stop = next(i for i, name in enumerate(names) if name.startswith("after")) / (len(names) - 1)
    page.mouse.move(edge["x"] + edge["width"] / 3, edge["y"] + edge["height"] / 2)
    page.mouse.down()
    page.mouse.move(edge["x"] + stop * (edge["width"] - 8) + 4, edge["y"] + edge["height"] / 2, steps=5)
    page.mouse.up()
    shown.append(drawn())
    assert len(set(shown)) == 3 and "cold by construction" in said.inner_text()
    edge = canvas.bounding_box()
    page.mouse.move(edge["x"] + edge["width"] / 2, edge["y"] + edge["height"] / 2)
    read = r"Row (\d+), column (\d+): −?\d\.\d{3} logits, for (NORMAL|PNEUMONIA)"
    hovered = re.search(read, said.inner_text())
    canvas.focus()
    page.keyboard.press("ArrowDown")
    moved = re.search(read, said.inner_text())
    assert int(moved[1]) == int(hovered[1]) + 1 and moved[2] == hovered[2]


@named(IMAGES)
def test_images_are_filtered_by_what_became_of_them(file, page):
    page.goto(address(file))
    box = page.locator("[data-play=maps]")
    page.wait_for_function("document.querySelector('[data-play=maps] output').textContent")
    choice, thumbs = box.locator("select"), box.locator(".thumbs button")
    shown = lambda: sum(thumb.is_visible() for thumb in thumbs.all())  # noqa: E731
    counts = []
    for option in choice.locator("option").all_inner_texts()[1:]:
        choice.select_option(option)
        counts.append(shown())
        assert option in box.locator("output").inner_text()
    choice.select_option("")
    assert sum(counts) == shown() == thumbs.count() > 1


@named(IMAGES)
def test_in_print_every_image_is_there_and_nothing_to_press(file, page):
    page.goto(address(file))
    page.wait_for_function("document.querySelector('[data-play=maps] output').textContent")
    page.emulate_media(media="print")
    assert not any(one.is_visible() for one in page.locator("input, select, nav").all())
    assert page.locator(".thumbs").evaluate("one => one.scrollHeight <= one.clientHeight")


@named(sorted((ROOT / "reports" / "class").glob("[0-9]*.html")))
def test_as_slides_each_fits_and_keys_turn_them(file, page):
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(address(file) + "#slides")
    main, count = page.locator("main"), page.locator("[data-slide]").count()
    for number in range(1, count + 1):
        assert main.get_attribute("data-slide-number") == f"{number} / {count}"
        assert page.evaluate("document.documentElement.scrollHeight <= innerHeight"), f"slide {number} scrolls"
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Home")
    assert main.get_attribute("data-slide-number") == f"1 / {count}"
    page.keyboard.press("Escape")
    page.wait_for_function("!document.body.classList.contains('slides')")


@named([report / "03_attention.html" for report in REPORTS])
def test_a_page_without_scripts_has_a_sentence_in_their_place(file, browser):
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(address(file))
    assert page.locator(".play p").all_inner_texts()
