package garbage_test

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// generator makes requests that are nearly right: what is right lets them get
// past the first checks, the rest is what a handler must survive.
type generator struct {
	*rand.Rand
	// known has real values by the name of a parameter or field, such as the
	// ids of rooms that exist.
	known map[string][]string
	// words become values of known in templates.
	words *strings.Replacer
	// care is how rarely something is wrong; each request has its own.
	care int
}

// wrong is true now and then, by how careful this request is.
func (g *generator) wrong(n int) bool { return g.oneIn(n * g.care) }

// oneIn is true once in n times.
func (g *generator) oneIn(n int) bool { return g.IntN(n) == 0 }

func pick[T any](g *generator, list []T) T { return list[g.IntN(len(list))] }

// nasty are texts that are right nowhere.
var nasty = []string{
	"", " ", "\x00", "a\x00b", "\xff\xfe", "\xed\xa0\x80", "..", ".", "/", "%", "%00", "%2F", "?", "#", "\r\nX-A: b", "\u202e", "\ufeff",
	"null", "undefined", "true", "[object Object]", "{}", "'; DROP TABLE users; --", `\`, `"`, "<script>", "${jndi:x}", "𝕳𝖊𝖆𝖗𝖙𝖍",
	"!", "@", "$", "#:", "!:", "@:localhost", "@alice", "@alice:", "@al ice:localhost", "@ALICE:localhost", "!nowhere:localhost", "$nothing",
	"@alice:localhost:99999", "@alice:[::1", "@alice:127.0.0.1:1", "!room:127.0.0.1:1", "#alias:127.0.0.1:1", "mxc://", "mxc://localhost/../x", "mxc://127.0.0.1:1/x",
	"0", "-1", "-0", "1.5", "1e3", "1e400", "NaN", "Infinity", "0x10", "9223372036854775807", "9223372036854775808", "-9223372036854775809",
	"99999999999999999999999999", "9007199254740993", "٣", "m.room.create", "m.room.member", "m.room.power_levels", "m.room.encrypted",
	"http://127.0.0.1:1/", "https://[::1]:1/x", "file:///etc/passwd", "a@localhost", "é", "é", "\u0000", "A\tB",
	strings.Repeat("a", 256), strings.Repeat("é", 128), "@" + strings.Repeat("a", 300) + ":localhost", strings.Repeat("x", 70_000), "!" + strings.Repeat("[", 4000),
	noise(300), noise(3000), noise(9000), // which no database makes shorter
}

// noise is a text without repetition.
func noise(n int) string {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	r := rand.New(rand.NewPCG(1, uint64(n)))
	b := make([]byte, n)
	for i := range b {
		b[i] = letters[r.IntN(len(letters))]
	}
	return string(b)
}

// kin are names under which the same values are known.
var kin = map[string]string{
	"room_id": "roomId", "roomIdOrAlias": "roomId", "room": "roomId", "rooms": "roomId", "user_id": "userId", "user": "userId", "invite": "userId",
	"event_id": "eventId", "event": "eventId", "redacts": "eventId", "device_id": "deviceId", "device": "deviceId", "devices": "deviceId",
	"room_alias": "roomAlias", "alias": "roomAlias", "server": "serverName", "via": "serverName", "server_name": "serverName",
	"since": "from", "to": "from", "event_type": "eventType", "rel_type": "relType", "type": "eventType",
	"filter": "filterId", "auth": "auth", "content_uri": "mxc", "url": "mxc", "avatar_url": "mxc",
	"Room": "roomId", "Event": "eventId", "User": "userId", "Device": "deviceId", "Server": "serverName", "Alias": "roomAlias",
	"m.fully_read": "eventId", "m.read": "eventId", "m.read.private": "eventId",
}

