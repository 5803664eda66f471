package appservice

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

// Service is one application service, as its registration file has it. It does
// not change after it was read.
// spec: application-service-api#registration
type Service struct {
	ID          string
	URL         string  // where it listens, without a slash at the end; empty: it wants to hear nothing
	Sender      id.User // of sender_localpart
	RateLimited bool
	Protocols   []string // third-party networks that it knows
	Ephemeral   bool     // it wants typing, receipts and presence too
	// DeviceManagement is what msc: 4190 asked for before v1.17 gave it to all.
	DeviceManagement bool
	// Encryption asks for device lists and key counts in transactions. msc: 3202
	Encryption bool

	server  id.Server
	asToken string
	hsToken string
	users   []namespace
	aliases []namespace
	rooms   []namespace
}

// namespace is a set of names by a regular expression.
type namespace struct {
	exclusive bool
	regex     *regexp.Regexp
}

// OwnsUser says whether a user of this server is in the service's namespaces.
func (s *Service) OwnsUser(u id.User) bool {
	return u.Server() == s.server && (u == s.Sender || matches(s.users, string(u)))
}

// OwnsAlias says whether an alias is in the service's namespaces.
func (s *Service) OwnsAlias(a id.Alias) bool { return matches(s.aliases, string(a)) }

// OwnsRoom says whether a room id is in the service's namespaces.
func (s *Service) OwnsRoom(r id.Room) bool { return matches(s.rooms, string(r)) }

func (s *Service) hasUserAlone(u id.User) bool {
	return u == s.Sender || u.Server() == s.server && matchesExclusive(s.users, string(u))
}

func matches(list []namespace, name string) bool {
	return slices.ContainsFunc(list, func(n namespace) bool { return n.regex.MatchString(name) })
}

func matchesExclusive(list []namespace, name string) bool {
	return slices.ContainsFunc(list, func(n namespace) bool { return n.exclusive && n.regex.MatchString(name) })
}

// Registry is all application services of this server.
type Registry struct {
	services []*Service
	byToken  map[[sha256.Size]byte]*Service
}

// Load reads registration files. What is wrong in any of them is told by file
// and key, all at once.
func Load(paths []string, server id.Server) (*Registry, error) {
	r := &Registry{byToken: map[[sha256.Size]byte]*Service{}}
	var errs []error
	for _, path := range paths {
		body, err := os.ReadFile(path)
		if err != nil {
			errs = append(errs, fmt.Errorf("application service: %w", err))
			continue
		}
		s, err := Parse(body, server)
		if err == nil {
			err = r.add(s)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("application service %s: %w", path, err))
		}
	}
	return r, errors.Join(errs...)
}

// NewRegistry makes a registry of services that were read already.
func NewRegistry(services ...*Service) (*Registry, error) {
	r := &Registry{byToken: map[[sha256.Size]byte]*Service{}}
	for _, s := range services {
		if err := r.add(s); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *Registry) add(s *Service) error {
	if _, taken := r.ByID(s.ID); taken {
		return fmt.Errorf("id: %q is the id of another application service too", s.ID)
	}
	token := sha256.Sum256([]byte(s.asToken))
	if other := r.byToken[token]; other != nil {
		return fmt.Errorf("as_token: it is the same as that of %q", other.ID)
	}
	r.services = append(r.services, s)
	r.byToken[token] = s
	return nil
}

// All lists the services in the order of their files.
func (r *Registry) All() []*Service { return r.services }

// ByToken finds the service of an as_token. The token is hashed first, so that
// the time it takes tells nothing about other tokens.
func (r *Registry) ByToken(token string) (*Service, bool) {
	s, ok := r.byToken[sha256.Sum256([]byte(token))]
	return s, ok
}

// ByID finds a service by its id.
func (r *Registry) ByID(service string) (*Service, bool) {
	i := slices.IndexFunc(r.services, func(s *Service) bool { return s.ID == service })
	if i < 0 {
		return nil, false
	}
	return r.services[i], true
}

// ExclusiveUser finds the service that alone may make a user; its own user is
// always among these.
func (r *Registry) ExclusiveUser(u id.User) (*Service, bool) {
	return r.find(func(s *Service) bool { return s.hasUserAlone(u) })
}

// ExclusiveAlias finds the service that alone may make an alias.
func (r *Registry) ExclusiveAlias(a id.Alias) (*Service, bool) {
	return r.find(func(s *Service) bool { return matchesExclusive(s.aliases, string(a)) })
}

// CheckAlias refuses aliases that another service has for itself and, to a
// service, those outside its namespaces. by is the service that asks, or empty.
// spec: application-service-api#server-admin-style-permissions
func (r *Registry) CheckAlias(by string, a id.Alias) error {
	if r == nil {
		return nil
	}
	if s, ok := r.ByID(by); ok && !s.OwnsAlias(a) {
		return errcode.Exclusive("the application service has not reserved this alias")
	}
	if owner, ok := r.ExclusiveAlias(a); ok && owner.ID != by {
		return errcode.Exclusive("this alias is reserved by an application service")
	}
	return nil
}

// ControlsAlias says whether a service may do with an alias what it likes.
func (r *Registry) ControlsAlias(by string, a id.Alias) bool {
	if r == nil {
		return false
	}
	s, ok := r.ByID(by)
	return ok && s.OwnsAlias(a)
}

func (r *Registry) find(ok func(*Service) bool) (*Service, bool) {
	i := slices.IndexFunc(r.services, ok)
	if i < 0 {
		return nil, false
	}
	return r.services[i], true
}

// Parse reads a registration file, which is YAML as Synapse reads it.
func Parse(body []byte, server id.Server) (*Service, error) {
	var doc map[string]any
	if err := yaml.Unmarshal(body, &doc); err != nil {
		return nil, err
	}
	f := &fields{doc: doc}
	s := &Service{
		ID:               f.text("id"),
		URL:              f.url(),
		RateLimited:      f.boolean("rate_limited", true),
		Protocols:        f.list("protocols"),
		Ephemeral:        f.boolean("receive_ephemeral", false) || f.boolean("de.sorunome.msc2409.push_ephemeral", false),
		DeviceManagement: f.boolean("io.element.msc4190", false),
		Encryption:       f.boolean("org.matrix.msc3202", false),
		server:           server,
		asToken:          f.text("as_token"),
		hsToken:          f.text("hs_token"),
	}
	localpart := f.text("sender_localpart")
	if localpart != "" && !id.ValidLocalpart(localpart) {
		f.fail("sender_localpart", "%q is not a localpart: it may have a-z, 0-9 and ._=-/+ only", localpart)
	}
	s.Sender = id.MakeUser(localpart, server)
	if len(s.Sender) > id.MaxLength {
		f.fail("sender_localpart", "it is too long")
	}
	spaces, ok := doc["namespaces"].(map[string]any)
	if !ok {
		f.fail("namespaces", "it is missing, or no group of users, aliases and rooms")
	}
	s.users = f.namespaces(spaces, "users")
	s.aliases = f.namespaces(spaces, "aliases")
	s.rooms = f.namespaces(spaces, "rooms")
	return s, errors.Join(f.errs...)
}

// fields reads keys of a document and collects what is wrong.
type fields struct {
	doc  map[string]any
	errs []error
}

func (f *fields) fail(key, format string, a ...any) {
	f.errs = append(f.errs, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, a...)))
}

