package canonical_test

import (
	"bytes"
	"strings"
	"testing"

	"hearth/matrix/canonical"
)

func convert(t *testing.T, src string, o canonical.Options) string {
	t.Helper()
	out, err := canonical.Append(nil, []byte(src), o)
	if err != nil {
		t.Fatalf("%s: %v", src, err)
	}
	return string(out)
}

// spec: appendices#examples
func TestSpecExamples(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{`{}`, `{}`},
		{"{\n    \"one\": 1,\n    \"two\": \"Two\"\n}", `{"one":1,"two":"Two"}`},
		{`{ "b": "2", "a": "1" }`, `{"a":"1","b":"2"}`},
		{`{"b":"2","a":"1"}`, `{"a":"1","b":"2"}`},
		{`{ "auth": { "success": true, "mxid": "@john.doe:example.com", "profile": { "display_name": "John Doe",
			"three_pids": [ { "medium": "email", "address": "john.doe@example.org" }, { "medium": "msisdn", "address": "123456789" } ] } } }`,
			`{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},"success":true}}`},
		{`{"a": "日本語"}`, `{"a":"日本語"}`},
		{`{"本": 2, "日": 1}`, `{"日":1,"本":2}`},
		{`{"a": "\u65E5"}`, `{"a":"日"}`},
		{`{"a": null}`, `{"a":null}`},
		{`{"a": -0, "b": 1e10}`, `{"a":0,"b":10000000000}`},
	} {
		if got := convert(t, tt.in, canonical.Options{}); got != tt.want {
			t.Errorf("%s\n got %s\nwant %s", tt.in, got, tt.want)
		}
	}
}

