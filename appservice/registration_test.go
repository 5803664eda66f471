package appservice

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hearth/matrix/id"
)

const ircBridge = `
id: "IRC Bridge"
url: "http://127.0.0.1:1234/path/"
as_token: "as-irc"
hs_token: "hs-irc"
sender_localpart: "_irc_bot"
rate_limited: false
protocols: [irc]
de.sorunome.msc2409.push_ephemeral: true
org.matrix.msc3202: true
io.element.msc4190: true
namespaces:
  users:
    - exclusive: true
      regex: "@_irc_.*"
    - exclusive: false
      regex: '@.*:localhost'
  aliases:
    - exclusive: true
      regex: "#_irc_[a-z]+:localhost$"
  rooms:
    - {exclusive: false, regex: '!special.*'}
`

func parse(t testing.TB, text string) *Service {
	t.Helper()
	s, err := Parse([]byte(text), "localhost")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// spec: application-service-api#registration
func TestRegistration(t *testing.T) {
	s := parse(t, ircBridge)
	if s.ID != "IRC Bridge" || s.URL != "http://127.0.0.1:1234/path" || s.Sender != "@_irc_bot:localhost" || s.RateLimited ||
		len(s.Protocols) != 1 || !s.Ephemeral || !s.Encryption || !s.DeviceManagement {
		t.Errorf("%+v", s)
	}
	for u, want := range map[id.User]bool{
		"@_irc_alice:localhost": true, "@bob:localhost": true, "@_irc_bot:localhost": true,
		"@_irc_alice:remote": false, // only users of this server
	} {
		if got := s.OwnsUser(u); got != want {
			t.Errorf("%s: %v", u, got)
		}
	}
	for a, want := range map[id.Alias]bool{"#_irc_rust:localhost": true, "#_irc_rust:localhost:8448": false, "#x#_irc_rust:localhost": false} {
		if got := s.OwnsAlias(a); got != want {
			t.Errorf("%s: %v", a, got)
		}
	}
	if !s.OwnsRoom("!special:localhost") || s.OwnsRoom("!other:localhost") {
		t.Error("rooms")
	}
	silent := parse(t, "{id: a, url: null, as_token: b, hs_token: c, sender_localpart: d, namespaces: {}}")
	if silent.URL != "" || !silent.RateLimited || silent.Ephemeral || !silent.OwnsUser("@d:localhost") || silent.OwnsUser("@e:localhost") {
		t.Errorf("%+v", silent)
	}
}

func TestRegistry(t *testing.T) {
	r, err := NewRegistry(parse(t, ircBridge), parse(t, "{id: b, url: '', as_token: as-b, hs_token: hs, sender_localpart: b, namespaces: {}}"))
	if err != nil {
		t.Fatal(err)
	}
	if s, ok := r.ByToken("as-b"); !ok || s.ID != "b" {
		t.Error("by token")
	}
	for _, wrong := range []string{"", "hs-irc", "as-", "as-bb"} {
		if _, ok := r.ByToken(wrong); ok {
			t.Errorf("%q is a token", wrong)
		}
	}
	if s, ok := r.ByID("b"); !ok || s.ID != "b" || len(r.All()) != 2 {
		t.Error("by id")
	}
	for u, want := range map[id.User]string{
		"@_irc_x:localhost": "IRC Bridge", "@_irc_bot:localhost": "IRC Bridge", "@b:localhost": "b",
		"@bob:localhost": "", "@_irc_x:remote": "",
	} {
		s, ok := r.ExclusiveUser(u)
		if ok != (want != "") || ok && s.ID != want {
			t.Errorf("%s: %v", u, s)
		}
	}
	if _, ok := r.ExclusiveAlias("#_irc_rust:localhost"); !ok {
		t.Error("alias")
	}
	if _, ok := r.ExclusiveAlias("#rust:localhost"); ok {
		t.Error("any alias")
	}
}

// spec: application-service-api#server-admin-style-permissions
func TestAliasesOfServices(t *testing.T) {
	r, err := NewRegistry(parse(t, ircBridge))
	if err != nil {
		t.Fatal(err)
	}
	const reserved, free = id.Alias("#_irc_rust:localhost"), id.Alias("#rust:localhost")
	for _, test := range []struct {
		by      string
		alias   id.Alias
		refused bool
	}{{"", free, false}, {"", reserved, true}, {"IRC Bridge", reserved, false}, {"IRC Bridge", free, true}} {
		if err := r.CheckAlias(test.by, test.alias); (err != nil) != test.refused {
			t.Errorf("%q makes %s: %v", test.by, test.alias, err)
		}
	}
	if !r.ControlsAlias("IRC Bridge", reserved) || r.ControlsAlias("IRC Bridge", free) || r.ControlsAlias("", reserved) {
		t.Error("control")
	}
}

func TestMistakesAreToldByFileAndKey(t *testing.T) {
	const good = "id: a\nurl: http://localhost:1\nas_token: t\nhs_token: h\nsender_localpart: bot\nnamespaces: {}\n"
	for name, test := range map[string]struct{ replace, by, want string }{
		"missing id":         {"id: a\n", "", "id: it is missing"},
		"empty token":        {"as_token: t", "as_token: ''", "as_token: it is empty"},
		"number as token":    {"hs_token: h", "hs_token: 123", "hs_token: 123 is not text; put it in quotes"},
		"missing url":        {"url: http://localhost:1\n", "", "url: it is missing"},
		"bad url":            {"http://localhost:1", "localhost:1", `url: "localhost:1" is not an http or https URL`},
		"bad localpart":      {"sender_localpart: bot", "sender_localpart: 'Bot:x'", `sender_localpart: "Bot:x" is not a localpart`},
		"missing namespaces": {"namespaces: {}", "", "namespaces: it is missing"},
		"namespace no list":  {"{}", "{users: {}}", "namespaces.users: it is not a list"},
		"no exclusive":       {"{}", "{users: [{regex: a}]}", "namespaces.users[0].exclusive: it must be true or false"},
		"no regex":           {"{}", "{aliases: [{exclusive: true}]}", "namespaces.aliases[0].regex: it is missing"},
		"look-ahead":         {"{}", "{rooms: [{exclusive: true, regex: 'a(?=b)'}]}", `namespaces.rooms[0].regex: "a(?=b)" cannot be used`},
		"rate_limited":       {"id: a", "id: a\nrate_limited: soon", "rate_limited: soon is neither true nor false"},
		"protocols":          {"id: a", "id: a\nprotocols: irc", "protocols: it is not a list"},
		"no YAML":            {"id: a", "id: [", ""},
		"nothing":            {good, "", "id: it is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "bridge.yaml")
			if err := os.WriteFile(path, []byte(strings.Replace(good, test.replace, test.by, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Load([]string{path}, "localhost")
			if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v", err)
			}
		})
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"1.yaml": good,
		"2.yaml": strings.Replace(good, "as_token: t", "as_token: u", 1),
		"3.yaml": strings.Replace(good, "id: a", "id: b", 1),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, err := Load([]string{dir + "/1.yaml", dir + "/2.yaml", dir + "/3.yaml", dir + "/4.yaml"}, "localhost")
	for _, want := range []string{"2.yaml: id:", "3.yaml: as_token:", "4.yaml"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in %v", want, err)
		}
	}
	if _, err := Load(nil, "localhost"); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(ircBridge)
	f.Add("id: [")
	f.Add("namespaces: {users: [{regex: '(', exclusive: true}]}")
	f.Fuzz(func(t *testing.T, text string) {
		if s, err := Parse([]byte(text), "localhost"); err == nil {
			s.OwnsUser("@alice:localhost")
		}
	})
}

func BenchmarkOwnsUser(b *testing.B) {
	s := parse(b, ircBridge)
	for b.Loop() {
		s.OwnsUser("@somebody_else:localhost")
	}
}