// text is a value for a parameter or field of a name and type.
func (g *generator) text(name string, t reflect.Type) string {
	if g.wrong(5) {
		return pick(g, nasty)
	}
	for _, n := range []string{name, kin[name], kin[typeName(t)]} {
		if list := g.known[n]; len(list) > 0 && !g.wrong(8) {
			return pick(g, list)
		}
	}
	if t != nil {
		switch kind := base(t).Kind(); {
		case kind == reflect.Bool:
			return pick(g, []string{"true", "false"})
		case reflect.Int <= kind && kind <= reflect.Float64:
			if g.wrong(4) {
				return pick(g, numbers)
			}
			return pick(g, []string{"0", "1", "5", "10", "100"})
		}
	}
	return pick(g, []string{"a", "x.y", "m.text", "some words", strconv.Itoa(g.IntN(1000))})
}

func base(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	return t
}

func typeName(t reflect.Type) string {
	if t == nil {
		return ""
	}
	return base(t).Name()
}

// path fills the placeholders of a route.
func (g *generator) path(pattern string, takes map[string]reflect.Type) string {
	var b strings.Builder
	for i, part := range strings.Split(strings.TrimSuffix(pattern, "{$}"), "/") {
		if i > 0 {
			b.WriteByte('/')
		}
		if name, ok := strings.CutPrefix(part, "{"); ok {
			name = strings.TrimSuffix(strings.TrimSuffix(name, "}"), "...")
			part = url.PathEscape(g.text(name, takes[name]))
		}
		b.WriteString(part)
	}
	return b.String()
}

// query has most of what the route knows, some of it twice, and more.
func (g *generator) query(takes map[string]reflect.Type) string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(takes)) {
		for g.oneIn(2) {
			list = append(list, name+"="+url.QueryEscape(g.text(name, takes[name])))
		}
	}
	if g.wrong(20) {
		list = append(list, pick(g, []string{"%zz=1", "a=%f", "=", "&&", ";", "x=" + strings.Repeat("y", 100_000), "access_token=%00", "user_id=@bob:localhost"}))
	}
	return strings.Join(list, "&")
}

// whole are bodies that are wrong as a whole.
var whole = []string{
	"", " ", "null", "true", "0", `""`, "[]", "{", "}", "[[", `{"a"`, `{"a":}`, `{"a":1,}`, `{'a':1}`, `{"a":1}{"b":2}`, `{"a":1} x`, "{}\x00",
	`{"a":1,"a":2}`, "{\"\xff\":1}", "{\"a\":\"\xed\xa0\x80\"}", `{"a":"\ud800"}`, `{"\u0000":"\u0000"}`, "\xef\xbb\xbf{}", "\xff\xfe{\x00}\x00",
	`{"a":1e999999}`, `{"a":-1e-999999}`, `{"a":` + strings.Repeat("9", 5000) + `}`, `{"a":01}`, `{"a":+1}`, `{"a":NaN}`, `{"a":.5}`,
	strings.Repeat("[", 100_000), strings.Repeat(`{"a":`, 1000) + "1" + strings.Repeat("}", 1000), `{"a":` + strings.Repeat("[", 150) + strings.Repeat("]", 150) + "}",
	`{"` + strings.Repeat("k", 100_000) + `":1}`, `{"a":"` + strings.Repeat("v", 300_000) + `"}`, "a=b&c=d", "--x\r\n\r\n--x--", "<xml/>",
	"{\"a\":\"\x01\"}", "{\"a\":\"line\nbreak\"}", "\x1f\x8b\x08\x00",
}

