"""The code blocks of docs/transformers.md run one after the other, in a new folder."""

import re
from pathlib import Path

import pytest
from transformers.utils import logging

PAGE = Path(__file__).resolve().parents[2] / "docs" / "transformers.md"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_blocks_of_the_page_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    logging.disable_progress_bar()
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert (tmp_path / "from_transformers" / "model.safetensors").is_file()
