package hearth

import (
	"go/ast"
	"os"
	"regexp"
	"strings"
	"testing"
)

// notAWord is what a lesson's name has that a function's name cannot have.
var notAWord = regexp.MustCompile(`[^a-z0-9]+`)

func plain(s string) string { return notAWord.ReplaceAllString(strings.ToLower(s), "") }

// Each lesson of docs/lessons.md has tests that are there, and that say what they are for.
func TestLessons(t *testing.T) {
	tests := map[string]string{} // their source by package and name
	for _, s := range sources(t) {
		if !s.test {
			continue
		}
		text, err := os.ReadFile(s.path)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Recv != nil {
				continue
			}
			from := f.Pos()
			if f.Doc != nil {
				from = f.Doc.Pos()
			}
			tests[s.pkg+"."+f.Name.Name] = string(text[s.fset.Position(from).Offset:s.fset.Position(f.End()).Offset])
		}
	}
	doc, err := os.ReadFile("docs/lessons.md")
	if err != nil {
		t.Fatal(err)
	}
	lessons := 0
	for line := range strings.Lines(string(doc)) {
		columns := strings.Split(strings.TrimSpace(line), "|")
		if len(columns) != 5 || strings.HasPrefix(columns[1], "-") || strings.TrimSpace(columns[1]) == "lesson" {
			continue
		}
		lessons++
		lesson, named := strings.TrimSpace(columns[1]), strings.TrimSpace(columns[3])
		if strings.HasPrefix(named, "none: ") {
			continue
		}
		lesson, _, _ = strings.Cut(lesson, ":")
		for _, name := range strings.Split(named, ", ") {
			source, ok := tests[name]
			if !ok {
				t.Errorf("%s: there is no test %s", lesson, name)
			} else if !strings.Contains(plain(source), plain(lesson)) {
				t.Errorf("%s: %s does not name it", lesson, name)
			}
		}
	}
	if lessons < 40 {
		t.Errorf("the table has %d lessons", lessons)
	}
}
