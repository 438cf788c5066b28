"""What every lesson keeps to, so that they read alike: its parts, its length, short cells, words for every picture."""

import re

import nbformat

HEADINGS = ("Check against the reference", "Claim", "Recap", "Now you", "Sources")
WORDS = range(800, 1501)
LINES = 20  # of code in the longest cell, blank lines and imports aside; most cells have about ten
DISCOURAGING = re.compile(r"\b(simply|obviously|of course|trivial|trivially|clearly)\b", re.IGNORECASE)
STATEFUL = re.compile(r"\bpyplot\b|\bplt\.|\bwidgets\.Output\b|\binteract(ive|ive_output|_manual)?\(|\bdisplay\(")


def text(notebook) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def code(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook) -> list[dict]:
    return [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]


def prose(markdown: str) -> str:
    """The words that are read: no code, no formulas, no addresses of links."""
    markdown = re.sub(r"```.*?```|\$\$.*?\$\$", " ", markdown, flags=re.DOTALL)
    return re.sub(r"`[^`]*`|\$[^$\n]*\$|\]\([^)]*\)", " x ", markdown)


def missing_parts(notebook) -> list[str]:
    """The anatomy of a lesson, as far as a program can see it."""
    first = notebook.cells[0].source
    found = [] if first.startswith("# ") and "?" in first else ["the first cell is not a title and a question"]
    if not any(output["data"].get("text/plain", "").startswith("Explorer: ") for output in outputs(notebook)):
        found.append("no explorer")
    texts = [(i, cell.source) for i, cell in enumerate(notebook.cells) if cell.cell_type == "markdown"]
    headings = [(i, heading) for i, source in texts for heading in re.findall("^#+ (.*)$", source, re.MULTILINE)]
    cell_of: dict[str, int] = {}
    for part in HEADINGS:
        after = max(cell_of.values(), default=0)
        cells = [cell for cell, heading in headings if cell >= after and heading.startswith(part)]
        if cells:
            cell_of[part] = cells[0]
        else:
            found.append(f"no heading starts with {part!r}, in its place among {', '.join(HEADINGS)}")
    claims = nbformat.v4.new_notebook(cells=notebook.cells[cell_of.get("Claim", len(notebook.cells)) :])
    if "Verdict" not in text(claims) or not any("assert " in source for source in code(claims)):
        found.append("no claim with an asserting cell and a verdict")
    return found


def faults(notebook, name: str) -> list[str]:
    found = missing_parts(notebook)
    words = len(re.findall(r"[^\W_][\w'’-]*", prose(text(notebook))))
    if words not in WORDS:
        found.append(f"{words} words; a lesson has {WORDS[0]} to {WORDS[-1]}")
    found += [f"says {word!r}" for word in DISCOURAGING.findall(prose(text(notebook)))]
    for number, source in enumerate(code(notebook), 1):
        lines = sum(bool(line.strip()) and not re.match("import |from ", line) for line in source.split("\n"))
        if lines > LINES:
            found.append(f"code cell {number} has {lines} lines, more than {LINES}")
        found += [f"code cell {number} uses {hit.group()!r}" for hit in STATEFUL.finditer(source)]
    if re.search(r"^(import|from) (transformers|peft)\b", code(notebook)[0], re.MULTILINE):
        found.append("the first cell imports a slow library before the reader has seen anything")
    for output in outputs(notebook):
        alt = output["metadata"].get("image/png", {}).get("alt", "")
        if "image/png" in output["data"] and len(alt.split()) < 4:
            found.append(f"a picture is described by {alt!r} only")
    found += [f"a picture without words: {link}" for link in re.findall(r"!\[\]\([^)]*\)", text(notebook))]
    if f"exercises/{name}.ipynb" not in text(notebook):
        found.append(f"does not point to exercises/{name}.ipynb")
    return found
