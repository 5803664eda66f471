package client

import (
	"context"

	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/matrix/signing"
)

// Clients look for an overlap with a list of their own, so every version is
// named, the oldest too.
var specVersions = []string{
	"r0.0.1", "r0.1.0", "r0.2.0", "r0.3.0", "r0.4.0", "r0.5.0", "r0.6.0", "r0.6.1",
	"v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10",
	"v1.11", "v1.12", "v1.13", "v1.14", "v1.15", "v1.16", "v1.17", "v1.18", "v1.19",
}

// unstableFeatures are asked for by clients by these names even where the
// feature is stable in a version named above.
var unstableFeatures = map[string]bool{
	"fi.mau.msc2246.stable":                          true, // media ids before upload
	"fi.mau.msc2659.stable":                          true, // application service ping
	"io.element.e2ee_forced.private":                 false,
	"io.element.e2ee_forced.public":                  false,
	"io.element.e2ee_forced.trusted_private":         false,
	"org.matrix.e2e_cross_signing":                   true,
	"org.matrix.msc2285.stable":                      true, // private read receipts
	"org.matrix.msc3026.busy_presence":               false,
	"org.matrix.msc3440.stable":                      true, // threads
	"org.matrix.msc3771":                             true, // receipts of threads
	"org.matrix.msc3773":                             true, // notifications of threads
	"org.matrix.msc3827.stable":                      true, // room types in the directory
	"org.matrix.msc3916.stable":                      true, // authenticated media
	"org.matrix.msc3881":                             true, // pushers that can be switched off
	"org.matrix.msc4028":                             true, // pushes of all encrypted events
	"org.matrix.msc4222":                             true, // state_after
	"uk.half-shot.msc2666.query_mutual_rooms":        true,
	"uk.half-shot.msc2666.query_mutual_rooms.stable": true,
	"uk.tcpip.msc4133":                               true, // profile fields
	"uk.tcpip.msc4133.stable":                        true,
	"us.cloke.msc4175":                               true, // time zone in profiles
	"us.cloke.msc4175.stable":                        true,
	"com.beeper.msc4169":                             true, // redaction by /send
}

type getVersionsResponse struct {
	Versions         []string        `json:"versions"`
	UnstableFeatures map[string]bool `json:"unstable_features"`
}

// spec: client-server-api#api-versions
func (a *API) getVersions(context.Context, httpx.Caller, none) (getVersionsResponse, error) {
	return getVersionsResponse{specVersions, unstableFeatures}, nil
}

// spec: client-server-api#well-known-uris
func (a *API) getWellknown(context.Context, httpx.Caller, none) (map[string]any, error) {
	doc := make(map[string]any, len(a.Options.WellKnown)+1)
	for k, v := range a.Options.WellKnown {
		doc[k] = v
	}
	doc["m.homeserver"] = map[string]string{"base_url": a.Options.BaseURL}
	return doc, nil
}

// Support says whom users turn to.
type Support struct {
	Contacts []Contact `json:"contacts,omitempty"`
	Page     string    `json:"support_page,omitempty"`
}

type Contact struct {
	Matrix id.User `json:"matrix_id,omitempty"`
	Email  string  `json:"email_address,omitempty"`
	Role   string  `json:"role"`
}

func (a *API) getWellknownSupport(context.Context, httpx.Caller, none) (Support, error) {
	if len(a.Options.Support.Contacts) == 0 && a.Options.Support.Page == "" {
		return Support{}, errcode.NotFound("no support contact is set")
	}
	return a.Options.Support, nil
}

type policyServer struct {
	PublicKeys map[string]string `json:"public_keys"`
}

// spec: client-server-api#getwell-knownmatrixpolicy_server
func (a *API) getWellknownPolicy(context.Context, httpx.Caller, none) (policyServer, error) {
	if a.Options.PolicyKey == nil {
		return policyServer{}, errcode.NotFound("this server is no policy server")
	}
	return policyServer{map[string]string{signing.Algorithm: signing.EncodeBase64(a.Options.PolicyKey)}}, nil
}

type enabled struct {
	Enabled bool `json:"enabled"`
}

type roomVersionsCapability struct {
	Default   string            `json:"default"`
	Available map[string]string `json:"available"`
}

// spec: client-server-api#capabilities-negotiation
func (a *API) getCapabilities(_ context.Context, c httpx.Caller, _ none) (map[string]map[string]any, error) {
	versions := roomVersionsCapability{a.Options.DefaultRoomVersion, map[string]string{}}
	for _, v := range roomversion.All() {
		versions.Available[v.ID] = "stable"
	}
	capabilities := map[string]any{
		"m.change_password":               enabled{a.Options.PasswordChange},
		"m.room_versions":                 versions,
		"m.set_displayname":               enabled{true},
		"m.set_avatar_url":                enabled{true},
		"m.profile_fields":                enabled{true},
		"uk.tcpip.msc4133.profile_fields": enabled{true},
		"m.3pid_changes":                  enabled{false},
		"m.get_login_token":               enabled{true},
	}
	if c.Admin {
		capabilities["m.account_moderation"] = map[string]bool{"lock": true, "suspend": true}
	}
	return map[string]map[string]any{"capabilities": capabilities}, nil
}
