"""Decoding every kind of file, naming every unreadable one, and the cache."""

import errno
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import ExifTags, Image

from cnn_xray import InputError, images
from cnn_xray.geometry import View

RAMP = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))


def near(found, expected, tolerance=3):
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= tolerance


KINDS = {
    "grey.png": Image.fromarray(RAMP),
    "colour.png": Image.fromarray(np.stack([RAMP] * 3, -1)),
    "cmyk.jpeg": Image.fromarray(np.stack([RAMP] * 3, -1)).convert("CMYK"),
    "alpha.png": Image.fromarray(np.stack([RAMP] * 3 + [np.full_like(RAMP, 255)], -1)),
    "sixteen.png": Image.fromarray(RAMP.astype(np.uint16) * 257),
    "palette.png": Image.fromarray(RAMP).convert("P"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_grey_values(tmp_path, kind):
    KINDS[kind].save(tmp_path / kind, quality=100)
    found, size = images.decode(tmp_path / kind, 64)
    assert size == (64, 64) and found.dtype == np.uint8
    near(found, RAMP)


def test_transparency_is_shown_on_black(tmp_path):
    alpha = np.full_like(RAMP, 255)
    alpha[:32] = 0
    Image.fromarray(np.stack([RAMP, RAMP, RAMP, alpha], -1)).save(tmp_path / "one.png")
    found, _ = images.decode(tmp_path / "one.png", 64)
    assert (found[:32] == 0).all()
    near(found[32:], RAMP[32:])


def test_a_large_jpeg_is_decoded_small_and_keeps_its_size(tmp_path):
    Image.fromarray(np.tile(RAMP, (16, 16))).save(tmp_path / "one.jpeg")
    found, size = images.decode(tmp_path / "one.jpeg", 64)
    assert size == (1024, 1024)
    assert found.shape[0] in (256, 512)


def test_a_turned_image_is_shown_upright(tmp_path):
    turned = Image.fromarray(RAMP[:48].T)  # as a camera held sideways saves it
    turned.getexif()[ExifTags.Base.Orientation] = 8
    turned.save(tmp_path / "one.png", exif=turned.getexif())
    found, size = images.decode(tmp_path / "one.png", 48)
    assert size == (64, 48) and found.shape == (48, 64)
    near(found, RAMP[:48])


def bad_files(folder):
    Image.fromarray(RAMP).save(folder / "good.png")
    Image.fromarray(RAMP).save(folder / "good.jpeg")
    (folder / "zero.jpeg").touch()
    (folder / "truncated.jpeg").write_bytes((folder / "good.jpeg").read_bytes()[:400])
    (folder / "text.jpeg").write_text("not an image at all")
    Image.fromarray(RAMP[:1, :1]).save(folder / "dot.png")
    Image.new("L", (20_000, 20_000)).save(folder / "huge.png")
    Image.fromarray(RAMP.astype(np.float32)).save(folder / "floating.tiff")
    Image.fromarray(RAMP.astype(np.uint16) * 16).save(folder / "12-bit.png")
    Image.fromarray(RAMP.astype(np.uint16)).save(folder / "8-in-16-bit.png")
    (folder / "folder.png").mkdir()
    return {
        "zero.jpeg": "empty",
        "truncated.jpeg": "truncated",
        "text.jpeg": "not a readable image",
        "dot.png": "1×1 px is too small",
        "huge.png": "more than 80 megapixels",
        "floating.tiff": "floating-point",
        "12-bit.png": "of 65,535: scale them to the full range",
        "8-in-16-bit.png": "of 65,535: scale them to the full range",
        "missing.png": "no such file",
        "folder.png": "is a directory",
    }


def test_every_unreadable_file_is_named_with_its_reason(tmp_path):
    expected = bad_files(tmp_path)
    paths = pd.Series(["good.png", *expected])
    stack = images.load(tmp_path, paths, View(size=32, aspect="squash"), tmp_path / "cache")
    found = {paths[row]: reason for row, reason in stack.problems.items()}
    assert set(found) == set(expected)
    for path, reason in expected.items():
        assert reason in found[path]
        assert str(tmp_path) not in found[path]


def test_a_mask_of_another_size_and_a_missing_mask(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "right.png")
    Image.fromarray(RAMP[:32]).save(tmp_path / "wrong.png")
    paths, sizes = pd.Series(["right.png", "wrong.png", pd.NA]), np.array([[64, 64]] * 3)
    stack = images.load(tmp_path, paths, View(size=32), tmp_path / "cache", match_sizes=sizes)
    assert list(stack.problems) == [1]
    assert "the mask has 64×32 px, its image 64×64" in stack.problems[1]
    assert stack.pixels[2].max() == 0 and stack.pixels[0].max() > 200


def test_the_cache_follows_content_and_view_not_names(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    paths, cache = pd.Series(["a.png"]), tmp_path / "cache"
    first = images.load(tmp_path, paths, View(size=32), cache)
    assert isinstance(first.pixels, np.memmap)
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    images.load(tmp_path, pd.Series(["b.png"]), View(size=32), cache)
    assert len(list((cache / "images").iterdir())) == 1
    images.load(tmp_path, pd.Series(["b.png"]), View(size=32, crop=0.1), cache)
    Image.fromarray(RAMP[::-1, ::-1]).save(tmp_path / "b.png")
    changed = images.load(tmp_path, pd.Series(["b.png"]), View(size=32), cache)
    assert len(list((cache / "images").iterdir())) == 3
    assert changed.pixels[0, 0, 0] > first.pixels[0, 0, 0]


def test_a_cached_stack_is_not_decoded_again(tmp_path, monkeypatch):
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    images.load(tmp_path, pd.Series(["a.png"]), View(size=32), tmp_path / "cache")
    monkeypatch.setattr(images, "decode", lambda *_: pytest.fail("decoded twice"))
    images.load(tmp_path, pd.Series(["a.png"]), View(size=32), tmp_path / "cache")


def test_a_problem_that_passes_is_not_remembered(tmp_path, monkeypatch):
    file = tmp_path / "a.png"
    Image.fromarray(RAMP).save(file)
    load = partial(images.load, tmp_path, pd.Series(["a.png"]), View(size=32), tmp_path / "cache")

    def denied(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as locked:
        locked.setattr(Path, "read_bytes", denied)
        locked.setattr(Image, "open", denied)
        with pytest.raises(InputError, match="a.png cannot be read now: permission denied"):
            load()
    with monkeypatch.context() as locked:  # its content is known, and it is denied now
        images.digests([file], tmp_path / "cache")
        locked.setattr(Image, "open", denied)
        with pytest.raises(InputError, match="a.png cannot be read now"):
            load()
    assert load().problems == {} and load().pixels.max() > 200
    monkeypatch.setattr(Image, "open", lambda *_: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        images.decode(file, 32)


def test_digests_notice_a_change(tmp_path):
    file, cache = tmp_path / "a", tmp_path / "cache"
    file.write_text("one")
    before = images.digests([file, tmp_path / "missing", None], cache)
    assert before[1:] == ["absent", "none"] and images.digests([file], cache) == before[:1]
    file.write_text("three")
    assert images.digests([file], cache) != before[:1]
