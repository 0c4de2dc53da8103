#!/bin/sh
# audit.sh PIP_AUDIT REQUIREMENTS: what is known to be vulnerable among the pinned dependencies. Exit code 0: nothing; 1: something, or
# a dependency could not be looked up; 3: this package index tells of no vulnerabilities at all, so that nothing was learnt.
set -eu
pip_audit=$1 requirements=$2
known=$(mktemp)
trap 'rm -f "$known"' EXIT
# CVE-2019-10906 and others: whoever knows any vulnerability knows these.
echo 'jinja2==2.10' >"$known"
if "$pip_audit" --requirement "$known" --no-deps --disable-pip --progress-spinner off >/dev/null 2>&1; then
  echo "audit: nothing was learnt: this package index does not even know that jinja2 2.10 is vulnerable" >&2
  exit 3
fi
exec "$pip_audit" --requirement "$requirements" --no-deps --disable-pip --strict --progress-spinner off
