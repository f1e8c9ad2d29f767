"""The command line refuses before it starts, says why in a sentence, and ends with a telling status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from tiny_notebooks import write

from cnn_xray.report import build
from cnn_xray.report.cli import BAD_INPUT, main, parse_value
from cnn_xray.verdict import QUESTIONS

ROOT = Path(build.__file__).parents[2]


@pytest.fixture
def project(tmp_path, monkeypatch):
    write(tmp_path / "notebooks" / "01_data_audit.ipynb", "print(f'crop {p.crop}')")
    write(tmp_path / "notebooks" / "02_train.ipynb", "print(f'epochs {p.epochs}, crop {p.crop}')")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_kernel(monkeypatch):
    def refuse(*_):
        raise AssertionError("a kernel was about to start")

    monkeypatch.setattr(build, "execute", refuse)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("0.1", 0.1),
        ("1e-3", 0.001),
        ("true", True),
        ("False", False),
        ("None", None),
        ("null", None),
        ("none", "none"),
        ("square", "square"),
        ("../shared/data", "../shared/data"),
    ],
)
def test_values_are_read_as_papermill_reads_them(text, value):
    read = parse_value(text)
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize("command", [["run", "notebooks/02_train.ipynb"], ["report"]])
@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["crop", "0.6"], "crop is 0.6, but it must be a number at least 0 and below 0.5."),
        (["epochs", "0"], "epochs is 0, but it must be a whole number at least 1 and at most 500, or None."),
        (["epohs", "3"], "There is no parameter 'epohs'; the nearest one is 'epochs'."),
        (["zoom", "nan"], "zoom is nan, but it must be a number at least 0 and at most 1."),
        (
            ["data", "nowhere"],
            "No data at nowhere: give a chest_xray folder, a manifest CSV, or the word phantom.",
        ),
    ],
)
def test_bad_parameters_are_refused_before_a_kernel_starts(project, no_kernel, capsys, command, given, sentence):
    assert main([*command, "-p", *given]) == 2
    told = capsys.readouterr()
    assert told.err == sentence + "\n"
    assert told.out == ""
    assert [file.name for file in project.iterdir()] == ["notebooks"]


def test_what_cannot_be_is_refused_before_a_kernel_starts(project, no_kernel, capsys):
    def refusal(*arguments):
        assert main(arguments) == 2
        return capsys.readouterr().err

    assert refusal("report", "--data", "nowhere").startswith("No data at nowhere")
    assert refusal("report", "--notebooks", "09").startswith("No notebook's name begins with '09'")
    assert refusal("report", "--name", "a/b").startswith("The report's name is 'a/b'")
    assert refusal("run", "notebooks/09.ipynb").endswith("notebooks/09.ipynb.\n")
    source = "notebooks/02_train.ipynb"
    assert "is the notebook itself" in refusal("run", source, "-o", source)
    Path("reports").write_text("")
    assert "reports is a file" in refusal("report")
    Path("broken.ipynb").write_text("{")
    assert "broken.ipynb cannot be read as a notebook" in refusal("run", "broken.ipynb")
    nbformat.write(nbformat.v4.new_notebook(), "foreign.ipynb")
    assert "foreign has no cell like p = TrainParameters.from_notebook()" in refusal("run", "foreign.ipynb")


def test_run_executes_a_notebook_with_its_parameters(project, capsys):
    copy = write(project / "mine.ipynb", "print(f'epochs {p.epochs}, crop {p.crop}')", kind="02_train")
    assert main(["run", str(copy), "-p", "epochs", "3", "-p", "crop", "0"]) == 0
    assert capsys.readouterr().out.splitlines() == ["epochs 3, crop 0.0", "mine-epochs3-executed.ipynb"]
    executed = nbformat.read(project / "mine-epochs3-executed.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text == "epochs 3, crop 0.0\n"
    Path("more.yaml").write_text("{epochs: 4, crop: 0.2, seed: 5}")
    assert main(["run", str(copy), "-f", "more.yaml", "-y", "crop: 0.1", "-p", "epochs", "6", "-o", "it.ipynb"]) == 0
    assert capsys.readouterr().out.splitlines() == ["epochs 6, crop 0.1", "it.ipynb"]
    assert not list(project.glob("*-failed.ipynb"))


def test_a_dry_run_says_what_would_be_done_and_does_nothing(project, no_kernel, capsys):
    assert main(["report", "--dry-run", "-p", "epochs", "3"]) == 0
    assert capsys.readouterr().out.splitlines() == ["01_data_audit", "02_train n_seeds=1 epochs=3"]
    assert main(["report", "--dry-run", "--full", "-p", "epochs", "3"]) == 0
    assert capsys.readouterr().out.splitlines() == ["01_data_audit", "02_train epochs=3"]
    assert main(["run", "notebooks/02_train.ipynb", "--dry-run", "-y", "{crop: 0.1}"]) == 0
    assert capsys.readouterr().out.splitlines() == ["02_train crop=0.1"]
    for given in (["-y", "[1, 2"], ["-y", "3"], ["-f", "nothing.yaml"]):
        assert main(["run", "notebooks/02_train.ipynb", "--dry-run", *given]) == 2
        assert "-f and -y take YAML of names and values" in capsys.readouterr().err


def test_report_gives_each_notebook_the_parameters_it_knows(project, capsys):
    assert main(["report", "-p", "crop", "0.1", "-p", "epochs", "3", "--name", "try", "--out", "out"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "crop 0.1" in lines and "epochs 3, crop 0.1" in lines
    assert (project / "out" / "try" / "index.html").exists()


def test_a_quick_report_trains_each_network_once_and_replaces_no_whole_one(project, capsys):
    for asked, place, seeds, told in (
        ([], "reports/quick/phantom-02", 1, "A quick report"),
        (["--full"], "reports/phantom-02", 6, "A full report"),
        (["-p", "n_seeds", "2"], "reports/quick/phantom-02-n_seeds2", 2, "A quick report"),
    ):
        write(project / "notebooks" / "02_train.ipynb", "print('seeds', p.n_seeds)")
        assert main(["report", "--notebooks", "02", *asked]) == 0
        assert f"seeds {seeds}" in capsys.readouterr().out.splitlines()
        assert told in Path(place, "index.html").read_text()


def test_a_failure_is_told_in_a_sentence_and_kept_in_a_log(project, capsys):
    write(project / "notebooks" / "02_train.ipynb", "1 / 0")
    for command, log in (
        (["report", "--notebooks", "02", "--full"], Path("reports/failure.log")),
        (["run", "notebooks/02_train.ipynb", "-o", "out.ipynb"], Path("out.log")),
    ):
        assert main(command) == 1
        assert capsys.readouterr().err.splitlines() == [
            "02_train failed in cell 3: ZeroDivisionError: division by zero",
            f"The traceback is in {log}.",
        ]
        assert "----> 1 1 / 0" in log.read_text()
    assert not Path("out.ipynb").exists() and not Path("reports/phantom-02").exists()
    for kept in ("out-failed.ipynb", "reports/phantom-02-02_train-failed.ipynb"):
        assert nbformat.read(kept, as_version=4).cells[-1].outputs[0].ename == "ZeroDivisionError"


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_the_notebook_as_far_as_it_had_come_and_no_kernel(project, blow):
    write(
        project / "notebooks" / "02_train.ipynb",
        "import os\nprint('kernel', os.getpid(), flush=True)\nwhile True: 1",
    )
    command = [sys.executable, "-m", "cnn_xray.report.cli", "report", "--full", "--notebooks", "02"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        line = process.stdout.readline()
        while line and not line.startswith("kernel"):
            line = process.stdout.readline()
        kernel = int(line.split()[1])
        process.send_signal(blow)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.splitlines() == [
        "",
        "Interrupted. What was there before is unchanged; finished runs are kept.",
    ]
    assert [file.name for file in (project / "reports").iterdir()] == ["phantom-02-02_train-failed.ipynb"]
    with pytest.raises(ProcessLookupError):
        os.kill(kernel, 0)


@pytest.mark.parametrize("arguments", [["--help"], ["report", "--help"], ["run", "--help"]])
def test_help_is_instant(arguments):
    code = (
        "import sys\nfrom cnn_xray.report.cli import main\n"
        f"try:\n    main({arguments!r})\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'tensorflow', 'keras', 'pandas', 'matplotlib', 'papermill'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "usage: cnn-xray" in done.stdout


def test_verdict_says_name_meaning_and_every_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CNN_XRAY_CACHE", str(tmp_path / "cache"))
    small = {"phantom_images": 160, "image_size": 32, "probe_size": 32, "epochs": 1, "probe_epochs": 1, "donors": 1}
    small |= {"probe_repeats": 1, "runs": tmp_path / "runs"}
    assert main(["verdict", *(word for name, value in small.items() for word in ("-p", name, str(value)))]) == 0
    told = capsys.readouterr().out
    for question in QUESTIONS:
        assert f"  {question}: " in told
    assert "Of the network border-rho0.95-32px-crop0-seed0-" in told and "counts from 0.02" in told
    assert "Without lung masks" not in told


def test_verdict_refuses_bad_parameters_in_a_sentence(capsys):
    assert main(["verdict", "-p", "bordre", "0.1"]) == BAD_INPUT
    assert "bordre" in capsys.readouterr().err
