"""List fields of configurations: a single string is one element, and other types are refused."""

from collections.abc import Callable
from typing import Any

import pytest

from fftnet.data.images.augmentation import AugmentationConfig
from fftnet.model.config import BackboneConfig
from fftnet.model.labels import check_class_names
from fftnet.tasks.classification import ClassificationConfig
from fftnet.tasks.image_classification import ImageClassificationConfig
from fftnet.training.accelerator import AcceleratorConfig

LISTS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "mixers": (lambda value: BackboneConfig(mixers=value).mixers, "attention"),
    "trackers": (lambda value: AcceleratorConfig(trackers=value).trackers, "none"),
    "valid_data": (lambda value: ClassificationConfig(valid_data=value).valid_data, "v.csv"),
    "test_data": (lambda value: ClassificationConfig(test_data=value).test_data, "t.csv"),
    "augmentation": (lambda value: ImageClassificationConfig(augmentation=value).augmentation, "flip"),
    "names": (lambda value: AugmentationConfig(names=value).names, "flip"),
    "class_names": (lambda value: check_class_names(value, 1), "cat"),
}
"""Name of a list field to a function that sets it and reads it back, and a value."""


@pytest.mark.parametrize("name", LISTS)
def test_a_string_given_for_a_list_is_never_taken_letter_by_letter(name: str) -> None:
    read_back, value = LISTS[name]
    assert list(read_back(value)) == [value]
    assert read_back([value]) == read_back(value)
    for wrong in (5, {value: 1}, [5]):
        with pytest.raises(ValueError, match=f"{name} must be a string or a list of strings, got "):
            read_back(wrong)
