"""The tokenizer of a checkpoint in Transformers.

A native tokenizer is saved in the library's files (``fftnet.data.tokenizer_json``), which ``AutoTokenizer``
reads without this package.
"""

import tempfile
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from fftnet.data.errors import TokenizerError
from fftnet.data.tokenizer_json import LIBRARY_FILE
from fftnet.utils.tokenizer import Tokenizer


class FFTNetTokenizer(PreTrainedTokenizerFast):
    """The native tokenizer, id by id, with padding on the left.

    One thing differs on purpose: ``<|endoftext|>`` inside a text becomes the special token, as is usual in
    the library; ``tokenizer(text, split_special_tokens=True)`` takes it for text, as the native one does.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load the tokenizer of a checkpoint.

        Raises:
            TokenizerError: if the folder holds none.
        """
        folder = Path(pretrained_model_name_or_path)
        if folder.is_dir() and not (folder / LIBRARY_FILE).is_file():
            raise TokenizerError(
                f"{folder} holds no tokenizer: put back the tokenizer files that were saved with the model"
            )
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)


def from_native(tokenizer: Tokenizer, **kwargs: Any) -> Any:
    """A native tokenizer as one of the library.

    Args:
        tokenizer: of bytes, or over an encoding of TikToken.
        **kwargs: settings of the library's tokenizer, such as ``padding_side``.
    """
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        return PreTrainedTokenizerFast.from_pretrained(folder, **kwargs)
