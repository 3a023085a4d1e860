"""The tutorial: run the notebook and write it as a page of the documentation site.

``python scripts/tutorial.py`` runs the cells of ``docs/tutorial.ipynb`` in one process, stores what they
print and draw in the notebook, and writes ``docs/tutorial.md`` with its pictures. The cells are plain Python,
so that neither Jupyter nor IPython is needed: the value of the last line is shown, or its picture by
``_repr_png_``.
"""

import ast
import base64
import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"
NOTEBOOK = DOCS / "tutorial.ipynb"
PARAMETERS = "parameters"
"""Tag of the cell whose values may be replaced."""

Cell = dict[str, Any]


def load(path: Path = NOTEBOOK) -> dict[str, Any]:
    """Load the notebook as JSON, in nbformat 4."""
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(notebook: Mapping[str, Any]) -> list[Cell]:
    """Return the code cells in their order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(notebook: Mapping[str, Any], parameters: Mapping[str, object] | None = None) -> dict[str, Any]:
    """Run all code cells in the current folder and store their outputs in them.

    Args:
        notebook: notebook of ``load``, changed in place.
        parameters: new values of names that the cell tagged ``parameters`` sets.

    Returns:
        The namespace of the cells.

    Raises:
        KeyError: if the notebook does not set a parameter.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(code_cells(notebook), start=1):
        cell["execution_count"] = number
        cell["outputs"] = list(_outputs(cell, names, number))
        if PARAMETERS in cell["metadata"].get("tags", []):
            for name, value in (parameters or {}).items():
                # A misspelled name would leave the slow setting in place.
                if name not in names:
                    raise KeyError(f"the notebook has no parameter {name}")
                names[name] = value
    return names


def page(notebook: Mapping[str, Any]) -> tuple[str, dict[str, bytes]]:
    """Return the notebook as Markdown, and its pictures by their paths relative to the page."""
    parts = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"tutorial/{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![what the cell above draws]({name})")
            else:
                text = "".join(output.get("text") or data["text/plain"])
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n", pictures


def write(notebook: Mapping[str, Any], path: Path = NOTEBOOK) -> None:
    """Write the notebook, its page and its pictures."""
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    text, pictures = page(notebook)
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    path.with_suffix("").mkdir(exist_ok=True)
    for name, content in pictures.items():
        (path.parent / name).write_bytes(content)


def _outputs(cell: Cell, names: dict[str, Any], number: int) -> Iterator[dict[str, Any]]:
    """Run a cell and yield its outputs."""
    tree = ast.parse("".join(cell["source"]))
    place = f"<cell {number}>"
    # As in Jupyter, the value of an expression in the last line is shown.
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    value = None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, place, "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), place, "eval"), names)
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        yield {"name": "stdout", "output_type": "stream", "text": text}
    if value is not None:
        data: dict[str, Any] = {"text/plain": [repr(value)]}
        if hasattr(value, "_repr_png_"):
            data = {
                "image/png": base64.b64encode(value._repr_png_()).decode(),
                "text/plain": ["a picture"],
            }
        yield {"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"}


def main() -> int:
    """Run the notebook in a temporary folder and write its outputs."""
    notebook = load()
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        # The cells write runs and models into the current folder.
        os.chdir(folder)
        run(notebook)
        os.chdir(here)
    write(notebook)
    return 0


if __name__ == "__main__":
    sys.exit(main())
