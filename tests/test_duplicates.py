from __future__ import annotations

import cv2
import numpy as np
import pandas as pd
import pytest

from cnn_xray import InputError
from cnn_xray.audit import hash_distances, near_duplicates, perceptual_hash, shifted_correlation


def film(seed: int, size: int = 128) -> np.ndarray:
    """(size, size) uint8: a body brighter in the middle, the same for every seed, and structure of its
    own."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    body = 80 * np.exp(-2 * columns**2 - rows**2)
    coarse, fine = (cv2.GaussianBlur(rng.normal(size=(size, size)), (0, 0), s * size / 128) for s in (8, 2.5))
    image = 60 + body + 25 * coarse / coarse.std() + 12 * fine / fine.std()
    return np.clip(image, 0, 235).astype(np.uint8)


def shifted(image: np.ndarray, fraction: float) -> np.ndarray:
    move = np.array([[1, 0, fraction * image.shape[1]], [0, 1, 0]], np.float32)
    return cv2.warpAffine(image, move, image.shape[::-1], borderMode=cv2.BORDER_REPLICATE)


def recompressed(image: np.ndarray, quality: int = 60) -> np.ndarray:
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)


def dataset(films: list[tuple[str, np.ndarray]]) -> tuple[np.ndarray, pd.DataFrame]:
    rows = [(f"{i}.png", split, i % 2, f"p{i}") for i, (split, _) in enumerate(films)]
    table = pd.DataFrame(rows, columns=["path", "split", "label", "patient"])
    return np.stack([image for _, image in films]), table


COPIES = {
    "exact": lambda image: image.copy(),
    "brighter": lambda image: (image.astype(int) + 15).astype(np.uint8),
    "less contrast": lambda image: (image * 0.8 + 20).astype(np.uint8),
    "shifted by 2 %": lambda image: shifted(image, 0.02),
    "JPEG, quality 60": recompressed,
}


@pytest.mark.parametrize("size", [64, 128, 224])
@pytest.mark.parametrize("change", COPIES)
def test_a_copy_in_another_split_is_found_and_nothing_else(change, size):
    originals = [film(seed, size) for seed in range(8)]
    films = [("train", image) for image in originals[:6]] + [("test", image) for image in originals[6:]]
    found = near_duplicates(*dataset([*films, ("test", COPIES[change](originals[2]))]))
    assert found.pairs[["path_a", "path_b"]].values.tolist() == [["2.png", "8.png"]]
    pair = found.pairs.iloc[0]
    assert (pair["split_a"], pair["split_b"], pair["patient_a"], pair["patient_b"]) == (
        "train",
        "test",
        "p2",
        "p8",
    )
    assert pair["correlation"] >= 0.92 and found.counts["near_duplicates"].tolist() == [1]
    if change == "exact":
        assert pair["distance"] == 0 and pair["correlation"] == 1


def test_a_mirrored_film_is_not_found():
    images, table = dataset([("train", film(0)), ("test", film(0)[:, ::-1])])
    assert near_duplicates(images, table).pairs.empty


def test_films_with_the_same_layout_are_candidates_but_not_duplicates():
    layout = film(0).astype(float)
    rng = np.random.default_rng(1)
    grains = [cv2.GaussianBlur(rng.normal(size=layout.shape), (0, 0), 2) for _ in range(2)]
    alike = [np.clip(cv2.GaussianBlur(layout, (0, 0), 6) + 3 * g / g.std(), 0, 255).astype(np.uint8) for g in grains]
    found = near_duplicates(*dataset([("train", alike[0]), ("test", alike[1])]), max_distance=96)
    assert found.counts.values.tolist() == [["train", "test", found.counts["nearest"][0], 1, 0]]
    assert found.pairs.empty


def test_only_splits_that_must_not_share_are_compared():
    same = film(0)
    names = ["train", "train", "val", "test", "neutral"]
    found = near_duplicates(*dataset([(name, same) for name in names]))
    counted = found.counts.set_index(["split_a", "split_b"])["near_duplicates"].to_dict()
    assert counted == {
        ("train", "val"): 2,
        ("train", "neutral"): 2,
        ("train", "test"): 2,
        ("val", "neutral"): 1,
        ("val", "test"): 1,
    }
    assert len(found.pairs) == 8


def test_one_split_alone_gives_empty_tables_with_their_columns():
    found = near_duplicates(*dataset([("test", film(0)), ("clean", film(0))]))
    assert found.pairs.empty and found.counts.empty
    other = near_duplicates(*dataset([("train", film(0)), ("test", film(1))]))
    assert list(found.pairs.columns) == list(other.pairs.columns)
    assert list(found.counts.columns) == list(other.counts.columns)


def test_the_distance_limits_what_is_a_candidate():
    images, table = dataset([("train", film(0)), ("test", shifted(film(0), 0.02))])
    nearest = int(near_duplicates(images, table).counts["nearest"][0])
    assert nearest > 0
    assert len(near_duplicates(images, table, max_distance=nearest).pairs) == 1
    assert near_duplicates(images, table, max_distance=nearest - 1).pairs.empty


def test_hash_distance_counts_differing_bits():
    a = np.array([[0, 0, 0, 0], [1, 0, 0, 0]], np.uint64)
    b = np.array([[0b111, 0, 0, 1 << 63], [2**64 - 1] * 4], np.uint64)
    assert hash_distances(a[:, :], b[:1]).tolist() == [[4], [3]]
    assert hash_distances(a[:, :3], b[1:, :3]).tolist() == [[192], [191]]


def test_a_hash_has_half_its_bits_set_and_ignores_brightness():
    hashes = perceptual_hash(np.stack([film(0), film(0) + np.uint8(20), film(1)]))
    assert hashes.shape == (3, 4) and hashes.dtype == np.uint64
    assert np.bitwise_count(hashes).sum(axis=1).tolist() == [127, 127, 127]  # 255 bits about their median
    distance = hash_distances(hashes[:1], hashes)[0]
    assert distance[0] == 0 and distance[1] <= 4 and distance[2] > 64


def test_flat_films_are_duplicates_of_equals_only():
    black, white, chest = np.zeros((64, 64), np.uint8), np.full((64, 64), 255, np.uint8), film(0, 64)
    first, second = np.array([0, 0, 0, 2]), np.array([0, 1, 2, 2])
    result = shifted_correlation(np.stack([black, white, chest]), first, second)
    np.testing.assert_array_equal(result, [1, 0, 0, 1])


def test_correlation_finds_the_shift_to_half_a_pixel():
    wide = film(0, 160)
    here = cv2.resize(wide[:128, :128], (64, 64), interpolation=cv2.INTER_AREA)
    near, moved, far = (
        cv2.resize(wide[d : d + 128, d : d + 128], (64, 64), interpolation=cv2.INTER_AREA) for d in (1, 7, 20)
    )
    films = np.stack([here, near, moved, far, 255 - here])
    values = shifted_correlation(films, np.zeros(4, int), np.arange(1, 5))
    assert values[0] > 0.95 and values[1] > 0.8  # half a pixel; 3.5 pixels, less of the film in common
    assert values[2] < 0.6 and values[3] < 0.6  # 10 pixels, beyond the search; the negative


def test_bad_input_is_refused():
    images, table = dataset([("train", film(0)), ("test", film(1))])
    for wrong in (images[:1], images.astype(np.float32), images[0]):
        with pytest.raises(InputError, match="one row of the table each"):
            near_duplicates(wrong, table)
    for distance in (-1, 97):
        with pytest.raises(InputError, match=f"distance is {distance}"):
            near_duplicates(images, table, max_distance=distance)
