"""The tree in the README, made from the first line of each file's docstring: `python -m tests.readme_tree` writes it."""

import ast
import re
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
ROOMS = ("pages", "export", "jobs", "analysis", "operators", "metrics", "models", "kernels", "cache", "demo", "benchmarks")


def first_line(path: Path) -> str:
    doc = ast.get_docstring(ast.parse(path.read_text())) or ""
    line = " ".join(doc.split("\n\n")[0].split())
    sentence = re.split(r"(?<=[.?]) (?=[A-Z`*])", line)[0]
    return sentence if len(sentence) <= 118 else sentence[:115].rsplit(" ", 1)[0].rstrip(",;:") + " …"


def tree() -> str:
    lines = [f"{'app.py':<34}{first_line(REPO / 'app.py')}"]
    for room in ROOMS:
        lines.append(f"{room}/")
        for path in sorted((REPO / room).rglob("*.py")):
            name = str(path.relative_to(REPO / room))
            if path.stat().st_size and not (name == "__init__.py" and not first_line(path)):
                lines.append(f"  {name:<32}{first_line(path)}".rstrip())
    return "\n".join(lines)


def between(readme: str) -> tuple[str, str, str]:
    """(before, tree, after) of a README."""
    before, rest = readme.split("## The tree\n\n```\n", 1)
    inside, after = rest.split("\n```\n", 1)
    return before + "## The tree\n\n```\n", inside, "\n```\n" + after


if __name__ == "__main__":
    file = REPO / "README.md"
    before, _, after = between(file.read_text())
    file.write_text(before + tree() + after)
