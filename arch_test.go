// Package hearth holds no code: the test here keeps the architecture, which is
// the list of folders. See ARCHITECTURE.md.
package hearth

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// floors are the layers, lowest first. A package is on the floor of the longest
// prefix that fits; imports go downwards only.
var floors = []struct {
	floor    int
	packages []string
}{
	{0, []string{"matrix"}},
	{1, []string{"store", "stream", "config", "outgoing"}},
	{2, []string{"room", "remote"}},
	{3, []string{"clientsync", "push", "media", "account", "e2ee", "ephemeral", "directory", "appservice", "oauth", "turn", "doctor", "backup", "migrate"}},
	{4, []string{"api", "web"}},
	{5, []string{"server", "cmd", "test", "bench"}},
}

// siblings may be imported on the same floor, each for a reason.
var siblings = map[string]string{
	"store/storetest -> store":    "opens a store for the tests of others",
	"store/storetest -> stream":   "and its hub",
	"store -> stream":             "the committer publishes what it committed",
	"remote -> room":              "implements what room asks of other servers (room.Network)",
	"api/client -> api/httpx":     "httpx is the plumbing of every API",
	"api/admin -> api/httpx":      "httpx is the plumbing of every API",
	"api/media -> api/httpx":      "httpx is the plumbing of every API",
	"api/federation -> api/httpx": "httpx is the plumbing of every API",
	"api/federation -> api/media": "files get the same headers, whoever asks for them",
}

// forbidden are imports that no package may have.
var forbidden = map[string]string{
	"encoding/json":         "one JSON library only (go-json-experiment): others disagree on duplicate keys and bad UTF-8",
	"encoding/json/v2":      "one JSON library only (go-json-experiment)",
	"html/template":         "switches off the linker's dead-code removal",
	"text/template":         "switches off the linker's dead-code removal",
	"C":                     "the program is pure Go and cross-compiles",
	"log":                   "log/slog is the log",
	"io/ioutil":             "replaced by io and os",
	"github.com/pkg/errors": "fmt.Errorf with %w",
}

// impure are imports that matrix/* may not have, with all below them.
var impure = []string{"net/http/", "os", "database", "context", "log", "syscall", "os/exec", "io/fs", "math/rand"}

// pureNet are the parts of net and net/http that are only values.
var pureNet = map[string]bool{"net/netip": true, "net/url": true, "net/http": true}

// starters may have go statements: everything else runs in a request or in the
// runner of server.
var starters = map[string]string{
	"server":    "the runner",
	"api/httpx": "the life of requests",
	"store":     "the committer",
	"remote":    "the sender has one for each active destination",
	"test":      "tests",
}

type source struct {
	path, pkg string // pkg is the folder
	file      *ast.File
	fset      *token.FileSet
	test      bool
}

func sources(t *testing.T) (list []source) {
	t.Helper()
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if p != "." && (strings.HasPrefix(name, ".") || name == "node_modules" || name == "data" || name == "testdata") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, p, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		p = filepath.ToSlash(p)
		list = append(list, source{p, path.Dir(p), f, fset, strings.HasSuffix(name, "_test.go")})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func (s source) imports() (list []string) {
	for _, i := range s.file.Imports {
		list = append(list, strings.Trim(i.Path.Value, `"`))
	}
	return list
}

func floorOf(pkg string) (floor int, known bool) {
	top, _, _ := strings.Cut(pkg, "/")
	for _, f := range floors {
		if slices.Contains(f.packages, top) {
			return f.floor, true
		}
	}
	return 0, false
}

func TestLayers(t *testing.T) {
	for _, s := range sources(t) {
		if s.pkg == "." {
			continue
		}
		floor, known := floorOf(s.pkg)
		if !known {
			t.Errorf("%s: the folder is on no floor; see floors", s.path)
			continue
		}
		for _, imp := range s.imports() {
			pkg, ours := strings.CutPrefix(imp, "hearth/")
			if !ours || pkg == s.pkg || s.test && (strings.HasSuffix(pkg, "test") || strings.HasPrefix(pkg, "test/")) {
				continue
			}
			below, _ := floorOf(pkg)
			if below > floor {
				t.Errorf("%s imports %s, which is above it", s.path, imp)
			}
			if below == floor && floor != 0 && floor != 5 && siblings[s.pkg+" -> "+pkg] == "" && !s.test {
				t.Errorf("%s imports its sibling %s; see siblings", s.path, imp)
			}
			if floor == 4 && (pkg == "store" || pkg == "outgoing") && !s.test {
				t.Errorf("%s imports %s: endpoints go through a service, so that every rule has one home", s.path, imp)
			}
		}
	}
}

func TestForbiddenImports(t *testing.T) {
	for _, s := range sources(t) {
		for _, imp := range s.imports() {
			// Comparisons with other programs speak those programs' types.
			if why := forbidden[imp]; why != "" && !strings.HasPrefix(path.Base(s.path), "differential_") {
				t.Errorf("%s imports %s: %s", s.path, imp, why)
			}
		}
	}
}

func TestProtocolIsPure(t *testing.T) {
	for _, s := range sources(t) {
		if !strings.HasPrefix(s.pkg, "matrix/") || s.test {
			continue
		}
		for _, imp := range s.imports() {
			first, _, _ := strings.Cut(imp, "/")
			if strings.Contains(first, ".") && !strings.HasPrefix(imp, "github.com/go-json-experiment/json") {
				t.Errorf("%s imports %s: matrix/ is the standard library and jsontext", s.path, imp)
			}
			for _, bad := range impure {
				if imp == bad || strings.HasPrefix(imp, bad+"/") {
					t.Errorf("%s imports %s: matrix/ is pure", s.path, imp)
				}
			}
			if (imp == "net" || strings.HasPrefix(imp, "net/")) && !pureNet[imp] {
				t.Errorf("%s imports %s: matrix/ is pure", s.path, imp)
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := sel.X.(*ast.Ident)
			if ok && (x.Name == "time" && (sel.Sel.Name == "Now" || sel.Sel.Name == "Since") || x.Name == "http" && !strings.HasPrefix(sel.Sel.Name, "Status")) {
				t.Errorf("%s: %s.%s: matrix/ is pure", s.fset.Position(n.Pos()), x.Name, sel.Sel.Name)
			}
			return true
		})
	}
}

func TestGoStatements(t *testing.T) {
	for _, s := range sources(t) {
		top, _, _ := strings.Cut(s.pkg, "/")
		if s.test || starters[s.pkg] != "" || starters[top] != "" {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if g, ok := n.(*ast.GoStmt); ok {
				t.Errorf("%s: go statement: background work is started by the runner of server", s.fset.Position(g.Pos()))
			}
			return true
		})
	}
}

