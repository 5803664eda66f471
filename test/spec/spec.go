// Package spec checks responses against the schemas of the Matrix
// specification. The documents openapi-*.json are read from the folder that
// HEARTH_SPEC_DIR names, or shared/spec beside or above the repository; where
// there is none, nothing is checked.
//
// It must not know Hearth: it sees methods, paths, statuses and bodies. Start
// at Check.
package spec

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// apis are the documents that a homeserver answers by.
var apis = []string{"client-server", "server-server", "application-service"}

// document is one OpenAPI document.
type document struct {
	url      string
	paths    map[string]any
	compiler *jsonschema.Compiler
	schemas  map[string]*jsonschema.Schema // by location; nil: there is none
}

var (
	mu   sync.Mutex // guards documents and the schemas in them
	load = sync.OnceValues(loadAll)
)

// Check fails the test if a response is not what the specification says of its
// endpoint. Endpoints that it does not have are not checked.
func Check(t testing.TB, method, path string, status int, body []byte) {
	t.Helper()
	if err := Validate(method, path, status, body); err != nil {
		t.Errorf("%s %s: %d: %v\n%s", method, path, status, err, clip(body))
	}
}

// Available says whether there is a specification to check against.
func Available() bool {
	docs, err := load()
	return err == nil && len(docs) > 0
}

// Validate is Check for those who have no test at hand.
func Validate(method, path string, status int, body []byte) error {
	docs, err := load()
	if err != nil {
		return err
	}
	path, _, _ = strings.Cut(path, "?")
	for _, d := range docs {
		template, op, ok := d.operation(method, path)
		if ok {
			return d.validate(template, strings.ToLower(method), op, status, body)
		}
	}
	return nil
}

func clip(b []byte) string {
	if len(b) > 2000 {
		return string(b[:2000]) + "…"
	}
	return string(b)
}

// folder finds the documents: the variable, or shared/spec up to two folders above the repository.
func folder() string {
	if dir := os.Getenv("HEARTH_SPEC_DIR"); dir != "" {
		return dir
	}
	_, file, _, _ := runtime.Caller(0)
	root := filepath.Join(filepath.Dir(file), "..", "..")
	for _, up := range []string{"..", "../.."} {
		dir := filepath.Join(root, up, "shared", "spec")
		if _, err := os.Stat(dir); err == nil {
			return dir
		}
	}
	return ""
}

func loadAll() ([]*document, error) {
	dir := folder()
	if dir == "" {
		return nil, nil
	}
	var docs []*document
	for _, api := range apis {
		file, err := os.Open(filepath.Join(dir, "openapi-"+api+".json"))
		if err != nil {
			return nil, err
		}
		parsed, err := jsonschema.UnmarshalJSON(file)
		file.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", api, err)
		}
		d := &document{url: "mem:///" + api, compiler: jsonschema.NewCompiler(), schemas: map[string]*jsonschema.Schema{}}
		d.compiler.DefaultDraft(jsonschema.Draft2020)
		if err := d.compiler.AddResource(d.url, parsed); err != nil {
			return nil, err
		}
		d.paths, _ = parsed.(map[string]any)["paths"].(map[string]any)
		docs = append(docs, d)
	}
	return docs, nil
}

// operation finds an endpoint by a real path. The template with the most
// literal segments wins.
func (d *document) operation(method, path string) (template string, op map[string]any, ok bool) {
	best := -1
	for candidate, item := range d.paths {
		literal, fits := match(candidate, path)
		o, has := item.(map[string]any)[strings.ToLower(method)].(map[string]any)
		if fits && has && literal > best {
			template, op, best = candidate, o, literal
		}
	}
	return template, op, best >= 0
}

func match(template, path string) (literal int, ok bool) {
	want, got := strings.Split(template, "/"), strings.Split(path, "/")
	if len(want) != len(got) {
		return 0, false
	}
	for i, w := range want {
		switch {
		case strings.HasPrefix(w, "{"):
			if got[i] == "" {
				return 0, false
			}
		case w != got[i]:
			return 0, false
		default:
			literal++
		}
	}
	return literal, true
}

func (d *document) validate(template, method string, op map[string]any, status int, body []byte) error {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("the body is not JSON: %w", err)
	}
	responses, _ := op["responses"].(map[string]any)
	if _, documented := responses[strconv.Itoa(status)]; !documented || status >= http.StatusBadRequest {
		if err := checkError(status, value); err != nil {
			return err
		}
	}
	if m, ok := value.(map[string]any); ok && status == http.StatusUnauthorized && (m["errcode"] == "M_MISSING_TOKEN" || m["errcode"] == "M_UNKNOWN_TOKEN") {
		// Also where 401 has a form of its own.
		// spec: client-server-api#client-authentication
		return nil
	}
	s, err := d.schema(template, method, status, responses)
	if err != nil || s == nil {
		return err
	}
	return s.Validate(value)
}

// schema compiles what one status of an endpoint must look like; nil: the
// specification does not say.
func (d *document) schema(template, method string, status int, responses map[string]any) (*jsonschema.Schema, error) {
	response, _ := responses[strconv.Itoa(status)].(map[string]any)
	content, _ := response["content"].(map[string]any)
	media, _ := content["application/json"].(map[string]any)
	if media["schema"] == nil {
		return nil, nil
	}
	at := d.url + "#/paths/" + pointer(template) + "/" + method + "/responses/" + strconv.Itoa(status) + "/content/application~1json/schema"
	mu.Lock()
	defer mu.Unlock()
	if s, ok := d.schemas[at]; ok {
		return s, nil
	}
	s, err := d.compiler.Compile(at)
	if err == nil {
		d.schemas[at] = s
	}
	return s, err
}

func pointer(s string) string {
	return url.PathEscape(strings.ReplaceAll(strings.ReplaceAll(s, "~", "~0"), "/", "~1"))
}

// checkError holds statuses that an endpoint's schema does not name to the
// form that all errors have.
// spec: client-server-api#standard-error-response
func checkError(status int, value any) error {
	if status < http.StatusBadRequest {
		return fmt.Errorf("the specification has no such status here")
	}
	object, _ := value.(map[string]any)
	if status == http.StatusUnauthorized && object["flows"] != nil {
		return nil // a challenge of interactive authentication is no failure
	}
	if code, ok := object["errcode"].(string); !ok || code == "" {
		return fmt.Errorf("an error without errcode")
	}
	return nil
}
