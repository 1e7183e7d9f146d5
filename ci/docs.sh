#!/usr/bin/env bash
# The site of docs/ with the reference from the docstrings, as strict as MkDocs can be. With a folder as argument, it is
# left there.
set -euo pipefail
# shellcheck source=ci/common.sh
source "$(dirname "$0")/common.sh"

"$PYTHON" -m venv "$WORK/tools"
"$WORK/tools/bin/pip" install mkdocs==1.6.1 mkdocs-material==9.8.1 'mkdocstrings-python==2.0.11' \
    ruff -c ci/requirements-lint.txt # ruff breaks the lines of signatures
copy_sources "$WORK/source"
cd "$WORK/source"
export NO_MKDOCS_2_WARNING=1
"$WORK/tools/bin/mkdocs" build --strict --site-dir "$WORK/site" # --quiet would not count warnings
for page in index.html reference/arrays/index.html tutorials/qat/index.html speed.svg; do
    [ -s "$WORK/site/$page" ] || fail "not in the site: $page"
done
"$PYTHON" - "$WORK/site/reference" <<'PY' || fail "the reference is not complete"
"""Every name that a module of the reference makes public is on its page, with its docstring or in a sentence."""
import ast
import re
import sys
from pathlib import Path

for page in Path("docs/reference").glob("*.md"):
    html = Path(sys.argv[1], page.stem, "index.html").read_text()
    found = set(re.findall(r'id="quantcore[\w.]*"|<code>\w+</code>', html))
    for shown in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.MULTILINE):
        path = Path(shown.replace(".", "/"))
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        tree = ast.parse(source.read_text()) if source.exists() else ast.Module([], [])
        lists = [n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"]
        names = {n.value for n in ast.walk(ast.List(lists)) if isinstance(n, ast.Constant)}
        missing = [n for n in sorted(names) if not {f'id="{shown}.{n}"', f"<code>{n}</code>"} & found]
        if missing or f'id="{shown}"' not in found:
            sys.exit(f"{page}: {shown}: not shown: {', '.join(missing) or 'all of it'}")
PY
if [ $# -gt 0 ]; then
    mkdir -p "$CHECKOUT/$1"
    cp -r "$WORK/site/." "$CHECKOUT/$1"
fi