// templates are contents as the specification has them, to be spoiled.
var templates = []string{
	`{"msgtype":"m.text","body":"x","format":"org.matrix.custom.html","formatted_body":"<b>x</b>","m.mentions":{"user_ids":["OTHERUSER"],"room":true}}`,
	`{"body":"x","msgtype":"m.text","m.new_content":{"body":"y"},"m.relates_to":{"rel_type":"m.replace","event_id":"$EVENT"}}`,
	`{"body":"x","m.relates_to":{"rel_type":"m.thread","event_id":"$EVENT","is_falling_back":true,"m.in_reply_to":{"event_id":"$EVENT"}}}`,
	`{"m.relates_to":{"rel_type":"m.annotation","event_id":"$EVENT","key":"x"}}`,
	`{"redacts":"$EVENT","reason":"x"}`,
	`{"membership":"join","displayname":"a","avatar_url":"mxc://localhost/x"}`,
	`{"membership":"invite","third_party_invite":{"display_name":"a","signed":{"mxid":"OTHERUSER","token":"t","signatures":{"x":{"ed25519:0":"x"}}}}}`,
	`{"membership":"join","join_authorised_via_users_server":"USER"}`,
	`{"membership":"ban","reason":"x"}`, `{"membership":"knock"}`, `{"membership":"leave"}`,
	`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"!ROOM"}]}`, `{"join_rule":"knock_restricted","allow":[]}`,
	`{"users":{"USER":100,"OTHERUSER":50},"users_default":0,"events":{"m.room.name":50},"events_default":0,"state_default":50,"ban":50,"kick":50,"redact":50,"invite":0,"notifications":{"room":50}}`,
	`{"creator":"USER","room_version":"11","type":"m.space","predecessor":{"room_id":"!ROOM","event_id":"$EVENT"},"additional_creators":["OTHERUSER"],"m.federate":true}`,
	`{"alias":"#a:localhost","alt_aliases":["#b:localhost"]}`, `{"name":"x"}`, `{"topic":"x","m.topic":{"m.text":[{"body":"x","mimetype":"text/plain"}]}}`,
	`{"history_visibility":"joined"}`, `{"guest_access":"can_join"}`, `{"algorithm":"m.megolm.v1.aes-sha2","rotation_period_ms":1,"rotation_period_msgs":1}`,
	`{"deny":["*.x","?"],"allow":["*"],"allow_ip_literals":false}`, `{"body":"x","replacement_room":"!ROOM"}`, `{"pinned":["$EVENT"]}`,
	`{"via":["localhost"],"order":"a","suggested":true}`, `{"url":"mxc://localhost/x","info":{"w":1,"h":1,"mimetype":"image/png","size":1}}`,
	`{"ignored_users":{"OTHERUSER":{}}}`, `{"OTHERUSER":["!ROOM"]}`, `{"order":0.5}`, `{"event_id":"$EVENT"}`, `{"enabled":true}`,
	`{"actions":["notify",{"set_tweak":"sound","value":"default"}],"conditions":[{"kind":"event_match","key":"content.body","pattern":"a*?"},{"kind":"room_member_count","is":">=2"},{"kind":"sender_notification_permission","key":"room"}],"pattern":"x"}`,
	`{"room":{"timeline":{"limit":10,"types":["m.*"],"not_types":["*"],"senders":["OTHERUSER"],"rooms":["!ROOM"],"contains_url":true,"lazy_load_members":true,"include_redundant_members":true,"related_by_rel_types":["m.thread"],"unread_thread_notifications":true},"state":{"limit":1},"ephemeral":{},"account_data":{},"include_leave":true,"rooms":["!ROOM"]},"presence":{"types":["*"]},"account_data":{"not_types":["x"]},"event_fields":["content.body","a\\.b"],"event_format":"federation"}`,
	`{"user_id":"USER","device_id":"DEV","algorithms":["m.olm.v1.curve25519-aes-sha2"],"keys":{"curve25519:DEV":"x","ed25519:DEV":"y"},"signatures":{"USER":{"ed25519:DEV":"z"}}}`,
	`{"user_id":"USER","usage":["master"],"keys":{"ed25519:nqOvzeuGWT/sRx3h7+MHoInYj3Uk2LD/unI9kDYcHwk":"nqOvzeuGWT/sRx3h7+MHoInYj3Uk2LD/unI9kDYcHwk"},"signatures":{"USER":{"ed25519:DEV":"z"}}}`,
	`{"USER":{"DEV":{"user_id":"USER","device_id":"DEV","algorithms":[],"keys":{},"signatures":{"USER":{"ed25519:DEV":"z"}}}}}`,
	`{"rooms":{"!ROOM":{"sessions":{"s":{"first_message_index":1,"forwarded_count":0,"is_verified":true,"session_data":{"ciphertext":"x","mac":"y","ephemeral":"z"}}}}}}`,
	`{"sessions":{"s":{"first_message_index":1,"forwarded_count":0,"is_verified":true,"session_data":{}}}}`,
	`{"first_message_index":1,"forwarded_count":0,"is_verified":false,"session_data":{"a":1}}`,
	`{"public_key":"x","signatures":{"USER":{"ed25519:DEV":"z"}}}`,
	`{"type":"m.login.password","identifier":{"type":"m.id.user","user":"USER"},"password":"PASSWORD","session":"s"}`,
	`{"type":"m.login.dummy"}`, `{"type":"m.login.token","token":"x"}`, `{"type":"m.login.registration_token","token":"x"}`,
	`{"*":{"DEV":{"a":1}},"OTHERUSER":{"*":{"b":2}}}`, `{}`, `{"displayname":"a"}`, `{"avatar_url":"mxc://localhost/x"}`, `{"m.tz":"Europe/Berlin"}`,
}

