package room

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
)

func aclEvent(t testing.TB, content string) *event.PDU {
	t.Helper()
	v, _ := roomversion.Get("11")
	pdu, err := event.ParseTrusted(v, "$acl", []byte(`{"content":`+content+`,"room_id":"!r:a","sender":"@alice:a","state_key":"","type":"m.room.server_acl"}`))
	if err != nil {
		t.Fatal(err)
	}
	return pdu
}

// spec: client-server-api#mroomserver_acl
//
// MSC4436: names of servers have no case.
func TestServerACL(t *testing.T) {
	for _, test := range []struct {
		content         string
		allowed, denied string
	}{
		{`{"allow":["*"]}`, "a.org evil.com 1.2.3.4 [::1]:8448", ""},
		{`{}`, "", "a.org"},
		{`{"allow":"*"}`, "", "a.org"},
		{`{"allow":["*"],"deny":["evil.com","*.evil.com"]}`, "a.org notevil.com evil.com.org", "evil.com evil.com:8448 EVIL.com x.evil.com x.y.Evil.COM:1"},
		{`{"allow":["*"],"deny":["EVIL.COM"]}`, "a.org", "evil.com"},
		{`{"allow":["*.org","?.com"],"deny":[]}`, "a.org a.com .org", "ab.com org a.net"},
		{`{"allow":["a.org:8448"]}`, "", "a.org a.org:8448"},
		{`{"allow":["*"],"allow_ip_literals":false}`, "a.org 1.2.3", "1.2.3.4 1.2.3.4:8448 [::1] [2001:db8::1]:443"},
		{`{"allow":["*"],"allow_ip_literals":"false"}`, "1.2.3.4", ""},
		{`{"allow":["*"],"deny":["[::1]","1.2.3.*"]}`, "[::2] 1.2.4.4", "[::1] [::1]:8448 1.2.3.4"},
		{`{"allow":["*",1,null],"deny":[{"a":1},"b.org"]}`, "a.org", "b.org"},
		{`{"allow":["a**b***c"]}`, "abc aXbYc", "ab"},
		{`{"allow":["*"],"deny":["a.org"," b.org"]}`, "b.org", "a.org"},
	} {
		a := compileACL(aclEvent(t, test.content))
		for range 2 { // the second time from memory
			for _, s := range strings.Fields(test.allowed) {
				if !a.allows(id.Server(s)) {
					t.Errorf("%s keeps %s out", test.content, s)
				}
			}
			for _, s := range strings.Fields(test.denied) {
				if a.allows(id.Server(s)) {
					t.Errorf("%s lets %s in", test.content, s)
				}
			}
		}
	}
}

// CVE-2023-45129: a list made of expensive patterns. What they cost is counted in
// steps, since a test has no business with time.
func TestHostileServerACLIsCheapToMatch(t *testing.T) {
	patterns := []string{strings.Repeat("*a", 30000), strings.Repeat("?*", 20000), strings.Repeat("*", 50000) + "b", strings.Repeat("a", 40000)}
	for i := range 500 {
		patterns = append(patterns, fmt.Sprintf("%sx%d", strings.Repeat("a*", 50), i))
	}
	content, err := json.Marshal(map[string]any{"allow": []string{"*"}, "deny": patterns})
	if err != nil {
		t.Fatal(err)
	}
	a := compileACL(aclEvent(t, string(content)))
	for _, p := range a.deny.patterns {
		if len(p) > 2*id.MaxLength+1 {
			t.Errorf("a pattern of %d bytes was kept, longer than any name", len(p))
		}
	}
	for i := range 3 * maxDecided {
		if !a.allows(id.Server(fmt.Sprintf("%s%d.org", strings.Repeat("a", 200), i))) {
			t.Fatal("nothing denies this server")
		}
	}
	if len(a.decided) > maxDecided {
		t.Errorf("%d decisions are remembered", len(a.decided))
	}
}

func FuzzMatchGlob(f *testing.F) {
	for _, s := range [][2]string{{"*", ""}, {"a*b?c", "aXXbYc"}, {"*a*a*a", "aaaaab"}, {"??", "a"}, {"a*", "a"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 50 || len(s) > 50 {
			return
		}
		var re strings.Builder
		for i := range len(pattern) {
			switch c := pattern[i]; {
			case c == '*':
				re.WriteString("[0-9a-z]*")
			case c == '?':
				re.WriteString("[0-9a-z]")
			case c >= 'a' && c <= 'z':
				re.WriteByte(c)
			default:
				return
			}
		}
		if strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
			return
		}
		want := regexp.MustCompile("^" + re.String() + "$").MatchString(s)
		if got := matchGlob(squeeze(pattern), s); got != want {
			t.Errorf("%q matches %q: %t, want %t", pattern, s, got, want)
		}
	})
}

func BenchmarkServerACL(b *testing.B) {
	deny := make([]string, 500)
	for i := range deny {
		deny[i] = fmt.Sprintf("*.evil%d.example.org", i)
	}
	content, _ := json.Marshal(map[string]any{"allow": []string{"*"}, "deny": deny})
	a := compileACL(aclEvent(b, string(content)))
	for b.Loop() {
		a.decide("matrix.example.org")
	}
}
