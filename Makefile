# make run     a server for trying out, with two users
# make test    what needs nothing but Go: the fast tests (skips say why)
# make check   before every commit: format, vet, tests, generated files
# make ci      everything, skips forbidden; installs what is missing
.PHONY: run build test check generate ci fuzz bench race complement-image complement

run:
	go run ./cmd/hearth localserve

build:
	CGO_ENABLED=0 go build -trimpath -o bin/hearth ./cmd/hearth

test:
	go vet ./...
	go test ./...
	go test -tags goolm ./test/mautrix

check: generate
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo 'run gofmt -w'; exit 1; }
	$(MAKE) test
	git diff --exit-code -- docs

# Files that are made from the code.
generate:
	go test ./config -run TestReferenceIsCurrent -update
	go test ./api -run TestCoverageIsCurrent -update

ci:
	test/ci.sh

race:
	go test -race -timeout 30m ./stream ./store/... ./room/... ./remote/... ./clientsync/... ./api/httpx ./api/federation ./cmd/hearth

# A number of runs (10000x), or a time (10m) by hand: until Go 1.27 a time that is over can
# count as a failure by itself, "context deadline exceeded" (go.dev/issue/75804).
FUZZTIME ?= 10000x
fuzz:
	@set -e; grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sed 's|/[^/]*:func | |' | sort | while read pkg f; do \
	  echo "$$pkg $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$pkg </dev/null; \
	done

bench:
	go test -run '^$$' -bench . -benchtime 200ms ./...

complement-image:
	test/complement/run --image-only

complement:
	test/complement/run