// mau: the order is that of code points, and not of UTF-16.
func TestKeysSortByCodePoint(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		// In UTF-16 the emoji is a surrogate pair (D83D) and would come before U+FF61.
		{"beyond the basic plane", `{"😀":1,"｡":2}`, `{"｡":2,"😀":1}`},
		{"escaped keys sort as what they mean", `{"\u0062":1,"a":2}`, `{"a":2,"b":1}`},
		{"a quote comes before a letter, not where the backslash is", `{"a\"":1,"aA":2,"a\\":3,"a]":4}`, `{"a\"":1,"aA":2,"a\\":3,"a]":4}`},
		{"controls first", `{"a ":1,"a\n":2,"a\u0001":3}`, `{"a\u0001":3,"a\n":2,"a ":1}`},
		{"prefix first", `{"ab":1,"a":2,"":3}`, `{"":3,"a":2,"ab":1}`},
		{"nested", `{"b":{"d":1,"c":[{"z":1,"y":2}]},"a":0}`, `{"a":0,"b":{"c":[{"y":2,"z":1}],"d":1}}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := convert(t, tt.in, canonical.Options{Strict: true}); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestStrings(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{`"\/\u002f"`, `"//"`},
		{`"\b\t\n\f\r\"\\"`, `"\b\t\n\f\r\"\\"`},
		{`"\u0008\u0009\u000A\u000c\u000D\u0022\u005C"`, `"\b\t\n\f\r\"\\"`},
		{`"\u0000\u001F\u000b\u007f"`, "\"\\u0000\\u001f\\u000b\x7f\""},
		{`"\uD83D\uDE00"`, `"😀"`},
		{`"\u2028<>&"`, "\"\u2028<>&\""},
		{"\"\u2028\uFFFD\"", "\"\u2028\uFFFD\""},
	} {
		got := convert(t, tt.in, canonical.Options{Strict: true})
		if got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.in, got, tt.want)
		}
		s, ok := canonical.String([]byte(got))
		if again := string(canonical.AppendString(nil, s)); !ok || again != got {
			t.Errorf("%s decodes to %q, which encodes to %s", got, s, again)
		}
	}
}

// CVE-2020-26890: NaN and Infinity got into events, and out of them to clients.
func TestNumbers(t *testing.T) {
	for _, tt := range []struct{ in, strict, lenient string }{ // empty: refused
		{"0", "0", "0"},
		{"-0", "0", "0"},
		{"9007199254740991", "9007199254740991", "9007199254740991"},
		{"-9007199254740991", "-9007199254740991", "-9007199254740991"},
		{"9007199254740992", "", "9007199254740992"},
		{"-9007199254740992", "", "-9007199254740992"},
		{"9223372036854775807", "", "9223372036854775807"},
		{"123456789012345678901234567890", "", "123456789012345678901234567890"},
		{"1.0", "", "1.0"},
		{"1.50", "", "1.5"},
		{"-0.0", "", "-0.0"},
		{"1e10", "", "10000000000"},
		{"1E+2", "", "100"},
		{"0.1e1", "", "1"},
		{"1e16", "", "1e+16"},
		{"1e-5", "", "1e-05"},
		{"0.0001", "", "0.0001"},
		{"1234567890123456.5", "", "1234567890123456.5"},
		{"1e400", "", ""},
		{"NaN", "", ""},
		{"Infinity", "", ""},
		{"-Infinity", "", ""},
		{"01", "", ""},
		{"-", "", ""},
		{"+1", "", ""},
		{".5", "", ""},
		{"1.", "", ""},
		{"1e", "", ""},
		{"0x10", "", ""},
	} {
		for _, strict := range []bool{true, false} {
			want := tt.lenient
			if strict {
				want = tt.strict
			}
			out, err := canonical.Append(nil, []byte(`{"n":`+tt.in+`}`), canonical.Options{Strict: strict})
			got := strings.TrimSuffix(strings.TrimPrefix(string(out), `{"n":`), "}")
			if got != want || (err == nil) != (want != "") {
				t.Errorf("%s strict=%t: got %q, %v, want %q", tt.in, strict, got, err, want)
			}
		}
	}
}

func TestMalformed(t *testing.T) {
	for _, in := range []string{
		``, ` `, `{`, `}`, `[`, `[1`, `[1,`, `[1,]`, `[,]`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{,}`, `{a:1}`, `{1:1}`, `{"a":1}x`, `{} {}`,
		`"`, `"\`, `"\x"`, `"\u12"`, `"\u12g4"`, `tru`, `nul`, `truex`, `'a'`,
		"\"\x01\"", "\"\n\"", "\"\x80\"", "\"\xc0\x80\"", "\"\xed\xa0\x80\"", "\"\xf4\x90\x80\x80\"", "\x00", "\xef\xbb\xbf{}",
		`"\ud800"`, `"\udc00"`, `"\ud800\ud800"`, `"\ud800x"`, `"\udc00\ud800"`,
		`{"a":1,"a":2}`, `{"a":1,"b":2,"a":3}`, `{"a":1,"\u0061":2}`, `[{"x":{"y":1,"y":1}}]`, `{"a\n":1,"a\u000a":2}`,
		strings.Repeat("[", canonical.MaxDepth+1) + strings.Repeat("]", canonical.MaxDepth+1),
		strings.Repeat(`{"a":`, 1_000_000),
	} {
		if out, err := canonical.Append(nil, []byte(in), canonical.Options{}); err == nil {
			t.Errorf("%.40s was accepted as %s", in, out)
		}
	}
}

func TestDepthLimit(t *testing.T) {
	in := strings.Repeat("[", canonical.MaxDepth) + strings.Repeat("]", canonical.MaxDepth)
	if got := convert(t, in, canonical.Options{}); got != in {
		t.Error("what is nested to the limit was changed")
	}
}

func TestValid(t *testing.T) {
	for in, want := range map[string]bool{
		`{}`: true, `{"a":1,"b":[true,null,"é\n"]}`: true, `-1`: true,
		``: false, `{ }`: false, `{"b":1,"a":1}`: false, `1.5`: false, `-0`: false, `"\u00e9"`: false, `"\/"`: false, `"\u000A"`: false, `"\u001F"`: false,
	} {
		if got := canonical.Valid([]byte(in)); got != want {
			t.Errorf("%s: %t", in, got)
		}
	}
}

func TestDrop(t *testing.T) {
	o := canonical.Options{Strict: true, Drop: []string{"unsigned", "signatures"}}
	for _, tt := range []struct{ in, want string }{
		{`{"unsigned":{"age":1.5},"b":1,"signatures":{},"a":{"unsigned":1}}`, `{"a":{"unsigned":1},"b":1}`},
		{`{"unsigned":1}`, `{}`},
		{`{"a":1,"uns\u0069gned":1}`, `{"a":1}`},
	} {
		if got := convert(t, tt.in, o); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.in, got, tt.want)
		}
	}
	for _, in := range []string{`{"unsigned":1,"unsigned":2}`, `{"unsigned":nonsense}`, `{"a":1.5}`} {
		if out, err := canonical.Append(nil, []byte(in), o); err == nil {
			t.Errorf("%s was accepted as %s", in, out)
		}
	}
}

func TestAppendKeepsWhatWasThere(t *testing.T) {
	out, err := canonical.Append([]byte("before"), []byte(`{"b":1,"a":2}`), canonical.Options{})
	if err != nil || string(out) != `before{"a":2,"b":1}` {
		t.Errorf("got %s, %v", out, err)
	}
}

func TestWalk(t *testing.T) {
	var keys []string
	c := canonical.Walk([]byte(`{"":[1,{"x":"}"}],"a\"b":"\\","n":-1,"z":null}`))
	for c.Next() {
		keys = append(keys, c.KeyString()+"="+string(c.Value))
	}
	want := `=[1,{"x":"}"}] a"b="\\" n=-1 z=null`
	if got := strings.Join(keys, " "); got != want || c.Malformed() {
		t.Errorf("got %s, want %s", got, want)
	}
	if v := canonical.Get([]byte(`{"a\"b":1}`), `a"b`); string(v) != "1" {
		t.Errorf("a key that needs escapes has value %q", v)
	}
	for _, in := range []string{``, `1`, `"a"`, `{`, `{"a`, `{"a"`, `{"a":`, `{"a":1`, `{"a":{`, `[`, `["`} {
		c := canonical.Walk([]byte(in))
		for c.Next() {
		}
		if !c.Malformed() {
			t.Errorf("%s ended well", in)
		}
	}
}

func FuzzCanonical(f *testing.F) {
	for _, s := range []string{`{"b":[1,2.5,-0,1e3],"a":{"\u00e9":"\ud83d\ude00\n"}}`, `{"a":1,"a":1}`, `[[[]]]`, `"\u0000"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		for c := canonical.Walk(src); c.Next(); {
			canonical.String(c.Value)
		}
		out, err := canonical.Append(nil, src, canonical.Options{})
		if err != nil {
			return
		}
		again, err := canonical.Append(nil, out, canonical.Options{})
		if err != nil || !bytes.Equal(out, again) {
			t.Fatalf("%q became %q, which became %q (%v)", src, out, again, err)
		}
		strict, err := canonical.Append(nil, src, canonical.Options{Strict: true})
		if err == nil && !bytes.Equal(strict, out) {
			t.Fatalf("%q is %q, but strictly %q", src, out, strict)
		}
		if err == nil && !canonical.Valid(out) {
			t.Fatalf("%q is not valid", out)
		}
		c := canonical.Walk(out)
		for c.Next() {
			if part, err := canonical.Append(nil, c.Value, canonical.Options{}); err != nil || !bytes.Equal(part, c.Value) {
				t.Fatalf("the walk of %q saw %q", out, c.Value)
			}
		}
		if c.Malformed() && (out[0] == '{' || out[0] == '[') {
			t.Fatalf("the walk of %q ended early", out)
		}
	})
}

const pduJSON = `{"type":"m.room.message","room_id":"!xkIVIEHsRZMMdATBpH:example.org","sender":"@alice:example.org","content":{"msgtype":"m.text","body":"The quick brown fox jumps over the lazy dog, and then some more words follow to make this a message of usual length, with ünïcödé.","format":"org.matrix.custom.html","formatted_body":"<b>The quick</b> brown fox jumps over the lazy dog, and then some more words follow to make this","m.mentions":{}},"depth":1234,"prev_events":["$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg"],"auth_events":["$aqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg","$bqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg","$cqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg"],"origin_server_ts":1700000000000,"hashes":{"sha256":"5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos"},"signatures":{"example.org":{"ed25519:a_Abcd":"KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"}},"unsigned":{"age":12345}}`

func BenchmarkAppend(b *testing.B) {
	dst := make([]byte, 0, 2*len(pduJSON))
	sorted, _ := canonical.Append(nil, []byte(pduJSON), canonical.Options{})
	for _, bb := range []struct {
		name string
		src  []byte
	}{{"unsorted", []byte(pduJSON)}, {"sorted", sorted}} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(bb.src)))
			for b.Loop() {
				if _, err := canonical.Append(dst, bb.src, canonical.Options{Strict: true, Drop: []string{"unsigned"}}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What is costly to order: many keys, all escaped, in the wrong order, nested.
func BenchmarkHostile(b *testing.B) {
	var keys []string
	for i := range 5000 {
		keys = append(keys, `"\n\u0001`+strings.Repeat("x", 4)+string(rune('z'-i%26))+string(rune('z'-i/26%26))+string(rune('z'-i/676))+`":1`)
	}
	nested := `1`
	for range canonical.MaxDepth - 1 {
		nested = `{"b":` + nested + `,"a":"` + strings.Repeat("x", 40) + `"}`
	}
	for name, src := range map[string]string{"keys": "{" + strings.Join(keys, ",") + "}", "nested": nested} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(src)))
			for b.Loop() {
				if _, err := canonical.Append(nil, []byte(src), canonical.Options{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