// body is one for an operation that takes a struct of a type.
func (g *generator) body(operation string, t reflect.Type) []byte {
	if g.wrong(6) {
		return []byte(pick(g, whole))
	}
	var b bytes.Buffer
	if list := right[operation]; len(list) > 0 && !g.oneIn(4) {
		g.spoil(&b, pick(g, list), 0)
	} else {
		g.value(&b, t, "", 0)
	}
	if g.wrong(8) {
		return g.corrupt(b.Bytes())
	}
	return b.Bytes()
}

// corrupt spoils single bytes, or the end.
func (g *generator) corrupt(b []byte) []byte {
	if len(b) == 0 {
		return b
	}
	b = bytes.Clone(b)
	if g.oneIn(3) {
		return b[:g.IntN(len(b))]
	}
	for range 1 + g.IntN(3) {
		b[g.IntN(len(b))] = byte(g.IntN(256))
	}
	return b
}

var rawValue = reflect.TypeFor[jsontext.Value]()

// value writes JSON that mostly has a type.
func (g *generator) value(b *bytes.Buffer, t reflect.Type, name string, depth int) {
	if depth > 0 && g.wrong(14) || depth > 8 {
		g.anything(b, depth)
		return
	}
	if t == rawValue || t.Kind() == reflect.Interface {
		g.template(b, depth)
		return
	}
	switch t.Kind() {
	case reflect.Pointer:
		if g.wrong(8) {
			b.WriteString("null")
			return
		}
		g.value(b, t.Elem(), name, depth)
	case reflect.String:
		g.quote(b, g.text(name, t))
	case reflect.Slice, reflect.Array:
		n := g.IntN(4)
		if g.oneIn(40) {
			n = 2000
		}
		b.WriteByte('[')
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			g.value(b, t.Elem(), name, depth+1)
		}
		b.WriteByte(']')
	case reflect.Map:
		g.object(b, g.IntN(4), func(int) string { return g.text(name, t.Key()) }, func(int) { g.value(b, t.Elem(), name, depth+1) })
	case reflect.Struct:
		g.fields(b, t, depth)
	case reflect.Bool:
		b.WriteString(pick(g, []string{"true", "false"}))
	default:
		if g.wrong(3) {
			b.WriteString(pick(g, numbers))
			return
		}
		b.WriteString(pick(g, numbers[:3]))
	}
}

var numbers = []string{"1", "5", "0", "-1", "100", "1.5", "-0", "1e2", "1E400", "9007199254740991", "9007199254740993", "9223372036854775807", "9223372036854775808", "-9223372036854775809", "123456789012345678901234567890"}

// object writes members; a name may come twice, which is one of the faults.
func (g *generator) object(b *bytes.Buffer, n int, name func(int) string, value func(int)) {
	b.WriteByte('{')
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		g.quote(b, name(i))
		b.WriteByte(':')
		value(i)
	}
	b.WriteByte('}')
}

