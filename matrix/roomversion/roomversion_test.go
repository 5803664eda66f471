package roomversion_test

import (
	"reflect"
	"strings"
	"testing"

	"hearth/matrix/roomversion"
)

// In which versions each feature holds, as the specification's pages say.
// spec: rooms#feature-matrix
func TestFeatures(t *testing.T) {
	for field, versions := range map[string]string{
		"EventRefsArePairs":     "1 2",
		"RoomIDIsCreateEventID": "12",
		"CreateInAuthEvents":    "1 2 3 4 5 6 7 8 9 10 11",
		"StrictCanonicalJSON":   "6 7 8 9 10 11 12",
		"EnforceKeyValidity":    "5 6 7 8 9 10 11 12",
		"CreatorInContent":      "1 2 3 4 5 6 7 8 9 10",
		"PrivilegedCreators":    "12",
		"AliasesAuthRule":       "1 2 3 4 5",
		"NotificationsPLRule":   "6 7 8 9 10 11 12",
		"IntegerPowerLevels":    "10 11 12",
		"RedactionAuthRule":     "1 2",
		"RedactsInContent":      "11 12",
		"UpdatedRedaction":      "11 12",
		"KeysInBytes":           "11 12",
		"Knock":                 "7 8 9 10 11 12",
		"RestrictedJoins":       "8 9 10 11 12",
		"KeepsJoinAuthorised":   "9 10 11 12",
		"KnockRestricted":       "10 11 12",
		"RedactionKeepsAllow":   "8 9 10 11 12",
	} {
		var got []string
		for _, v := range roomversion.All() {
			if reflect.ValueOf(*v).FieldByName(field).Bool() {
				got = append(got, v.ID)
			}
		}
		if strings.Join(got, " ") != versions {
			t.Errorf("%s holds in %v, want %s", field, got, versions)
		}
	}
}

func TestKinds(t *testing.T) {
	for _, v := range roomversion.All() {
		wantID, wantRes, wantDepth := roomversion.EventIDURLBase64, roomversion.StateResV2, int64(1<<53-1)
		switch v.Number {
		case 1:
			wantID, wantRes = roomversion.EventIDField, roomversion.StateResV1
		case 2:
			wantID = roomversion.EventIDField
		case 3:
			wantID = roomversion.EventIDBase64
		case 12:
			wantRes = roomversion.StateResV21
		}
		if v.Number < 6 {
			wantDepth = 1<<63 - 1
		}
		if v.EventID != wantID || v.StateRes != wantRes || v.MaxDepth() != wantDepth {
			t.Errorf("v%s: event ids %d, state resolution %d, depth %d", v.ID, v.EventID, v.StateRes, v.MaxDepth())
		}
	}
}

func TestGet(t *testing.T) {
	if n := len(roomversion.All()); n != 12 {
		t.Errorf("%d versions", n)
	}
	for i, v := range roomversion.All() {
		got, ok := roomversion.Get(v.ID)
		if !ok || got != v || v.Number != i+1 {
			t.Errorf("Get(%q) is %v", v.ID, got)
		}
	}
	if v, ok := roomversion.Get(roomversion.Default); !ok || v.ID != "12" {
		t.Errorf("the default is %v", v)
	}
	for _, id := range []string{"", "0", "13", "01", " 1", "org.matrix.msc1767.10"} {
		if v, ok := roomversion.Get(id); ok {
			t.Errorf("Get(%q) is %v", id, v)
		}
	}
}
