"""A report is complete, self-contained and stable; a failure leaves the earlier one as it was."""

from __future__ import annotations

import io
import json
import re
import sys
import types
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from tiny_notebooks import write

from cnn_xray import InputError
from cnn_xray.report import build
from cnn_xray.report.build import NotebookError

AUDIT = "from cnn_xray.report import words\nwords.headline('Size-only <probe>', '0.895 [0.868, 0.920]', 'Seen.')"
LOG = """import sys
for epoch in range(3):
    print(f'epoch {epoch}', flush=True)
print('/home/some' + 'body/warning.py:3: a warning', file=sys.stderr)"""
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
RUN = """import json, pathlib
from cnn_xray.report import words
folder = pathlib.Path(p.runs) / f'seed{p.seed}'
folder.mkdir(parents=True, exist_ok=True)
by = {'device': 'Abacus', 'git_commit': 'c0ffee', 'versions': {}}
what = {'data': p.data, 'seed': p.seed, 'crop': p.crop, 'keep': 'all', 'labels': 'true'}
metrics = {'test_auc': 0.975, 'train_seconds': 1}
record = {'parameters': what, 'metrics': metrics, 'data_fingerprint': 'da7a',
          'trained_by': by, 'measured_by': by | {'git_commit': 'decade', 'device': 'Slide rule'}}
(folder / 'run.json').write_text(json.dumps(record))
words.uses_runs([folder.name, folder.name])
words.uses_runs([folder.name])"""
FIGURE = """from matplotlib import pyplot as plt
figure, axes = plt.subplots()
axes.set_title('Two "dots" & a line')
words.show(figure)
words.say(f'''
    ## What it *shows*
    A crop of **{p.crop:g}**.
    ''')"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    write(folder / "notebooks" / "01_data_audit.ipynb", AUDIT)
    write(folder / "notebooks" / "02_train.ipynb", LOG, RUN, FIGURE)
    return folder


def report_of(project: Path, only=(), **given) -> tuple[Path, str]:
    terminal = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        index = build.build(given, "", Path("reports"), only, terminal)
    return project / index.parent, terminal.getvalue()


@pytest.fixture(scope="module")
def built(project):
    return report_of(project, crop=0.1)


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_the_folder_holds_notebooks_pages_index_and_runs(built):
    folder, _ = built
    assert folder.name == "phantom-crop0.1"
    assert set(files(folder)) == {
        "01_data_audit.html",
        "01_data_audit.ipynb",
        "02_train.html",
        "02_train.ipynb",
        "glossary.html",
        "index.html",
        "runs.csv",
    }
    assert [file.name for file in folder.parent.iterdir()] == [folder.name]


def test_the_terminal_shows_notebooks_and_epochs(built):
    _, terminal = built
    lines = terminal.splitlines()
    assert lines[0] == "[1/2] 01_data_audit …"
    assert re.fullmatch(r"\[1/2\] 01_data_audit: \d+ s", lines[1])
    assert lines[2:6] == ["[2/2] 02_train …", "epoch 0", "epoch 1", "epoch 2"]
    assert re.fullmatch(r"reports/phantom-crop0.1/index.html \(\d+ s\)", lines[-1])


def test_runs_csv_has_one_row_a_run(built):
    table = pd.read_csv(built[0] / "runs.csv")
    told = table[["run", "arm", "role", "seed", "crop", "test_auc"]].to_dict("split")["data"]
    assert told == [["seed0", "crop 0.1", "main", 0, 0.1, 0.975]]


def test_runs_csv_of_no_run_is_an_empty_table(tmp_path):
    write(tmp_path / "notebooks" / "01_data_audit.ipynb", AUDIT)
    folder, _ = report_of(tmp_path)
    assert list(pd.read_csv(folder / "runs.csv").columns) == ["run"]
    assert "<h2>Runs</h2>" not in (folder / "index.html").read_text()


def test_the_index_gives_headlines_parameters_and_device(built):
    index = (built[0] / "index.html").read_text()
    assert "at the disease, or at the scanner?" in index
    assert "Size-only &lt;probe&gt;" in index
    assert '<div class="value">0.895 <span class="interval">[0.868, 0.920]</span></div>' in index
    assert '<a href="02_train.html">About 02_train</a>' in index
    assert "<code>crop = 0.1</code>." in index
    assert ">seed0</td>" in index and ">0.975</td>" in index
    made_with = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", index))
    assert made_with.pop("versions").startswith("Python 3.")
    assert made_with == {
        "trained on": "Abacus",
        "trained by code at commit": "c0ffee",
        "measured by code at commit": "decade",
        "data": "da7a",
    }
    assert "Not a medical device" in index


def test_a_page_names_the_command_that_makes_its_figures(built):
    page = (built[0] / "02_train.html").read_text()
    assert "<code>cnn-xray run notebooks/02_train.ipynb -p crop 0.1</code>" in page


def test_pages_need_nothing_but_themselves(built):
    for file in built[0].glob("*.html"):
        page = file.read_text()
        assert "http://" not in page and "https://" not in page
        assert page.count("<script") == page.count("<script>") == 1 and "@import" not in page and "<link" not in page
        for target in re.findall(r'(?:src|href)="([^"]*)"', page):
            name, _, anchor = target.partition("#")
            assert name.startswith("data:image/") or (built[0] / (name or file.name)).exists(), target
            assert not anchor or f'id="{anchor}"' in (built[0] / (name or file.name)).read_text(), target


def test_code_and_logs_are_folded_and_warnings_left_out(built):
    page = (built[0] / "02_train.html").read_text()
    folded = re.findall(r"<details.*?</details>", page, flags=re.DOTALL)
    open_text = re.sub(r"<details.*?</details>", "", page, flags=re.DOTALL)
    assert any("epoch 2" in part and "log, 3 lines" in part for part in folded)
    assert "epoch 2" not in open_text and "learning_rate" not in open_text and "words" not in open_text
    assert 'What it <em>shows</em><a class="anchor-link"' in open_text and "<strong>0.1</strong>" in open_text
    assert "alt='Two \"dots\" &amp; a line'" in open_text
    assert "/home/somebody" not in page


def test_a_page_has_its_contents_numbered_figures_and_its_neighbours(built):
    pages = [(built[0] / f"{name}.html").read_text() for name in ("01_data_audit", "02_train")]
    assert pages[1].count('<li><a href="#What-it-shows">What it shows</a></li>') == 2  # beside, and folded
    assert "On this page" not in pages[0]
    assert '<figcaption>Two "dots" &amp; a line</figcaption>' in pages[1]
    assert 'href="02_train.html" rel="next">About 02_train →' in pages[0] and 'rel="prev"' not in pages[0]
    assert 'href="01_data_audit.html" rel="prev">← About 01_data_audit' in pages[1] and 'rel="next"' not in pages[1]


def test_the_overview_begins_with_answer_questions_and_pictures(tmp_path, monkeypatch):
    code = """from cnn_xray.report.words import headline, show
