package authrules

import (
	"errors"
	"testing"

	"hearth/matrix/canonical"
	"hearth/matrix/event"
	"hearth/matrix/roomversion"
)

// Whatever an event and the state that it meets say, the rules have a verdict, and the
// same one each time.
func FuzzCheck(f *testing.F) {
	types := []string{event.TypeMember, event.TypePowerLevels, event.TypeJoinRules, event.TypeThirdPartyInvite, event.TypeCreate, event.TypeAliases, event.TypeRedaction, "m.room.message"}
	for i := range types {
		f.Add(uint8(i*7), uint8(i), "@zoe:z", `{"membership":"join","join_authorised_via_users_server":"@bob:b"}`, `{"join_rule":"restricted"}`, `{"users":{"@bob:b":"50"},"invite":0}`)
		f.Add(uint8(i), uint8(i), "@bob:b", `{"membership":"invite","third_party_invite":{"signed":{"mxid":"@bob:b","token":"abc","signatures":{"a":{"ed25519:0":"AA"}}}}}`,
			`{"join_rule":7}`, `{"users":[],"events":{"m.room.message":1e3},"ban":"0x1"}`)
	}
	all := roomversion.All()
	f.Fuzz(func(t *testing.T, version, which uint8, key, content, rules, levels string) {
		for _, c := range []string{content, rules, levels} {
			if out, err := canonical.Append(nil, []byte(c), canonical.Options{}); err != nil || out[0] != '{' {
				return
			}
		}
		r := newRoom(t, all[int(version)%len(all)].ID)
		r.put("alice", event.TypeJoinRules, "", rules)
		r.put("alice", event.TypePowerLevels, "", levels)
		r.put("bob", event.TypeThirdPartyInvite, "abc", content)
		for _, sender := range []string{"alice", "bob", "zoe"} {
			ev := r.event(sender, types[int(which)%len(types)], key, content)
			err := r.check(ev)
			denied := (*Denied)(nil)
			if err != nil && (!errors.As(err, &denied) || denied.Rule == "") {
				t.Errorf("no rule refuses it, but: %v", err)
			}
			if again := r.check(ev); (again == nil) != (err == nil) {
				t.Errorf("%v, and then %v", err, again)
			}
		}
	})
}
