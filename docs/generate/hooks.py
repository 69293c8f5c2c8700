"""mkdocs runs this: the pages that are written from the code, and their places in the navigation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from docs.generate.pages import generated_pages, navigation, with_links

ROOT = Path(__file__).parents[2]


def on_config(config: Any) -> Any:
    """Add the generated pages to the navigation, at the places that `mkdocs.yml` names `methods` and `reference`."""
    config.nav = navigation(config.nav, generated_pages(ROOT))
    return config


def on_files(files: Files, *, config: Any) -> Files:
    """Add the generated pages to those that are written by hand."""
    for path, text in generated_pages(ROOT).items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Link the pipelines in the tables of papers and of numbers."""
    linked = ("methods/index.md", "numbers.md")
    path = page.file.src_uri
    return with_links(markdown, path, generated_pages(ROOT)) if path in linked else markdown
