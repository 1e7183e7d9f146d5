#!/usr/bin/env bash
# The site of docs/ with the reference from the docstrings, as strict as MkDocs can be. With a folder as argument, it is
# left there.
set -euo pipefail
# shellcheck source=ci/common.sh
source "$(dirname "$0")/common.sh"

"$PYTHON" -m venv "$WORK/tools"
"$WORK/tools/bin/pip" install mkdocs==1.6.1 mkdocs-material==9.8.1 'mkdocstrings-python==2.0.11'
copy_sources "$WORK/source"
cd "$WORK/source"
export NO_MKDOCS_2_WARNING=1
"$WORK/tools/bin/mkdocs" build --quiet --site-dir "$WORK/site"
for page in index.html reference/arrays/index.html tutorials/qat/index.html speed.svg; do
    [ -s "$WORK/site/$page" ] || fail "not in the site: $page"
done
grep -q 'id="quantcore.ggml.formats.quantize"' "$WORK/site/reference/arrays/index.html" || fail "the reference is empty"
if [ $# -gt 0 ]; then
    mkdir -p "$CHECKOUT/$1"
    cp -r "$WORK/site/." "$CHECKOUT/$1"
fi
