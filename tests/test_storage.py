"""Files are written whole or not at all, and trouble is told in a sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cnn_xray import InputError, storage


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def in_a_process(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    source = str(Path(storage.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": source},
    )


def test_home_is_the_nearest_folder_that_holds_the_module(tmp_path, monkeypatch):
    module = tmp_path / "cnn_xray" / "__init__.py"
    module.parent.mkdir()
    module.touch()
    inner = tmp_path / "thesis"
    (inner / "notebooks").mkdir(parents=True)
    (inner / "pyproject.toml").write_text('[project]\nname = "thesis"\n')
    monkeypatch.chdir(inner / "notebooks")
    assert storage.home() == tmp_path
    module.unlink()
    assert storage.home() == inner / "notebooks"


def test_a_path_is_looked_for_here_before_home(tmp_path, monkeypatch):
    (tmp_path / "cnn_xray").mkdir()
    (tmp_path / "cnn_xray" / "__init__.py").touch()
    here = tmp_path / "notebooks"
    (here / "images").mkdir(parents=True)
    monkeypatch.chdir(here)
    assert storage.resolve("images") == here / "images"
    assert storage.resolve("runs") == tmp_path / "runs"
    assert storage.resolve(tmp_path / "elsewhere") == tmp_path / "elsewhere"


def test_the_cache_can_be_put_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CNN_XRAY_CACHE", raising=False)
    assert storage.cache_folder() == tmp_path / "cache"
    monkeypatch.setenv("CNN_XRAY_CACHE", "/scratch/images")
    assert storage.cache_folder() == Path("/scratch/images")


def test_a_file_appears_at_the_end_and_not_before(tmp_path):
    path = tmp_path / "new" / "run.json"
    with storage.atomic_write(path) as handle:
        handle.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert names(path.parent) == ["run.json"]


@pytest.mark.parametrize("interruption", [ValueError, KeyboardInterrupt])
def test_an_interruption_keeps_the_old_file(tmp_path, interruption):
    path = tmp_path / "run.json"
    path.write_bytes(b"old")
    with pytest.raises(interruption), storage.atomic_write(path) as handle:
        handle.write(b"ha")
        raise interruption
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["run.json"]


def test_a_folder_appears_at_the_end_and_never_over_another(tmp_path):
    path = tmp_path / "run"
    with storage.atomic_folder(path) as folder:
        (folder / "model").write_text("first")
        assert names(tmp_path) == [folder.name]
        assert folder.name.startswith(".run.") and f".{os.getpid()}." in folder.name and folder.name.endswith(".tmp")
        path.mkdir()
        (path / "model").write_text("another process was faster")
    assert (path / "model").read_text() == "another process was faster"
    assert names(tmp_path) == ["run"]


def test_a_folder_replaces_another_when_told_to(tmp_path):
    path = tmp_path / "report"
    for text in ("first", "second"):
        with storage.atomic_folder(path, replace=True) as folder:
            (folder / f"{text}.html").write_text(text)
    assert names(path) == ["second.html"]
    with pytest.raises(KeyboardInterrupt), storage.atomic_folder(path, replace=True) as folder:
        raise KeyboardInterrupt
    assert names(path) == ["second.html"]
    assert names(tmp_path) == ["report"]


def test_kill_9_in_the_middle_of_a_replacement_loses_nothing(tmp_path):
    code = """if True:
        import os, pathlib, sys
        from cnn_xray import storage
        path = pathlib.Path(sys.argv[1], "run")
        rename = pathlib.Path.rename
        def killed(self, target):
            os.kill(os.getpid(), 9) if target == path else rename(self, target)
        pathlib.Path.rename = killed
        with storage.atomic_folder(path, replace=True) as folder:
            (folder / "new").touch()"""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "old").touch()
    assert in_a_process(code, tmp_path).returncode == -signal.SIGKILL
    assert "run" not in names(tmp_path) and len(names(tmp_path)) == 2
    with storage.atomic_folder(tmp_path / "another"):
        assert names(tmp_path / "run") == ["old"]
    assert names(tmp_path) == ["another", "run"]


def test_of_two_first_replacements_at_once_the_later_stays(tmp_path, monkeypatch):
    path, rename, others = tmp_path / "run", Path.rename, ["first"]

    def beside_another(self, target):
        if target == path and others:
            path.mkdir()
            (path / others.pop()).touch()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", beside_another)
    with storage.atomic_folder(path, replace=True) as folder:
        (folder / "later").touch()
    assert names(path) == ["later"] and names(tmp_path) == ["run"] and not others


def test_a_full_disk_is_a_sentence_and_leaves_the_old_file(tmp_path):
    (tmp_path / "cache.npy").write_bytes(b"old")
    code = """if True:
        import resource, sys
        from pathlib import Path
        from cnn_xray import InputError
        from cnn_xray.storage import atomic_folder, atomic_write
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        for number in range(2):
            try:
                if number == 0:
                    with atomic_write(Path(sys.argv[1], "cache.npy")) as handle:
                        handle.write(bytes(5000))
                else:
                    with atomic_folder(Path(sys.argv[1], "run")) as folder:
                        (folder / "model").write_bytes(bytes(5000))
            except InputError as error:
                print(error)
    """
    done = in_a_process(code, tmp_path)
    assert done.returncode == 0, done.stderr
    sentences = done.stdout.splitlines()
    assert len(sentences) == 2
    for sentence in sentences:
        assert sentence.startswith(f"Cannot write into {tmp_path}: the file would be larger")
    assert names(tmp_path) == ["cache.npy"]
    assert (tmp_path / "cache.npy").read_bytes() == b"old"


def test_hdf5_reports_a_full_disk_in_words(tmp_path):
    with pytest.raises(InputError, match="the disk is full"), storage.atomic_folder(tmp_path / "run"):
        raise OSError("Can't write data (errno = 28, error message = 'No space left on device')")


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "runs").write_text("")
    for path in (tmp_path / "runs" / "a.json", tmp_path / "runs" / "deep" / "a.json"):
        with pytest.raises(InputError, match="runs is a file"), storage.atomic_write(path):
            pass
    with pytest.raises(InputError, match="runs is a file"), storage.atomic_folder(tmp_path / "runs"):
        pass


def test_a_read_only_folder_is_named(tmp_path):
    code = """if True:
        import os, sys
        from pathlib import Path
        from cnn_xray import InputError
        from cnn_xray.storage import atomic_folder, atomic_write
        locked = Path(sys.argv[1], "locked")
        locked.mkdir(mode=0o555)
        if os.geteuid() == 0:  # root may write everywhere
            os.setuid(65534)
        for block in (atomic_write(locked / "a.json"), atomic_folder(locked / "run")):
            try:
                with block:
                    pass
            except InputError as error:
                print(error)
    """
    done = in_a_process(code, tmp_path)
    assert done.returncode == 0, done.stderr
    told = f"Cannot write into {tmp_path / 'locked'}: it is read-only."
    assert [line.startswith(told) for line in done.stdout.splitlines()] == [True, True]


def test_trouble_with_another_file_keeps_its_own_words(tmp_path):
    with pytest.raises(PermissionError), storage.atomic_write(tmp_path / "a.json"):
        raise PermissionError(13, "Permission denied", "/elsewhere/image.jpeg")
    assert names(tmp_path) == []


def test_kill_9_leaves_nothing_that_looks_finished(tmp_path):
    code = """if True:
        import os, pathlib, sys
        from cnn_xray import storage
        here = pathlib.Path(sys.argv[1])
        with storage.atomic_folder(here / "run") as folder, storage.atomic_write(here / "table.csv"):
            (folder / "model").touch()
            os.kill(os.getpid(), 9)"""
    assert in_a_process(code, tmp_path).returncode == -signal.SIGKILL
    killed, elsewhere = names(tmp_path), ".run.another-machine.1.ab.tmp"
    assert len(killed) == 2
    (tmp_path / elsewhere).mkdir()
    with storage.atomic_folder(tmp_path / "other") as folder:
        (mine,) = set(names(tmp_path)) - {elsewhere}
        with storage.atomic_folder(tmp_path / "third"):  # what a living process writes stays
            assert mine == folder.name and mine in names(tmp_path)
    assert names(tmp_path) == sorted([elsewhere, "other", "third"])
