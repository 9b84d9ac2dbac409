"""Run the notebooks of `docs/notebooks/` and store what they print and draw.

    python scripts/run_notebooks.py                  # all of them
    python scripts/run_notebooks.py own_network      # one, by the name of its file

A notebook runs in an empty folder. What is stored is what it says, and a digest of its code, by
which a test knows outputs of older code.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).parent.parent / "docs" / "notebooks"
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def paths() -> list[Path]:
    """The notebooks, in the order of their names."""
    return sorted(NOTEBOOKS.glob("*.ipynb"))


def code_of(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells that run."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def digest(notebook: NotebookNode) -> str:
    """A number for the code of a notebook, whatever it printed."""
    code = "\0".join(cell.source for cell in code_of(notebook))
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def executed(path: Path, folder: Path) -> NotebookNode:
    """The notebook after all its cells ran in a folder.

    Raises:
        nbclient.exceptions.CellExecutionError: For the first cell that fails.
    """
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = {"kernelspec": _KERNEL, "widthwise": {"ran": digest(notebook)}}
    client = NotebookClient(
        notebook,
        timeout=600,
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
    )
    client.execute()
    notebook.metadata.pop("language_info", None)  # names the version of Python that ran it
    return notebook


def complaints(notebook: NotebookNode) -> str:
    """What the cells wrote to stderr, warnings above all."""
    outputs = [output for cell in code_of(notebook) for output in cell.outputs]
    return "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stderr")


def main(names: list[str]) -> None:
    for path in paths():
        if names and path.stem not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(path, Path(folder))
        if complaints(notebook):
            sys.exit(f"{path.name} writes to stderr; mend it:\n{complaints(notebook)}")
        nbformat.write(notebook, path)
        print(f"{path.name}: {len(code_of(notebook))} cells")


if __name__ == "__main__":
    main(sys.argv[1:])
