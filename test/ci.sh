#!/bin/bash
# Everything: tests on both databases with skips forbidden, races, a little fuzzing,
# the outside tests, Complement. Installs from Debian what is missing.
# What needs outside source that is not there (Complement, the specification)
# says so and is left out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*"; }

need() { # COMMAND PACKAGE...: install the packages when the command is missing
	command -v "$1" >/dev/null && return 0
	shift
	[ "$(id -u)" = 0 ] || { echo "missing, and installing takes root: $*"; exit 1; }
	[ -n "${apt_updated:-}" ] || { apt-get update -qq; apt_updated=1; }
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

say "format and generated files"
unformatted=$(gofmt -l $(git ls-files '*.go'))
[ -z "$unformatted" ] || { echo "not gofmt-ed: $unformatted"; exit 1; }
make generate
git diff --exit-code -- docs

say "tests on SQLite and PostgreSQL, no skips"
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || need initdb postgresql
HEARTH_TEST_POSTGRES=$(test/postgres.sh start)
export HEARTH_TEST_POSTGRES HEARTH_CI=1
trap 'test/postgres.sh stop' EXIT
need node nodejs
need npm npm
[ -n "${HEARTH_SPEC_DIR:-}" ] || echo "HEARTH_SPEC_DIR is not set: links to the specification are not checked"
go test -count=1 ./...

say "what runs on SQLite otherwise, on PostgreSQL"
HEARTH_TEST_DATABASE=postgres go test -count=1 -timeout 30m ./room ./remote ./e2ee ./ephemeral ./directory ./push ./clientsync ./api/... ./test/endpoint ./test/garbage

say "clients made with mautrix-go, and comparisons with it"
go test -count=1 -tags goolm ./test/mautrix
GOEXPERIMENT=jsonv2 go test -count=1 ./matrix/event ./matrix/authrules

say "races, on SQLite"
HEARTH_TEST_POSTGRES='' HEARTH_CI='' make race

say "fuzzing"
make fuzz

for suite in test/*/ci; do
	[ -x "$suite" ] || continue
	say "$suite"
	"$suite"
done

say "Complement"
if test/complement/run --have-source; then
	make complement
	test/complement/run --stop-engine
else
	echo "Complement's source is not here (COMPLEMENT_SRC or ~/.cache/hearth/complement-src.tar.gz): left out"
fi
