#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Installs what a developer's machine already has in a bare Debian container: a C compiler, python
# with venv, and what installing rustup takes. `cargo xtask setup` installs everything else.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install --yes --no-install-recommends \
  build-essential ca-certificates curl git python3 python3-pip python3-venv

# The checkout belongs to the runner's user, and git would refuse to read it as root.
git config --global --add safe.directory "$PWD"
