"""What the pages show works: Python blocks and `$ saccade` commands run, page by page, from top to bottom.

A block after a line `<!-- no-run -->` is left out. Blocks of a page share a namespace and an empty folder.
"""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from saccade import pipeline
from saccade.cli import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("docs/*.md")), *ROOT.glob("README.md")]
_BLOCK = re.compile(
    r"(?P<mark><!-- no-run -->\n)?^```(?P<kind>python|console)\n(?P<code>.*?)^```$", re.M | re.S
)
_COMMAND = re.compile(r"^\$ saccade (?P<words>(?:.*\\\n)*.*)$", re.M)
_NEEDS_MODEL = re.compile(r"saccade\.load\(|\$ saccade (ask|caption|ground|match|evaluate|solve|analyse)")


class Snippet(NamedTuple):
    kind: str
    code: str
    line: int  # of its first line in the page, from 1


def snippets(text: str) -> list[Snippet]:
    """The blocks of a page that run, in order."""
    return [
        Snippet(found["kind"], found["code"], text.count("\n", 0, found.start("code")) + 1)
        for found in _BLOCK.finditer(text)
        if not found["mark"]
    ]


def commands(code: str) -> list[list[str]]:
    """The words of each `$ saccade` line; a backslash continues it, # starts a remark."""
    lines = (found["words"].replace("\\\n", " ") for found in _COMMAND.finditer(code))
    return [shlex.split(line, comments=True) for line in lines]


def run(snippet: Snippet, page: Path, namespace: dict) -> None:
    if snippet.kind == "python":
        # Empty lines before it make a traceback point into the page.
        exec(compile("\n" * (snippet.line - 1) + snippet.code, str(page), "exec"), namespace)
        return
    for words in commands(snippet.code):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, f"{page.name}:{snippet.line}: saccade {words}: {result.output}"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets_run(page, tmp_path, monkeypatch):
    text = page.read_text(encoding="utf-8")
    found = snippets(text)
    # A typo in a fence would leave a block out without a word.
    assert len(re.findall(r"^```(?:python|console)\b", text, re.M)) == len(list(_BLOCK.finditer(text)))
    if not found:
        pytest.skip("no snippet")
    shown = "".join(snippet.code for snippet in found)
    if _NEEDS_MODEL.search(shown) and not (pipeline.BUNDLED / "vlm_hrm_scenes").is_dir():
        pytest.skip("no bundled model")
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": "page"}
    for snippet in found:
        run(snippet, page, namespace)


def test_blocks_are_found():
    page = "a\n```python\nx = 1\n```\n\n<!-- no-run -->\n```python\ny\n```\n"
    page += "```console\n$ saccade list\nout\n```\n"
    assert snippets(page) == [("python", "x = 1\n", 3), ("console", "$ saccade list\nout\n", 11)]
    assert commands('$ saccade ask a.png "b c" \\\n  --json  # why\nno\n$ other\n') == [
        ["ask", "a.png", "b c", "--json"]
    ]


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", prose):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
