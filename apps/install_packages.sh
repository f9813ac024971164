#!/bin/sh
# Installs the Debian packages named as arguments that are missing, saying so first. Without apt it only names them.
set -eu
missing=""
if ! command -v dpkg-query >/dev/null 2>&1; then
  echo "deps: not a Debian system; Mote needs what these packages hold: $*" >&2
  exit 0
fi
for package in "$@"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo"
echo "deps: installing with '${as_root:+$as_root }apt-get install':$missing" >&2
$as_root apt-get update -qq
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