from matplotlib import pyplot as plt
headline("Verdict", "border shortcut", "A crop would help.", "answer")
told = {"answer": "not shown", "estimate": 0.3, "low": 0.1, "high": 0.5, "counts": 0.2}
headline("Used", "0.30 [0.10, 0.50]", "R", "question", **told)
headline("Pages read", "3", "as before")
show(plt.figure(), "Before and after", "hero")"""
    write(tmp_path / "notebooks" / "04_shortcut_tests.ipynb", code)
    folder, _ = report_of(tmp_path)
    page = (folder / "index.html").read_text()
    places = [page.index(text) for text in ("border shortcut", "◐</span> not shown", "Before and after", "Pages read")]
    assert places == sorted(places)
    assert '<circle cx="60.0"' in page and 'x1="40.0" y1="0" x2="40.0"' in page  # of 0 to 0.5: the value, what counts
    assert "1 more figure<" in page and page.count("data:image/png;base64,") == 1


def test_executed_notebooks_tell_nothing_of_this_machine(built, project):
    for file in built[0].glob("*.ipynb"):
        text = file.read_text()
        assert str(project) not in text and sys.prefix not in text and "/home/somebody" not in text
        notebook = nbformat.read(file, as_version=4)
        nbformat.validate(notebook)
        assert set(notebook.metadata) == {"kernelspec", "language_info"}
        assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)
        assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")


def test_the_same_again_is_the_same_to_the_byte(built, project):
    before = files(built[0])
    assert files(report_of(project, crop=0.1)[0]) == before


def test_a_failure_leaves_the_earlier_report(built, project):
    before = files(built[0])
    failing = write(project / "notebooks" / "03_attention.ipynb", "from cnn_xray import InputError")
    try:
        for code, kind, sentence in (
            (
                "raise InputError('No masks in images: add lung_masks.')",
                InputError,
                "^03_attention: No masks in",
            ),
            ("1 / 0", NotebookError, "^03_attention failed in cell 4: ZeroDivisionError: division by zero$"),
            ("import os\nos._exit(9)", NotebookError, "^The kernel of 03_attention died"),
        ):
            write(failing, "from cnn_xray import InputError", code)
            with pytest.raises(kind, match=sentence) as caught:
                report_of(project, only=["03"])
        assert not isinstance(caught.value, InputError)
        assert files(built[0]) == before
        kept = nbformat.read(built[0].parent / "phantom-03-03_attention-failed.ipynb", 4)
        assert "1 / 0" in kept.cells[-1].source or "_exit" in kept.cells[-1].source
        write(failing, "1 / 0")
        with pytest.raises(NotebookError):
            report_of(project)
        unfinished = built[0].parent / "phantom-unfinished"
        assert {"01_data_audit.html", "02_train.html", "index.html"} <= set(files(unfinished))
        assert "03_attention" not in (unfinished / "index.html").read_text()
    finally:
        failing.unlink()
    assert files(built[0]) == before


def test_a_report_with_other_parameters_is_another_report():
    def named(usual=types.MappingProxyType({}), **given):
        one = build.Plan("02_train", None, given, build.NOTEBOOKS["02_train"].from_mapping(given))
        return build.suffix([one], usual)

    assert named() == named(seed=0, data="images", runs="elsewhere") == ""
    assert named(seed=3, crop=0.1) == "-crop0.1-seed3"
    assert named(n_seeds=1) == "-n_seeds1" and named({"n_seeds": 1}, n_seeds=1) == ""
    assert named({"n_seeds": 1}, n_seeds=6) == "-n_seeds6"
    assert named(recipe="plain") == "" and named(recipe="plain", data="images") == "-recipeplain"  # auto is swap there
    assert named(swap="outside_lungs", data="images") == "-swapoutside_lungs"  # that alone is not the recipe
    assert named(artifact_kinds="marker, text") == "-artifact_kindsmarker_text"
    long = [named(artifact_kinds=",".join(["marker"] * n)) for n in (20, 21)]
    assert long[0] != long[1] and max(map(len, long)) <= 80


def test_notebooks_are_picked_by_how_their_names_begin(project, monkeypatch):
    monkeypatch.chdir(project)
    assert [path.stem for path in build.chosen_notebooks(["02"])] == ["02_train"]
    with pytest.raises(InputError, match="begins with '07'; there are 01_data_audit, 02_train"):
        build.chosen_notebooks(["01", "07"])


def test_appendices_follow_where_they_are_asked_for(tmp_path, monkeypatch):
    numbered, appendix = ["01_data_audit", "02_train"], "appendix_recipe_selection"
    for name in (appendix, *numbered):
        write(tmp_path / "notebooks" / f"{name}.ipynb")
    monkeypatch.chdir(tmp_path)
    for only, data, expected in (
        ([], "phantom", numbered),
        ([], "images", numbered),
        (["0", "appendix"], "images", [*numbered, appendix]),
        (["02"], "images", ["02_train"]),
        (["appendix"], "phantom", [appendix]),
    ):
        assert [path.stem for path in build.chosen_notebooks(only, data)] == expected


def test_a_report_is_named_after_its_data(tmp_path, monkeypatch):
    (tmp_path / "chest xray").mkdir()
    (tmp_path / "images.csv").touch()
    (tmp_path / "chest xray" / "manifest.csv").touch()
    monkeypatch.chdir(tmp_path / "chest xray")
    names = {"phantom": "phantom", ".": "chest-xray", "../chest xray/": "chest-xray", "../images.csv": "images"}
    assert {data: build.default_name(data) for data in names} == names
    assert build.default_name("manifest.csv") == "chest-xray"
    with pytest.raises(InputError, match="report's name is '../x'"):
        build.build({}, "../x", tmp_path, [], io.StringIO())


def test_the_kernel_is_this_interpreters_own(tmp_path, monkeypatch):
    spec = tmp_path / "share" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(
        json.dumps({"argv": ["false", "{connection_file}"], "display_name": "Python 3", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    write(tmp_path / "notebooks" / "01_data_audit.ipynb", "import sys\nprint(sys.executable)")
    _, terminal = report_of(tmp_path)
    assert sys.executable in terminal.splitlines()


def test_the_first_mention_of_a_term_links_to_the_glossary():
    html = (
        '<h2>The AUC</h2><p alt="AUC"><code>heat</code> An <b>AUC</b> of 1; AUC again, border-hot and border swap</p>'
        "<div>A <i>probe</i></div>"
    )
    linked = build.with_terms(html)
    terms = re.findall(r'<a class="term" href="glossary.html#([^"]+)" title="[^"]+">([^<]+)</a>', linked)
    assert terms == [("auc", "AUC"), ("border-swap", "border swap")]
    assert re.sub(r'<a class="term"[^>]*>([^<]+)</a>', r"\1", linked) == html


def test_every_word_of_the_glossary_has_a_place_and_a_meaning(built):
    page = (built[0] / "glossary.html").read_text()
    places = re.findall(r'<dt id="([^"]+)"><dfn>', page)
    assert len(places) == len(set(places)) > 20
    assert page.count("<dd>") == len(places) and "<dd></dd>" not in page


def test_a_chapter_says_in_a_line_what_it_is_about_and_how_long_it_takes():
    picture = nbformat.v4.new_output("display_data", {"image/png": PIXEL, "text/plain": "A pixel"})
    told = nbformat.v4.new_output("display_data", {"text/markdown": "word " * 390})
    text = "# 7 · Why?\n\nA *first* sentence\nover two lines, 0.5 of it. A second one."
    code = nbformat.v4.new_code_cell("", outputs=[told, picture])
    chapter = build.Chapter(None, nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text), code]))
    assert chapter.title == "7 · Why?" and chapter.lead == "A first sentence over two lines, 0.5 of it."
    assert chapter.minutes == 3
    assert chapter.thumbnail.startswith("data:image/jpeg;base64,")
    bare = build.Chapter(None, nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Only a heading")]))
    assert (bare.lead, bare.minutes, bare.thumbnail) == ("", 1, "")


def test_progress_counts_each_network_once(monkeypatch):
    clock = iter([0.0, 5.0, 60.0])
    monkeypatch.setattr(build, "time", types.SimpleNamespace(perf_counter=lambda: next(clock)))
    terminal = io.StringIO()
    plans = [build.Plan(name, None, {}, build.NOTEBOOKS[name]()) for name in ("01_data_audit", "02_train")]
    progress = build._Progress(terminal, plans)
    for text in (
        "one: training on 9 images\n",
        "epoch 1\n",
        "one: recorded already, reused\ntwo: recorded already, reused\n",
    ):
        progress.write(text)
    told = [line for line in terminal.getvalue().splitlines() if line.startswith("network ")]
    assert told == ["network 1 of at most 6", "network 2 of at most 6, about 5 min left"]
