"""Transformers' own common tests of models on our classes.

They come from the source distribution of the installed version, which pip downloads once into a cache folder
outside the repository.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import unittest
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from filelock import FileLock
from transformers.models.auto import modeling_auto

import fftnet.hf as hf
from fftnet.model.exchange import LANGUAGE

COMMON = "test_modeling_common.py"
STUBS = {
    "__init__.py": "",
    "exporters/__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/__init__.py": "",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
}
"""Modules that the file imports but the distribution lacks."""
PACKAGE = "peer_tests"


class Unavailable(Exception):
    """The distribution can't be fetched; the message names the cause."""


def fetch() -> Path:
    """Return a folder for ``sys.path`` with the tests as the package ``peer_tests``."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fftnet-tests"
    folder = cache / f"transformers-{transformers.__version__}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / "lock", timeout=120):
            if not (folder / PACKAGE / COMMON).is_file():
                with tempfile.TemporaryDirectory(dir=cache) as partial:
                    _unpack(_download(Path(partial)), Path(partial) / "ready")
                    (Path(partial) / "ready").rename(folder)
    except (OSError, KeyError, tarfile.TarError) as error:
        raise Unavailable(f"{folder} can't be made: {error!r}") from error
    return folder


def _download(folder: Path) -> Path:
    wanted = f"transformers=={transformers.__version__}"
    options = ["--quiet", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), wanted]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"pip did not fetch the source distribution of {wanted} in time") from None
    found = list(folder.glob("*.tar.gz"))
    if not found:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise Unavailable(f"pip can't fetch the source distribution of {wanted}: {last[0]}")
    return found[0]


def _unpack(archive: Path, folder: Path) -> None:
    package = folder / PACKAGE
    for name, content in STUBS.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(content, encoding="utf-8")
    with tarfile.open(archive) as files:
        member = files.extractfile(f"transformers-{transformers.__version__}/tests/{COMMON}")
        assert member is not None
        (package / COMMON).write_bytes(member.read())


try:
    sys.path.insert(0, str(fetch()))
except Unavailable as error:
    pytest.skip(f"Transformers' own tests are not run: {error}", allow_module_level=True)
with warnings.catch_warnings():
    # Their marks are those of their own configuration.
    warnings.simplefilter("ignore")
    common: Any = import_module(f"{PACKAGE}.{COMMON.removesuffix('.py')}")

pytestmark = pytest.mark.filterwarnings("default")

MAPPINGS = {
    "AutoModel": modeling_auto.MODEL_MAPPING_NAMES,
    "AutoModelForCausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForMaskedLM": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "AutoModelForSequenceClassification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "AutoModelForTokenClassification": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
}
"""Tables by which the tests recognize the kind of a model."""
for auto, names in MAPPINGS.items():
    names[LANGUAGE.model_type] = LANGUAGE.auto_classes[auto]
SKIPS = {
    "test_generation_tester_mixin_inheritance": "the distribution leaves their tests of generate out; ours "
    "are in test_generate.py",
}
"""Reason for a skipped test by its name. All other skips are the library's: no attention weights, experts,
rotary positions or sub-models, or a missing accelerator or package."""


class Sizes:
    """Configurations and inputs that the tests ask for."""

    batch_size = 3
    seq_length = 7
    is_training = True
    hidden_size = 32
    num_hidden_layers = 2

    def __init__(self, causal: bool, mixers: tuple[str, ...] = ()) -> None:
        self.causal = causal
        self.mixers = mixers

    def get_config(self) -> Any:
        return hf.FFTNetConfig(
            vocab_size=99,
            d_model=self.hidden_size,
            num_layers=self.num_hidden_layers,
            num_heads=2,
            causal=self.causal,
            mixers=self.mixers,
            pad_token_id=0,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, Any]]:
        ids = torch.randint(1, 99, (self.batch_size, self.seq_length))
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class Common(common.ModelTesterMixin):
    """The library's tests, for a causal or bidirectional model with any mixers."""

    has_attentions = False
    causal = True
    mixers: tuple[str, ...] = ()

    def setUp(self) -> None:
        name = self._testMethodName  # pyright: ignore[reportAttributeAccessIssue]
        if name in SKIPS:
            raise unittest.SkipTest(SKIPS[name])
        self.model_tester = Sizes(self.causal, self.mixers)


class CausalTest(Common, unittest.TestCase):
    all_model_classes = (
        hf.FFTNetModel,
        hf.FFTNetForCausalLM,
        hf.FFTNetForSequenceClassification,
        hf.FFTNetForTokenClassification,
    )


class HybridTest(Common, unittest.TestCase):
    mixers = ("addressed_spectral", "attention", "delta_spectral")
    all_model_classes = (hf.FFTNetForCausalLM,)


class HybridEncoderTest(Common, unittest.TestCase):
    causal = False
    mixers = ("spectral", "bidirectional_attention")
    all_model_classes = (hf.FFTNetForMaskedLM,)


class EncoderTest(Common, unittest.TestCase):
    causal = False
    all_model_classes = (
        hf.FFTNetModel,
        hf.FFTNetForMaskedLM,
        hf.FFTNetForSequenceClassification,
        hf.FFTNetForTokenClassification,
    )