func TestPackageComments(t *testing.T) {
	documented := map[string]bool{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		documented[s.pkg] = documented[s.pkg] || s.file.Doc != nil
	}
	for pkg, ok := range documented {
		if !ok {
			t.Errorf("%s has no package comment: what it owns, what it must not do, where to start", pkg)
		}
	}
}

var specLink = regexp.MustCompile(`^// spec: (.*)$`)

// TestSpecLinks wants HEARTH_SPEC_DIR: a checkout of the Matrix specification.
func TestSpecLinks(t *testing.T) {
	dir := os.Getenv("HEARTH_SPEC_DIR")
	if dir == "" {
		t.Skip("skipped: HEARTH_SPEC_DIR names no copy of the specification")
	}
	anchors := map[string]map[string]int{}
	for _, s := range sources(t) {
		for _, group := range s.file.Comments {
			for _, c := range group.List {
				m := specLink.FindStringSubmatch(c.Text)
				if m == nil {
					continue
				}
				for _, ref := range strings.Split(m[1], ", ") {
					ref, _, _ = strings.Cut(ref, " ")
					page, anchor, _ := strings.Cut(ref, "#")
					if anchors[page] == nil {
						found, err := pageAnchors(dir, page)
						if err != nil {
							t.Errorf("%s: %v", s.fset.Position(c.Pos()), err)
						}
						anchors[page] = found
					}
					if anchor != "" && !hasAnchor(anchors[page], anchor) {
						t.Errorf("%s: %s has no #%s", s.fset.Position(c.Pos()), page, anchor)
					}
				}
			}
		}
	}
}

// pageAnchors counts the anchors of a page of the specification, with the
// modules, fragments, endpoints and event types that are shown on it.
func pageAnchors(dir, page string) (map[string]int, error) {
	content := filepath.Join(dir, "content")
	files, _ := filepath.Glob(filepath.Join(content, page+".md"))
	index, _ := filepath.Glob(filepath.Join(content, page, "_index.md"))
	modules, _ := filepath.Glob(filepath.Join(content, page, "modules", "*.md"))
	files = append(append(files, index...), modules...)
	if len(files) == 0 {
		return map[string]int{}, fmt.Errorf("there is no page %s", page)
	}
	if strings.HasPrefix(page, "rooms/") {
		fragments, _ := filepath.Glob(filepath.Join(content, "rooms/fragments", "*.md"))
		files = append(files, fragments...)
	}
	found := map[string]int{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		for _, m := range headingLine.FindAllStringSubmatch(string(b), -1) {
			found[slug(m[1])]++
		}
		for _, m := range explicitID.FindAllStringSubmatch(string(b), -1) {
			found[m[1]]++
		}
	}
	schemas, _ := filepath.Glob(filepath.Join(dir, "data/event-schemas/schema", "*.yaml"))
	for _, f := range schemas {
		found[slug(strings.TrimSuffix(filepath.Base(f), ".yaml"))]++
	}
	// The API of operations is the page's name without "-api".
	b, err := os.ReadFile("api/spec-operations.tsv")
	for line := range strings.Lines(string(b)) {
		if f := strings.Split(line, "\t"); len(f) > 3 {
			found[strings.ToLower(f[1])+slug(f[2])]++
		}
	}
	return found, err
}

var (
	headingLine = regexp.MustCompile("(?m)^#+ (.*?)(?: \\{.*\\})?$")
	explicitID  = regexp.MustCompile(`(?:id="|\{#)([\w-]+)`)
	repeated    = regexp.MustCompile(`-(\d+)$`)
)

// hasAnchor knows that the second heading of a name gets -1, the third -2.
func hasAnchor(found map[string]int, anchor string) bool {
	// The specification spells it with s, much of the world links it with z.
	anchor = strings.ReplaceAll(anchor, "authorization", "authorisation")
	if found[anchor] > 0 || found[strings.ReplaceAll(anchor, "authorisation", "authorization")] > 0 {
		return true
	}
	m := repeated.FindStringSubmatch(anchor)
	if m == nil {
		return false
	}
	var n int
	fmt.Sscan(m[1], &n)
	return found[strings.TrimSuffix(anchor, m[0])] > n
}

// slug is how the specification's site makes anchors of headings.
func slug(heading string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(heading) {
		switch {
		case r == ' ':
			b.WriteByte('-')
		case r == '-' || r == '_' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			b.WriteRune(r)
		}
	}
	return b.String()
}
