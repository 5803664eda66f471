package remote

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/canonical"
	"hearth/matrix/event"
	"hearth/matrix/id"
)

// SendTransaction hands over a transaction, whose body is already JSON. The
// answer has the error of each event that the server did not take. Transactions
// are sent even to a server that seems down: the sender has its own patience.
// spec: server-server-api#put_matrixfederationv1sendtxnid
func (c *Client) SendTransaction(ctx context.Context, to id.Server, txnID string, body []byte) (map[id.Event]string, error) {
	var answer jsontext.Value
	err := c.ask(ctx, to, request{method: http.MethodPut, path: fedPath("v1/send", txnID), body: body, within: slowTime, insist: true}, &answer)
	if err == nil {
		err = answer.Compact()
	}
	if err != nil {
		return nil, err
	}
	return refusedEvents(answer), nil
}

// refusedEvents reads the answer to a transaction. That it came with status 200 says that the
// transaction has arrived: what does not fit is no reason to send it again.
// spec: server-server-api#put_matrixfederationv1sendtxnid
func refusedEvents(answer jsontext.Value) map[id.Event]string {
	refused := map[id.Event]string{}
	for pdus := canonical.Walk(canonical.Get(answer, "pdus")); pdus.Next(); {
		if why, _ := canonical.GetString(pdus.Value, "error"); why != "" {
			refused[id.Event(pdus.KeyString())] = why
		}
	}
	return refused
}

// QueryProfile asks for the profile of a user, or one field of it.
// spec: server-server-api#get_matrixfederationv1queryprofile
func (c *Client) QueryProfile(ctx context.Context, to id.Server, user id.User, field string) (map[string]jsontext.Value, error) {
	q := url.Values{"user_id": {string(user)}}
	if field != "" {
		q.Set("field", field)
	}
	var answer map[string]jsontext.Value
	err := c.ask(ctx, to, request{method: http.MethodGet, path: fedPath("v1/query/profile"), query: q, pause: shownPause}, &answer)
	return answer, err
}

// QueryDirectory asks which room an alias stands for, and for servers in it.
// spec: server-server-api#get_matrixfederationv1querydirectory
func (c *Client) QueryDirectory(ctx context.Context, to id.Server, alias id.Alias) (id.Room, []id.Server, error) {
	var answer struct {
		Room    id.Room  `json:"room_id"`
		Servers []string `json:"servers"`
	}
	err := c.ask(ctx, to, request{method: http.MethodGet, path: fedPath("v1/query/directory"), query: url.Values{"room_alias": {string(alias)}}, pause: askedPause}, &answer)
	if err != nil {
		return "", nil, err
	}
	if answer.Room == "" {
		return "", nil, badAnswer(to, fmt.Errorf("there is no room_id"))
	}
	return answer.Room, validServers(answer.Servers), nil
}

// validServers leaves out what is no server name.
func validServers(names []string) (servers []id.Server) {
	for _, n := range names {
		if s, err := id.ParseServer(n); err == nil {
			servers = append(servers, s)
		}
	}
	return servers
}

// PublicRoomsQuery is what is asked of a room directory.
type PublicRoomsQuery struct {
	Limit                int            `json:"limit,omitzero"`
	Since                string         `json:"since,omitzero"`
	Filter               jsontext.Value `json:"filter,omitzero"`
	IncludeAllNetworks   bool           `json:"include_all_networks,omitzero"`
	ThirdPartyInstanceID string         `json:"third_party_instance_id,omitzero"`
}

// PublicRooms is a page of a room directory.
type PublicRooms struct {
	Chunk     []jsontext.Value `json:"chunk"`
	NextBatch string           `json:"next_batch,omitzero"`
	PrevBatch string           `json:"prev_batch,omitzero"`
	Total     *int64           `json:"total_room_count_estimate,omitzero"`
}

// GetPublicRooms asks for the room directory of a server.
// spec: server-server-api#post_matrixfederationv1publicrooms, server-server-api#get_matrixfederationv1publicrooms
func (c *Client) GetPublicRooms(ctx context.Context, to id.Server, query PublicRoomsQuery) (page PublicRooms, err error) {
	rq := request{method: http.MethodPost, path: fedPath("v1/publicRooms"), limit: maxList, pause: askedPause}
	if query.Filter == nil {
		rq.method, rq.query = http.MethodGet, url.Values{}
		if query.Limit > 0 {
			rq.query.Set("limit", strconv.Itoa(query.Limit))
		}
		if query.Since != "" {
			rq.query.Set("since", query.Since)
		}
		if query.IncludeAllNetworks {
			rq.query.Set("include_all_networks", "true")
		}
		if query.ThirdPartyInstanceID != "" {
			rq.query.Set("third_party_instance_id", query.ThirdPartyInstanceID)
		}
	} else if rq.body, err = json.Marshal(query); err != nil {
		return page, err
	}
	err = c.ask(ctx, to, rq, &page)
	return page, err
}

// UserDevices is the devices of a user, with their keys.
// spec: server-server-api#get_matrixfederationv1userdevicesuserid
type UserDevices struct {
	User           id.User        `json:"user_id"`
	StreamID       int64          `json:"stream_id"`
	Devices        []UserDevice   `json:"devices"`
	MasterKey      jsontext.Value `json:"master_key,omitzero"`
	SelfSigningKey jsontext.Value `json:"self_signing_key,omitzero"`
}

// UserDevice is one of them.
type UserDevice struct {
	ID          id.Device      `json:"device_id"`
	DisplayName string         `json:"device_display_name,omitzero"`
	Keys        jsontext.Value `json:"keys"`
}

