"""Digests of data: the same for a copy and for every way to read it, another for changed content."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import BYTES, bpe, in_cache, story, write_lines
from pictures import pictures, write_folder

from fftnet.data.images.loading import load_images
from fftnet.tasks.classification import ClassificationConfig, divide
from fftnet.utils.dataset import DataConfig, load_data, load_evaluation_data


def digest(*paths: Path, tokenizer: Any = BYTES, **values: Any) -> str:
    found = load_data(DataConfig(data=[str(path) for path in paths], **values), tokenizer, 16).digest
    assert found is not None
    return found


def test_a_text_has_one_digest_however_and_wherever_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_text(story(0, 2000), encoding="utf-8")
    whole = digest(path)
    assert digest(path, tokenizer=bpe()) == whole
    cached = in_cache(tmp_path, path)
    assert load_data(cached, BYTES, 16).digest == load_data(cached, BYTES, 16).digest == whole
    (tokens,) = (tmp_path / "cache").glob("*.tokens")
    assert digest(tokens) == whole
    assert load_evaluation_data(cached, BYTES, 16).digest == whole
    assert load_evaluation_data(cached, BYTES, 16, whole=True).digest == whole
    moved = shutil.copyfile(path, tmp_path / "moved.txt")
    os.utime(moved, (0, 0))
    assert digest(moved) == whole
    monkeypatch.setattr("fftnet.data.splits.CHUNK", 100)
    monkeypatch.setattr("fftnet.data.sources.text.READ_BYTES", 7)
    assert digest(path) == whole


def test_changed_text_and_other_documents_have_another_digest(tmp_path: Path) -> None:
    texts = [story(n, 100) for n in range(20)]
    changed = [[*texts[:-1], texts[-1][:-1] + "?"], [texts[0] + texts[1], *texts[2:]], texts[::-1]]
    digests = {
        digest(write_lines(tmp_path / "a.jsonl", each)) for each in (texts, *changed, [*texts, "more"])
    }
    assert len(digests) == 5
    assert load_data(DataConfig(), BYTES, 300).digest is None


def test_the_digest_of_a_table_is_that_of_its_texts_and_labels(tmp_path: Path) -> None:
    def of(text: str, name: str = "a.csv", **settings: Any) -> str:
        (tmp_path / name).write_text(text)
        return divide(DataConfig(data=[str(tmp_path / name)]), ClassificationConfig(**settings))[1]

    rows = "".join(f"word {n},{'xy'[n % 2]}\n" for n in range(20))
    whole = of("text,label\n" + rows)
    assert of("text,label\n" + rows, "b.csv") == whole
    assert of("text,id,label\n" + rows.replace(",", ",7,")) == whole
    other = [of("text,label\n" + rows + "more,x\n"), of("text,label\n" + rows.replace("19,y", "19,x"))]
    other.append(of("text,label\n" + rows, "c.csv", test_data=[str(tmp_path / "b.csv")]))
    assert len({whole, *other}) == 4


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_the_digest_of_images_notices_added_and_relabelled_ones(kind: str, tmp_path: Path) -> None:
    def of(name: str, count: int = 20, classes: tuple[str, str] = ("left", "below")) -> str:
        path = tmp_path / name
        if kind == "npz":
            images, labels = pictures(count)
            path = tmp_path / f"{name}.npz"
            np.savez(path, images=images, labels=labels, class_names=np.array(classes))
        else:
            write_folder(path, count, classes=classes)
        return load_images(DataConfig(data=[str(path)])).digest

    whole = of("one")
    assert of("copy") == whole
    assert len({whole, of("more", 21), of("named", classes=("below", "left"))}) == 3
