package room_test

import (
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
)

func TestReports(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		s := newScript(t, st, "shared")
		s.join(bob)
		ev := s.say(alice, "spam")
		ctx := t.Context()
		if err := s.e.ReportEvent(ctx, room.Reader{User: bob}, s.name, ev, "spam", jsontext.Value(`{"reason":"spam"}`)); err != nil {
			t.Error(err)
		}
		wantCode(t, s.e.ReportEvent(ctx, room.Reader{User: charlie}, s.name, ev, "", jsontext.Value(`{}`)), "M_NOT_FOUND")
		wantCode(t, s.e.ReportEvent(ctx, room.Reader{User: bob}, s.name, "$nothing", "", jsontext.Value(`{}`)), "M_NOT_FOUND")
		for _, r := range []id.Room{s.name, "!nowhere:localhost"} {
			if err := s.e.ReportRoom(ctx, room.Reader{User: charlie}, r, ""); err != nil {
				t.Error(err)
			}
		}
		for _, u := range []id.User{alice, "@nobody:localhost"} {
			if err := s.e.ReportUser(ctx, room.Reader{User: charlie}, u, ""); err != nil {
				t.Error(err)
			}
		}
		wantCode(t, s.e.ReportRoom(ctx, room.Reader{User: bob}, s.name, string(make([]byte, 20_000))), "M_TOO_LARGE")
		if err := st.View(ctx, func(tx *store.Tx) error {
			got, err := tx.Reports.ListEvents(0, 10)
			if len(got) != 1 || got[0].Event != ev || got[0].Reporter != bob || got[0].Reason != "spam" || string(got[0].Content) != `{"reason":"spam"}` {
				t.Errorf("reports: %+v", got)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	})
}