// fields writes an object for a struct by the tags of its fields. A struct
// without any reads its JSON by itself.
func (g *generator) fields(b *bytes.Buffer, t reflect.Type, depth int) {
	type member struct {
		name string
		t    reflect.Type
	}
	var members []member
	var collect func(t reflect.Type)
	collect = func(t reflect.Type) {
		for i := range t.NumField() {
			f := t.Field(i)
			name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			switch {
			case name == "-" || !f.IsExported() && !f.Anonymous:
			case f.Tag.Get("body") == "." && base(f.Type).Kind() == reflect.Struct, name == "" && f.Anonymous && base(f.Type).Kind() == reflect.Struct,
				strings.Contains(options, "inline") && base(f.Type).Kind() == reflect.Struct:
				collect(base(f.Type))
			case name != "":
				members = append(members, member{strings.Trim(name, "'"), f.Type})
			}
		}
	}
	collect(t)
	if len(members) == 0 {
		g.template(b, depth)
		return
	}
	var chosen []member
	for _, m := range members {
		if !g.oneIn(4) {
			chosen = append(chosen, m)
		}
	}
	if g.wrong(30) {
		chosen = append(chosen, member{"unexpected", rawValue})
	}
	if g.wrong(60) && len(chosen) > 0 {
		chosen = append(chosen, chosen[0])
	}
	g.object(b, len(chosen), func(i int) string { return chosen[i].name }, func(i int) { g.value(b, chosen[i].t, chosen[i].name, depth+1) })
}

// template writes a known content with a part or two spoiled.
func (g *generator) template(b *bytes.Buffer, depth int) {
	if g.wrong(4) {
		g.anything(b, depth)
		return
	}
	g.spoil(b, pick(g, templates), depth)
}

// spoil writes a JSON text whose capital words become values that exist.
func (g *generator) spoil(b *bytes.Buffer, text string, depth int) {
	text = g.words.Replace(strings.ReplaceAll(text, "NUMBER", strconv.Itoa(g.IntN(1e9))))
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		panic(fmt.Sprintf("%s: %v", text, err))
	}
	g.spoiled(b, v, depth)
}

func (g *generator) spoiled(b *bytes.Buffer, v any, depth int) {
	if g.wrong(8) {
		g.anything(b, depth)
		return
	}
	switch v := v.(type) {
	case map[string]any:
		names := slices.DeleteFunc(slices.Sorted(maps.Keys(v)), func(string) bool { return g.wrong(12) })
		g.object(b, len(names), func(i int) string {
			if g.wrong(20) {
				return pick(g, nasty)
			}
			return names[i]
		}, func(i int) { g.spoiled(b, v[names[i]], depth+1) })
	case []any:
		b.WriteByte('[')
		for i, e := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			g.spoiled(b, e, depth+1)
		}
		b.WriteByte(']')
	case string:
		if g.wrong(6) {
			v = pick(g, nasty)
		}
		g.quote(b, v)
	default:
		text, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		b.Write(text)
	}
}

// anything writes a value of no particular type.
func (g *generator) anything(b *bytes.Buffer, depth int) {
	if depth > 8 {
		b.WriteString("[]")
		return
	}
	switch g.IntN(9) {
	case 0:
		b.WriteString("null")
	case 1:
		b.WriteString("true")
	case 2, 3:
		b.WriteString(pick(g, numbers))
	case 4, 5:
		g.quote(b, pick(g, nasty))
	case 6:
		n := g.IntN(100)
		b.WriteString(strings.Repeat("[", n) + strings.Repeat("]", n))
		if n == 0 {
			b.WriteString("{}")
		}
	case 7:
		b.WriteByte('[')
		g.anything(b, depth+1)
		b.WriteByte(']')
	default:
		g.object(b, g.IntN(3), func(int) string { return pick(g, nasty) }, func(int) { g.anything(b, depth+1) })
	}
}

// quote writes a string, which keeps bad UTF-8 and gets a bare or an escaped NUL.
func (g *generator) quote(b *bytes.Buffer, s string) {
	b.WriteByte('"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' && !g.oneIn(4):
			fmt.Fprintf(b, `\u%04x`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
}
