"""The notebooks run, what they claim holds, and what they show was made by the code they show."""

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from scripts.run_notebooks import code_of, complaints, digest, executed, paths
from scripts.site_pages import notebook_page

NOTEBOOKS = {path.stem: path for path in paths()}


def noted(cells, ran=None):
    """A notebook of code cells, with the digest of the code that ran."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    notebook.metadata["widthwise"] = {"ran": ran or digest(notebook)}
    return notebook


def stale(notebook):
    """Whether what is stored was printed by other code, or some cell never ran."""
    unrun = [cell for cell in code_of(notebook) if cell.execution_count is None]
    return bool(unrun) or notebook.metadata["widthwise"]["ran"] != digest(notebook)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_its_claims_hold(name, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = executed(NOTEBOOKS[name], tmp_path)
    assert "assert " in code_of(notebook)[-1].source
    assert complaints(notebook) == ""
    assert list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_a_notebook_shows_is_of_its_code(name):
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    assert not stale(notebook), "run: make notebooks"
    assert complaints(notebook) == ""
    assert "/home/" not in str(notebook)
    assert len(notebook_page(notebook, name)[1]) == 1  # one picture


def test_a_claim_that_does_not_hold_and_outputs_of_older_code_are_found(tmp_path):
    path = tmp_path / "wrong.ipynb"
    nbformat.write(noted(["x = 1", "import sys; sys.stderr.write('careful')"]), path)
    ran = executed(path, tmp_path)
    assert complaints(ran) == "careful"
    assert not stale(ran)
    code_of(ran)[0].source = "x = 2"
    assert stale(ran)
    nbformat.write(noted(["x = 1", "assert x == 2"]), path)
    assert stale(nbformat.read(path, as_version=4))
    with pytest.raises(CellExecutionError, match="AssertionError"):
        executed(path, tmp_path)


def test_a_page_of_the_site_has_the_code_the_text_and_the_pictures():
    page, pictures = notebook_page(
        {
            "cells": [
                {"cell_type": "markdown", "source": ["# Title"]},
                {
                    "cell_type": "code",
                    "source": ["draw()"],
                    "outputs": [{"text": ["drawn\n"]}, {"data": {"image/png": "aGk="}}],
                },
            ]
        },
        "sketch",
    )
    assert page.startswith("# Title\n\n[Download this notebook](sketch.ipynb)")
    assert "```python\ndraw()\n```\n\n```text\ndrawn\n```\n\n![" in page
    assert pictures == {"sketch-1.png": b"hi"}
