# shellcheck shell=bash
# For deep.sh of clients, agents, web and soak, which source it: the server, npm's packages and a running server. Each says
# by its NAME why it leaves something out.

# begin NAME: into the source tree; $server is the program, $work a folder of this test.
begin() {
  test_name=$1
  cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
  server=$PWD/build/release/bin/ds4-server
  work=$PWD/build/$test_name
  if [[ ! -x $server ]]; then
    echo "$test_name: there is no $server (libboost-dev or libssl-dev missing?)" >&2
    exit 1
  fi
}

leave_out() {
  echo "$test_name: SKIPPED, $1" >&2
  exit 77  # what CTest takes for skipped
}

# npm_packages FILE...: FILEs and package.json of the test, with the packages that it names, in $work.
npm_packages() {
  command -v npm >/dev/null || leave_out "there is no npm"
  mkdir -p "$work"
  (cd "tests/$test_name" && cp package.json "$@" "$work")
  (cd "$work" && npm install --no-audit --no-fund --silent) || leave_out "the npm registry cannot be reached"
}

# serve FLAGS...: a server with the bundled model at $url until this shell ends.
serve() {
  "$server" -m models/ds4-nano.gguf "$@" --port 0 2>"$work/server.log" &
  server_pid=$!
  trap 'kill $server_pid 2>/dev/null || true' EXIT
  local port=
  for _ in $(seq 100); do
    port=$(sed -n 's/.*event=listening.* port=\([0-9]*\).*/\1/p' "$work/server.log")
    [[ -n $port ]] && grep -q event=serving "$work/server.log" && break
    sleep 0.1
  done
  url=http://127.0.0.1:$port
}