// GetUserDevices asks for the devices of a user.
func (c *Client) GetUserDevices(ctx context.Context, to id.Server, user id.User) (d UserDevices, err error) {
	err = c.ask(ctx, to, request{method: http.MethodGet, path: fedPath("v1/user/devices", string(user)), limit: maxDevices}, &d)
	if err == nil && d.User != user {
		err = badAnswer(to, fmt.Errorf("it has the devices of %q", d.User))
	}
	return d, err
}

// DeviceKeys is the answer to a query for the keys of users' devices.
// spec: server-server-api#post_matrixfederationv1userkeysquery
type DeviceKeys struct {
	DeviceKeys      map[id.User]map[id.Device]jsontext.Value `json:"device_keys"`
	MasterKeys      map[id.User]jsontext.Value               `json:"master_keys"`
	SelfSigningKeys map[id.User]jsontext.Value               `json:"self_signing_keys"`
}

// maxDevices bounds the keys of one user's devices: some thousand devices.
const maxDevices = 2 << 20

// keysSize bounds the keys of so many users' devices. One user may have many, not all.
func keysSize(users int) int64 {
	const each = 64 << 10
	return min(maxDevices+int64(users)*each, maxList)
}

// QueryKeys asks for the keys of users' devices; no devices: of all.
func (c *Client) QueryKeys(ctx context.Context, to id.Server, users map[id.User][]id.Device) (answer DeviceKeys, err error) {
	body, err := json.Marshal(map[string]any{"device_keys": users})
	if err != nil {
		return answer, err
	}
	err = c.ask(ctx, to, request{method: http.MethodPost, path: fedPath("v1/user/keys/query"), body: body, limit: keysSize(len(users))}, &answer)
	return answer, err
}

// ClaimKeys takes one-time keys: of each device one of an algorithm.
// spec: server-server-api#post_matrixfederationv1userkeysclaim
func (c *Client) ClaimKeys(ctx context.Context, to id.Server, claims map[id.User]map[id.Device]string) (map[id.User]map[id.Device]jsontext.Value, error) {
	body, err := json.Marshal(map[string]any{"one_time_keys": claims})
	if err != nil {
		return nil, err
	}
	var answer struct {
		Keys map[id.User]map[id.Device]jsontext.Value `json:"one_time_keys"`
	}
	claimed := int64(0)
	for _, devices := range claims {
		claimed += int64(len(devices))
	}
	const each = 4 << 10
	limit := min(maxAnswer+claimed*each, maxList)
	err = c.ask(ctx, to, request{method: http.MethodPost, path: fedPath("v1/user/keys/claim"), body: body, limit: limit, once: true}, &answer)
	return answer.Keys, err
}

// Hierarchy is a space and its children.
// spec: server-server-api#get_matrixfederationv1hierarchyroomid
type Hierarchy struct {
	Room         jsontext.Value   `json:"room"`
	Children     []jsontext.Value `json:"children"`
	Inaccessible []string         `json:"inaccessible_children"`
}

// GetHierarchy asks for a space and its children.
func (c *Client) GetHierarchy(ctx context.Context, to id.Server, r id.Room, suggestedOnly bool) (h Hierarchy, err error) {
	q := url.Values{"suggested_only": {strconv.FormatBool(suggestedOnly)}}
	err = c.ask(ctx, to, request{method: http.MethodGet, path: fedPath("v1/hierarchy", string(r)), query: q, limit: maxList}, &h)
	if err == nil && h.Room.Kind() != '{' {
		err = badAnswer(to, fmt.Errorf("there is no room"))
	}
	return h, err
}

// Version is what software a server runs.
type Version struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// GetVersion asks a server what it runs.
// spec: server-server-api#get_matrixfederationv1version
func (c *Client) GetVersion(ctx context.Context, to id.Server) (Version, error) {
	var answer struct {
		Server Version `json:"server"`
	}
	err := c.ask(ctx, to, request{method: http.MethodGet, path: fedPath("v1/version"), open: true}, &answer)
	return answer.Server, err
}

// Reach asks whether a server is there, even if it seems down. Whatever a homeserver
// answers says that it is.
func (c *Client) Reach(ctx context.Context, to id.Server) error {
	resp, err := c.send(ctx, to, &request{method: http.MethodGet, path: fedPath("v1/version"), open: true, insist: true})
	if err == nil {
		closeBody(resp)
	}
	if Unreachable(err) || ctx.Err() != nil {
		return err
	}
	return nil
}

// GetRoomComplexity asks how costly a room would be to join: 1 is 500 state events.
// It is no part of the specification; most servers answer it.
func (c *Client) GetRoomComplexity(ctx context.Context, to id.Server, r id.Room) (float64, error) {
	var answer struct {
		V1 float64 `json:"v1"`
	}
	err := c.ask(ctx, to, request{method: http.MethodGet, path: fedPath("unstable/rooms", string(r), "complexity")}, &answer)
	return answer.V1, err
}

// How long a policy server may take, and how long one that did not answer is left
// alone: nothing can be said in its rooms without it, so that it matters to notice soon
// that it is back, and that few wait for it while it is not.
const (
	policyTime  = 10 * time.Second
	policyPause = 30 * time.Second
)

// SignByPolicyServer asks a policy server to sign an event. The answer has its
// signatures by server and key id; none: it will not. A policy server may share this
// server's name.
// spec: server-server-api#post_matrixpolicyv1sign
func (c *Client) SignByPolicyServer(ctx context.Context, to id.Server, p *event.PDU) (map[id.Server]map[id.Key]string, error) {
	var signatures map[id.Server]map[id.Key]string
	err := c.ask(ctx, to, request{
		method: http.MethodPost, path: "/_matrix/policy/v1/sign", body: event.AppendFederation(nil, p, nil),
		within: policyTime, pause: policyPause, self: true, limit: maxErrorBody,
	}, &signatures)
	return signatures, err
}
