#!/bin/bash
# A private PostgreSQL cluster for tests, in a temporary folder.
#   test/postgres.sh start    starts it and prints its URL for HEARTH_TEST_POSTGRES
#   test/postgres.sh stop     stops and removes it
set -euo pipefail

root=${HEARTH_POSTGRES_DIR:-${TMPDIR:-/tmp}/hearth-postgres-$(id -u)}

free_port() {
	local p
	for p in $(seq 54400 54999); do
		(exec 3<>"/dev/tcp/127.0.0.1/$p") 2>/dev/null || { echo "$p"; return; }
	done
	echo "no port is free" >&2
	exit 1
}

as_postgres() { # PostgreSQL refuses to run as root
	if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi
}

bin() { # newest installed version
	local found
	found=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
	[ -n "$found" ] || { echo "PostgreSQL is not installed" >&2; exit 1; }
	echo "$found/$1"
}

case ${1:-} in
start)
	if ! as_postgres "$(bin pg_ctl)" -D "$root/data" status >/dev/null 2>&1; then
		rm -rf "$root"
		mkdir -p "$root"
		[ "$(id -u)" != 0 ] || chown postgres "$root"
		as_postgres "$(bin initdb)" -D "$root/data" -A trust -U postgres -E UTF8 --locale=C --no-sync >/dev/null
		port=$(free_port)
		echo "$port" >"$root/port"
		# Durability is of no use to a cluster that lives as long as a test run.
		as_postgres "$(bin pg_ctl)" -D "$root/data" -w -l "$root/log" \
			-o "-c listen_addresses=127.0.0.1 -p $port -k '$root' -c fsync=off -c max_connections=300" start >/dev/null
	fi
	echo "postgres://postgres@127.0.0.1:$(cat "$root/port")/postgres?sslmode=disable"
	;;
stop)
	[ ! -d "$root/data" ] || as_postgres "$(bin pg_ctl)" -D "$root/data" -m immediate stop >/dev/null 2>&1 || echo "it was not running" >&2
	rm -rf "$root"
	;;
*)
	sed -n '2,4p' "$0"
	exit 2
	;;
esac
