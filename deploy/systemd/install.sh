#!/bin/sh
# Installs HCE-FS on one machine: user, environment in /opt/hcefs, units.  Run as root, from
# anywhere, out of a copy of the source.  May be repeated; it starts nothing.
set -eu

source=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}

"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
    echo "HCE-FS needs Python 3.11 to 3.13: set PYTHON to one" >&2
    exit 1
}
getent passwd hcefs >/dev/null ||
    useradd --system --user-group --home-dir /var/lib/hcefs --shell /usr/sbin/nologin hcefs
install -d -m 0750 -o hcefs -g hcefs /var/lib/hcefs
"$python" -m venv /opt/hcefs
/opt/hcefs/bin/pip install --quiet --constraint "$source/requirements.lock" "$source"
install -m 0644 "$source"/deploy/systemd/*.service /etc/systemd/system/
systemctl daemon-reload
/opt/hcefs/bin/hcefs --version
