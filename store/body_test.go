package store

import (
	"bytes"
	"crypto/rand"
	"strings"
	"testing"
)

// sample is a message as a server of version 12 stores it.
const sample = `{"auth_events":["$m2tvQEoLOUyy1tDCq0yUvhkXxtJ6KEyGTCyt0SWPaZQ","$rHlEzgxmDJkFX9kHX2GGTdSCoQqUzDPjyEcCk0mkPfA"],"content":{"body":"Shall we meet at the usual place on Friday, or is it too cold for that by now?","m.mentions":{},"msgtype":"m.text"},"depth":4182,"hashes":{"sha256":"p4c0Vw3KLJ7u8cSDkT1PMu7vTAkrGJXL5dLQyDoBBrM"},"origin_server_ts":1790000000000,"prev_events":["$kPZJ0mfRw4uf0cAvvXwtZDh7VUPA7FwqZ6gZKmdc5Xg"],"room_id":"!Wk-MgzkWH1cKRiByJ-qzXahGpMbd0E_KxZYZPZtEVAc","sender":"@alice:example.org","signatures":{"example.org":{"ed25519:a_QkTb":"CmPMYsCrCyIBkLLZh0CZFzP5BCPI4DNLiTLjK7I7HhyDYAfL5MSlDfuVTWVxVvSLUNfR4rZ7xFzqCB9yMtJsDw"}},"type":"m.room.message"}`

func TestBodiesComeBackAsTheyWere(t *testing.T) {
	random := make([]byte, 60_000)
	if _, err := rand.Read(random); err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{`{}`, sample, `{"a":"` + strings.Repeat("x", 65_000) + `"}`, "{" + string(random)} {
		got, err := unpackBody(packBody([]byte(body)))
		if err != nil || !bytes.Equal(got, []byte(body)) {
			t.Errorf("%d bytes came back as %d, %v", len(body), len(got), err)
		}
	}
	if n := len(packBody([]byte(sample))); n > len(sample)*3/4 {
		t.Errorf("a message of %d bytes takes %d", len(sample), n)
	}
}

func TestDamagedBodyIsAnError(t *testing.T) {
	packed := packBody([]byte(sample))
	if _, err := unpackBody(packed[:len(packed)/2]); err == nil {
		t.Error("half a body was taken for a whole one")
	}
}

func BenchmarkPackBody(b *testing.B) {
	for b.Loop() {
		packBody([]byte(sample))
	}
}

func BenchmarkUnpackBody(b *testing.B) {
	packed := packBody([]byte(sample))
	for b.Loop() {
		if _, err := unpackBody(packed); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(packed))/float64(len(sample)), "ratio")
}
