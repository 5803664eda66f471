package stream

import "testing"

func TestPositionIsWrittenAndReadAsToken(t *testing.T) {
	for token, p := range map[string]Position{
		"h0":                                 {},
		"h12":                                {Durable: 12},
		"h12_5":                              {12, 5},
		"h-3":                                {Durable: -3},
		"h0_5":                               {0, 5},
		"h9223372036854775807_1756000000000": {9223372036854775807, 1756000000000},
		"h-9223372036854775808_-9223372036854775808": {-9223372036854775808, -9223372036854775808},
	} {
		if got := p.String(); got != token {
			t.Errorf("%+v is written as %q, want %q", p, got, token)
		}
		if got, err := ParsePosition(token); err != nil || got != p {
			t.Errorf("%q is read as %+v, %v; want %+v", token, got, err, p)
		}
	}
}

func TestTokenTellsWhereToDeviceMessagesAre(t *testing.T) {
	for token, want := range map[string]Token{
		"h12_5":   {Position{12, 5}, 12},
		"h12_5~3": {Position{12, 5}, 3},
		"h12~0":   {Position{12, 0}, 0},
	} {
		if got, err := ParseToken(token); err != nil || got != want || got.String() != token {
			t.Errorf("%q is read as %+v, %v; want %+v", token, got, err, want)
		}
		if p, err := ParsePosition(token); err != nil || p != want.Position {
			t.Errorf("%q is the position %+v, %v; want %+v", token, p, err, want.Position)
		}
	}
}

func TestParsePositionRefusesWhatItDidNotWrite(t *testing.T) {
	for _, token := range []string{
		"", "h", "12", "s12", "h12_", "h_5", "h12_0", "h+1", "h01", "h12_5_7", "h12 ", " h12", "h1e3",
		"h9223372036854775808", "h12_x", "H12", "h12_05", "h-0",
		"h12~", "h12~12", "h12~x", "h12_5~3~3", "h~3",
	} {
		if p, err := ParsePosition(token); err == nil {
			t.Errorf("%q is read as %+v, want an error", token, p)
		}
	}
}

func FuzzParsePosition(f *testing.F) {
	for _, seed := range []string{"h12_5", "h-3", "h0", "h", "h1_", "x", "h1_2~0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if got, err := ParseToken(token); err == nil && got.String() != token {
			t.Errorf("%q became %q", token, got)
		}
	})
}