// text reads a required string. A token of digits only must be quoted, or
// YAML takes it for a number and other readers for another one.
func (f *fields) text(key string) string {
	switch v := f.doc[key].(type) {
	case nil:
		f.fail(key, "it is missing")
	case string:
		if v == "" {
			f.fail(key, "it is empty")
		}
		return v
	default:
		f.fail(key, "%v is not text; put it in quotes", v)
	}
	return ""
}

func (f *fields) boolean(key string, otherwise bool) bool {
	switch v := f.doc[key].(type) {
	case nil:
	case bool:
		return v
	default:
		f.fail(key, "%v is neither true nor false", v)
	}
	return otherwise
}

func (f *fields) list(key string) []string {
	v, ok := f.doc[key].([]any)
	if f.doc[key] != nil && !ok {
		f.fail(key, "it is not a list")
	}
	var out []string
	for i, item := range v {
		s, ok := item.(string)
		if !ok {
			f.fail(fmt.Sprintf("%s[%d]", key, i), "%v is not text", item)
		}
		out = append(out, s)
	}
	return out
}

func (f *fields) url() string {
	v, given := f.doc["url"]
	if !given {
		f.fail("url", "it is missing; write null for a service that wants to hear nothing")
		return ""
	}
	s, ok := v.(string)
	if v != nil && !ok {
		f.fail("url", "%v is not text", v)
	}
	if s == "" {
		return ""
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		f.fail("url", "%q is not an http or https URL", s)
	}
	return strings.TrimRight(s, "/")
}

func (f *fields) namespaces(spaces map[string]any, kind string) []namespace {
	key := "namespaces." + kind
	items, ok := spaces[kind].([]any)
	if spaces[kind] != nil && !ok {
		f.fail(key, "it is not a list")
	}
	var out []namespace
	for i, item := range items {
		if n, ok := f.namespace(fmt.Sprintf("%s[%d]", key, i), item); ok {
			out = append(out, n)
		}
	}
	return out
}

// namespace reads one expression. Names are matched from their beginning, not
// to their end, as Synapse does; in time linear in their length whatever the
// expression, which for some of them means that they cannot be had.
func (f *fields) namespace(key string, item any) (n namespace, ok bool) {
	entry, ok := item.(map[string]any)
	if !ok {
		f.fail(key, "it is not a group of exclusive and regex")
		return n, false
	}
	if n.exclusive, ok = entry["exclusive"].(bool); !ok {
		f.fail(key+".exclusive", "it must be true or false")
		return n, false
	}
	text, ok := entry["regex"].(string)
	if !ok {
		f.fail(key+".regex", "it is missing, or not text")
		return n, false
	}
	regex, err := regexp.Compile(`\A(?:` + text + `)`)
	if err != nil {
		f.fail(key+".regex", "%q cannot be used: %s (look-ahead, look-behind and back-references are not supported)", text, err)
		return n, false
	}
	n.regex = regex
	return n, true
}
