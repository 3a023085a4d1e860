"""The tutorial: a notebook that is run, and shown as a page of the documentation site.

``python scripts/tutorial.py`` runs the cells of ``docs/tutorial.ipynb`` in one process, keeps in the file
what they print and draw, and writes the same as ``docs/tutorial.md`` with its pictures. The cells are plain
Python, so that neither Jupyter nor IPython is needed: the value of a last line is shown, a picture by the
method ``_repr_png_`` that Jupyter asks for, too.
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
"""The tag of the cell whose values may be replaced."""

Cell = dict[str, Any]


def load(path: Path = NOTEBOOK) -> dict[str, Any]:
    """The notebook as JSON, in the nbformat 4."""
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(notebook: Mapping[str, Any]) -> list[Cell]:
    """The cells that are run, in their order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(notebook: Mapping[str, Any], parameters: Mapping[str, object] | None = None) -> dict[str, Any]:
    """Run all code cells, one after the other, in the current folder; their outputs are put into them.

    Args:
        notebook: from ``load``; it is changed.
        parameters: values for names that the cell tagged ``parameters`` sets.

    Returns:
        The names that the cells have left.

    Raises:
        KeyError: if a parameter is none of the notebook.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(code_cells(notebook), start=1):
        cell["execution_count"] = number
        cell["outputs"] = list(_outputs(cell, names, number))
        if PARAMETERS in cell["metadata"].get("tags", []):
            for name, value in (parameters or {}).items():
                if name not in names:
                    raise KeyError(f"the notebook has no parameter {name}")
                names[name] = value
    return names


def page(notebook: Mapping[str, Any]) -> tuple[str, dict[str, bytes]]:
    """The notebook as Markdown, and its pictures, by their paths beside the page."""
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
    """What the cell prints and shows."""
    tree = ast.parse("".join(cell["source"]))
    place = f"<cell {number}>"
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
    """Run the notebook in a folder of its own, and write what it gives."""
    notebook = load()
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        run(notebook)
        os.chdir(here)
    write(notebook)
    return 0


if __name__ == "__main__":
    sys.exit(main())
