"""The documentation site is built, and a warning is an error."""

import os
import subprocess
import sys

from places import ROOT

CONFIG = """
site_name: broken
docs_dir: {docs}
strict: true
validation: {{links: {{not_found: warn}}}}
"""


def build(config, out):
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(
        [*words, str(config), "--site-dir", str(out)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_site_is_built_without_a_warning(tmp_path):
    done = build(ROOT / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "api.html").read_text()
    assert all(f'id="widthwise.{name}"' in page for name in ("Elastic", "fit", "sweep", "load"))
    assert "cut_with_patches" not in page
    assert 'href="security.html' in (tmp_path / "site" / "design.html").read_text()


def test_a_link_that_leads_nowhere_is_an_error(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# A\n\n[gone](gone.md)\n")
    (tmp_path / "mkdocs.yml").write_text(CONFIG.format(docs=tmp_path / "docs"))
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode != 0
    assert "gone.md" in done.stdout + done.stderr
