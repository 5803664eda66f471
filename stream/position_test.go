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

func TestParsePositionRefusesWhatItDidNotWrite(t *testing.T) {
	for _, token := range []string{
		"", "h", "12", "s12", "h12_", "h_5", "h12_0", "h+1", "h01", "h12_5_7", "h12 ", " h12", "h1e3",
		"h9223372036854775808", "h12_x", "H12", "h12_05", "h-0",
	} {
		if p, err := ParsePosition(token); err == nil {
			t.Errorf("%q is read as %+v, want an error", token, p)
		}
	}
}

func FuzzParsePosition(f *testing.F) {
	for _, seed := range []string{"h12_5", "h-3", "h0", "h", "h1_", "x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if p, err := ParsePosition(token); err == nil && p.String() != token {
			t.Errorf("%q became %q", token, p)
		}
	})
}
