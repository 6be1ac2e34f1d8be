"""Every Python block of the documentation runs as it stands, and so do shell blocks that continue one.

A comment on the line before a block (blank lines between don't matter) changes that:
``<!-- not run: reason -->`` leaves it out; ``<!-- continues -->`` runs it after the block before;
``<!-- needs: package -->`` runs it with the integration tests, where there is that package.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
BLOCK = re.compile(
    r"""(?:^<!--\s*(?P<comment>[^\n]*?)\s*-->\s*\n)?"""
    r"""^(?P<indent>[ ]*)```(?P<language>python|sh)\b[^\n]*\n(?P<code>.*?)^(?P=indent)```[ ]*$""",
    re.MULTILINE | re.DOTALL,
)


@dataclass
class Program:
    """A block, with those that continue it; the line is its first one's in the page."""

    line: int
    code: str
    needs: str = ""


def programs(page: str) -> list[Program]:
    """The programs of a page that are to be run."""
    found: list[Program] = []
    for match in BLOCK.finditer(page):
        comment = match["comment"] or ""
        if match["language"] == "sh" and comment != "continues":
            continue
        if comment.startswith("not run"):
            assert re.fullmatch(r"not run:\s*\S.*", comment), f"no reason is given: {comment!r}"
            continue
        indent = match["indent"]
        code = "".join(line.removeprefix(indent) for line in match["code"].splitlines(keepends=True))
        if match["language"] == "sh":
            code = f"import subprocess; subprocess.run({code!r}, shell=True, check=True)\n"
        if comment == "continues":
            assert found, "there is nothing to continue"
            found[-1].code += code
        else:
            needs = comment.removeprefix("needs: ") if comment.startswith("needs: ") else ""
            found.append(Program(page.count("\n", 0, match.start("code")) + 1, code, needs))
    return found


def every_program() -> list[tuple[str, Program]]:
    pages = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
    return [
        (f"{page.relative_to(PROJECT)}:{program.line}", program)
        for page in pages
        if page.exists()
        for program in programs(page.read_text())
    ]


def marks(place: str, program: Program) -> list[pytest.MarkDecorator]:
    """The README's are run every day."""
    if program.needs:
        return [pytest.mark.integration]
    return [] if place.startswith("README") else [pytest.mark.slow]


EVERY = [pytest.param(program, id=place, marks=marks(place, program)) for place, program in every_program()]


@pytest.mark.parametrize("program", EVERY)
def test_the_documentation_runs(program: Program, tmp_path: Path) -> None:
    if program.needs and find_spec(program.needs) is None:
        pytest.skip(f"{program.needs} is not installed: pip install penstock[integrations]")
    script = tmp_path / "block.py"
    script.write_text(program.code)
    commands = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "PATH": commands},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


PAGE = """
```python
a = 1
```

<!-- continues -->
```python
b = a
```
<!-- not run: it needs a GPU -->

```python
never
```

<!-- needs: lightning -->
```python
import lightning
```

- in a list:

  ```python
  if True:
      c = 3
  ```

```sh
not python
```

<!-- continues -->
```sh
true
```
"""


def test_blocks_are_found_joined_and_left_out() -> None:
    assert programs(PAGE) == [
        Program(3, "a = 1\nb = a\n"),
        Program(18, "import lightning\n", "lightning"),
        Program(
            24,
            "if True:\n    c = 3\nimport subprocess; subprocess.run('true\\n', shell=True, check=True)\n",
        ),
    ]


@pytest.mark.parametrize("comment", ["not run", "not run:", "not run:  "])
def test_a_block_is_not_left_out_without_a_reason(comment: str) -> None:
    with pytest.raises(AssertionError, match="no reason"):
        programs(f"<!-- {comment} -->\n```python\npass\n```\n")


def test_the_first_block_cannot_continue() -> None:
    with pytest.raises(AssertionError, match="nothing to continue"):
        programs("<!-- continues -->\n```python\npass\n```\n")
