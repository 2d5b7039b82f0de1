#!/bin/sh
# Installs the peers beside this file, in `peers/`, which git ignores: DBOS and Restate's SDK from PyPI, Restate's server,
# workerd and dynamic-workflows from npm. What cannot be had is left out, and the comparison says so.
# PostgreSQL is the distribution's: initdb and pg_ctl on the PATH, or in /usr/lib/postgresql/*/bin.
set -u
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$here/peers" && cd "$here/peers" || exit 1
"${PYTHON:-python3}" -m venv python && python/bin/pip install --quiet -r "$here/requirements.txt" \
    || echo "DBOS and Restate were not installed: the reason is above." >&2
if command -v npm > /dev/null; then
    cp "$here/package.json" package.json
    npm install --no-audit --no-fund --loglevel=error \
        || echo "workerd and Restate's server were not installed: the reason is above." >&2
    node node_modules/node/installArchSpecificPackage.js > /dev/null 2>&1
else
    echo "workerd and Restate's server were not installed: there is no npm." >&2
fi
