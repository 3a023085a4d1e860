"""The tokenizer of a checkpoint in Transformers; ``AutoTokenizer`` reads its files without this package."""

import tempfile
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from fftnet.data.errors import TokenizerError
from fftnet.data.tokenizer_json import LIBRARY_FILE
from fftnet.utils.tokenizer import Tokenizer


class FFTNetTokenizer(PreTrainedTokenizerFast):
    """The native tokenizer with the same ids, and padding on the left.

    One difference: ``<|endoftext|>`` inside a text becomes the special token, as usual in the library.
    ``tokenizer(text, split_special_tokens=True)`` treats it as text, as the native tokenizer does.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load the tokenizer of a checkpoint; TokenizerError if the folder has none."""
        folder = Path(pretrained_model_name_or_path)
        if folder.is_dir() and not (folder / LIBRARY_FILE).is_file():
            raise TokenizerError(
                f"{folder} has no tokenizer: put back the tokenizer files that were saved with the model"
            )
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)


def from_native(tokenizer: Tokenizer, **kwargs: Any) -> Any:
    """Convert a native tokenizer of bytes or TikToken; ``kwargs`` are settings of the library's tokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        return PreTrainedTokenizerFast.from_pretrained(folder, **kwargs)
