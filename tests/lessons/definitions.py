"""The functions and classes that a lesson builds, taken out of its notebook without running the lesson."""

import ast
from types import SimpleNamespace

from nbformat import NotebookNode

IMPORTS = (ast.Import, ast.ImportFrom)
DEFINITIONS = (ast.FunctionDef, ast.ClassDef)


def definitions(notebook: NotebookNode, *changes: tuple[str, str]) -> SimpleNamespace:
    """Run a notebook's definitions and the imports of its first code cell, and nothing else.

    Args:
        changes: (old, new) pieces of code to exchange first: a test that such a mistake is noticed.

    Raises:
        ValueError: an old piece that the notebook does not hold.
    """
    first, *others = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    code = "\n".join([first, *others])
    for old, _ in changes:
        if old not in code:
            raise ValueError(f"the lesson no longer says {old!r}")
    wanted = [node for node in ast.parse(first).body if isinstance(node, IMPORTS)]
    for old, new in changes:
        code = code.replace(old, new)
    wanted += [node for node in ast.parse(code).body if isinstance(node, DEFINITIONS)]
    namespace = {"__name__": "lesson"}
    exec(compile(ast.Module(wanted, []), "lesson", "exec"), namespace)
    return SimpleNamespace(**namespace)
