# make run     a server for trying out, with two users
# make test    what needs nothing but Go: the fast tests (skips say why)
# make check   before every commit: format, vet, tests, generated files
# make ci      everything but races and fuzzing, skips forbidden; installs what is missing
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
	go test -race ./stream ./store/... ./room/... ./clientsync/... ./api/httpx ./cmd/hearth

FUZZTIME ?= 10s
fuzz:
	@set -e; for pkg in $$(go list ./...); do \
	  for f in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "$$pkg $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg; \
	  done; \
	done

bench:
	go test -run '^$$' -bench . -benchtime 200ms ./...

complement-image:
	test/complement/run --image-only

complement:
	test/complement/run
