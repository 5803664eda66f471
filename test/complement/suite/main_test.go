package main

import (
	"io"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestBaselineSurvivesWriting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "results.tsv")
	want := outcomes{{"tests/csapi", "TestLogin/with spaces"}: "pass", {"tests/csapi", "TestSync"}: "fail"}
	if err := write(path, want); err != nil {
		t.Fatal(err)
	}
	if got, err := read(path); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v %v", got, err)
	}
}

// A run of one package says nothing of the others.
func TestOtherPackagesStayInTheBaseline(t *testing.T) {
	before := outcomes{{"csapi", "A"}: "pass", {"csapi", "gone"}: "pass", {"fed", "C"}: "pass"}
	want := outcomes{{"csapi", "A"}: "fail", {"fed", "C"}: "pass"}
	if got := merged(before, outcomes{{"csapi", "A"}: "fail"}, []string{"csapi"}); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestCompare(t *testing.T) {
	before := outcomes{{"csapi", "A"}: "pass", {"csapi", "B"}: "fail", {"fed", "C"}: "pass"}
	for _, test := range []struct {
		name   string
		now    outcomes
		broken bool
	}{
		{"the same", outcomes{{"csapi", "A"}: "pass", {"csapi", "B"}: "fail"}, false},
		{"better", outcomes{{"csapi", "A"}: "pass", {"csapi", "B"}: "pass"}, false},
		{"worse", outcomes{{"csapi", "A"}: "fail"}, true},
		{"skipped now", outcomes{{"csapi", "A"}: "skip"}, true},
		{"not run now", outcomes{}, true},
	} {
		if err := compare(before, test.now, []string{"csapi"}); (err != nil) != test.broken {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestFollow(t *testing.T) {
	const output = `plain words of the compiler
{"Action":"run","Test":"TestA"}
{"Action":"output","Test":"TestA","Output":"hello\n"}
{"Action":"run","Test":"TestA/sub"}
{"Action":"pass","Test":"TestA/sub"}
{"Action":"pass","Test":"TestA"}
{"Action":"run","Test":"TestCutOff"}
{"Action":"fail"}
`
	results, started, err := follow(strings.NewReader(output), "p", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if want := (outcomes{{"p", "TestA"}: "pass", {"p", "TestA/sub"}: "pass"}); !reflect.DeepEqual(results, want) {
		t.Errorf("%v", results)
	}
	if !started[test{"p", "TestCutOff"}] {
		t.Error("what was cut off is not known to have started")
	}
}
