#!/usr/bin/env bash
# A short soak. The one that counts takes half an hour: tests/soak/soak.sh
exec "$(dirname "$0")/soak.sh" "${SOAK_SECONDS:-180}"
