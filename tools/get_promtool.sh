#!/bin/sh
# Puts Debian's promtool beside the Python of .venv, for tests/deploy. Only the one file: the package itself would start a server.
set -eu
bin=$(cd "$(dirname "$0")/.." && pwd)/${VENV:-.venv}/bin
[ -x "$bin/promtool" ] && exit 0
command -v promtool >/dev/null && exit 0
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
cd "$room"
# The list of packages may be missing or old.
apt-get download -qq prometheus 2>/dev/null || { apt-get update -qq && apt-get download -qq prometheus; }
dpkg-deb --extract prometheus_*.deb .
install -m 0755 usr/bin/promtool "$bin/promtool"
