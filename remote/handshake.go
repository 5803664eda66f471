package remote

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
)

// makeEndpoints has the endpoint of each membership that begins with a template.
var makeEndpoints = map[store.Membership]string{store.Join: "v1/make_join", store.Leave: "v1/make_leave", store.Knock: "v1/make_knock"}

// MakeMembership asks for the template of a join, a leave or a knock.
// spec: server-server-api#joining-rooms, server-server-api#knocking-rooms
func (c *Client) MakeMembership(ctx context.Context, to id.Server, m store.Membership, r id.Room, user id.User, versions []string) (t room.Template, err error) {
	endpoint, ok := makeEndpoints[m]
	if !ok {
		return t, fmt.Errorf("membership %v has no template", m)
	}
	rq := request{method: http.MethodGet, path: fedPath(endpoint, string(r), string(user))}
	if m == store.Leave { // whoever leaves takes the room as it is, and need not wait for who is gone
		rq.within = leaveTime
	} else {
		rq.query, rq.pause = url.Values{"ver": versions}, askedPause
	}
	if err = c.ask(ctx, to, rq, &t); err == nil && t.Event.Kind() != '{' {
		err = badAnswer(to, errors.New("there is no event"))
	}
	return t, err
}

// SendJoin hands in a join.
// spec: server-server-api#put_matrixfederationv2send_joinroomideventid
func (c *Client) SendJoin(ctx context.Context, to id.Server, join *event.PDU, omitMembers bool, each func(room.StatePart, jsontext.Value) error) (room.JoinAnswer, error) {
	rq := &request{
		method: http.MethodPut, path: fedPath("v2/send_join", string(join.Room), string(join.ID)), body: join.JSON,
		limit: maxState, within: joinTime, stream: true, pause: askedPause, made: true,
	}
	if omitMembers {
		rq.query = url.Values{"omit_members": {"true"}}
	}
	resp, err := c.send(ctx, to, rq)
	wrapped := unrecognized(err)
	if wrapped {
		// The first version of the endpoint, which the specification no longer has.
		rq.path, rq.query = fedPath("v1/send_join", string(join.Room), string(join.ID)), nil
		resp, err = c.send(ctx, to, rq)
	}
	if err != nil {
		return room.JoinAnswer{}, err
	}
	defer closeBody(resp)
	s := newStateReader(resp.Body)
	answer, err := s.joinAnswer(wrapped, each)
	return answer, s.failure(to, err)
}

// joinTime is how long a server may think about a join: it may have to gather a large room's state.
const joinTime = slowTime + slowTime

// joinAnswer reads the answer to a join; wrapped: as v1 has it, [200, {…}].
func (s *stateReader) joinAnswer(wrapped bool, each func(room.StatePart, jsontext.Value) error) (a room.JoinAnswer, err error) {
	if wrapped {
		if err = errors.Join(s.expect('['), s.skip()); err != nil {
			return a, err
		}
	}
	err = s.read(map[string]func() error{
		"state":      func() error { return s.events(room.InState, each) },
		"auth_chain": func() error { return s.events(room.InAuthChain, each) },
		"event":      func() error { return s.value(&a.Event) },
		"origin":     func() error { return s.decode(&a.Origin) },
		"members_omitted": func() error {
			t, err := s.dec.ReadToken()
			a.MembersOmitted = err == nil && t.Kind() == 't'
			return err
		},
		"servers_in_room": func() error {
			return s.array(func(v jsontext.Value) error {
				var name id.Server
				if json.Unmarshal(v, &name) == nil && len(a.ServersInRoom) < maxServersInRoom {
					a.ServersInRoom = append(a.ServersInRoom, name)
				}
				return nil // a name that is none cannot be asked for anything
			})
		},
	})
	if err == nil && wrapped {
		err = s.expect(']')
	}
	return a, err
}

// decode reads one value.
func (s *stateReader) decode(into any) error {
	v, err := s.dec.ReadValue()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(v, into); err != nil {
		return fmt.Errorf("%w: %w", errShape, err)
	}
	return nil
}

const (
	// leaveTime is short: whoever leaves has left, whether that server hears of it or not.
	leaveTime = 10 * time.Second
	// handInTime is as long as people, and proxies, wait for what they have asked for.
	handInTime = time.Minute
)

// SendKnock hands in a knock; the answer is the room's stripped state.
// spec: server-server-api#put_matrixfederationv1send_knockroomideventid
func (c *Client) SendKnock(ctx context.Context, to id.Server, knock *event.PDU) (jsontext.Value, error) {
	var answer struct {
		State jsontext.Value `json:"knock_room_state"`
	}
	err := c.ask(ctx, to, request{
		method: http.MethodPut, path: fedPath("v1/send_knock", string(knock.Room), string(knock.ID)), body: knock.JSON, within: handInTime, pause: askedPause, made: true,
	}, &answer)
	if err == nil && answer.State.Kind() != '[' {
		err = badAnswer(to, errors.New("there is no knock_room_state"))
	}
	return answer.State, err
}

// SendLeave hands in a leave.
// spec: server-server-api#put_matrixfederationv2send_leaveroomideventid
func (c *Client) SendLeave(ctx context.Context, to id.Server, leave *event.PDU) error {
	rq := request{method: http.MethodPut, path: fedPath("v2/send_leave", string(leave.Room), string(leave.ID)), body: leave.JSON, within: leaveTime, made: true}
	var answer jsontext.Value // {}, or [200, {}] of v1
	err := c.ask(ctx, to, rq, &answer)
	if unrecognized(err) {
		rq.path = fedPath("v1/send_leave", string(leave.Room), string(leave.ID))
		err = c.ask(ctx, to, rq, &answer)
	}
	return err
}

// SendInvite hands an invite to the invited user's server and returns it signed
// by that.
// spec: server-server-api#put_matrixfederationv2inviteroomideventid
func (c *Client) SendInvite(ctx context.Context, to id.Server, invite *event.PDU, stripped jsontext.Value) (jsontext.Value, error) {
	if stripped == nil {
		stripped = jsontext.Value("[]")
	}
	body, err := json.Marshal(struct {
		RoomVersion string         `json:"room_version"`
		Event       jsontext.Value `json:"event"`
		Stripped    jsontext.Value `json:"invite_room_state"`
	}{invite.Version.ID, invite.JSON, stripped})
	if err != nil {
		return nil, err
	}
	var answer struct {
		Event jsontext.Value `json:"event"`
	}
	rq := request{method: http.MethodPut, path: fedPath("v2/invite", string(invite.Room), string(invite.ID)), body: body, within: handInTime, pause: askedPause, made: true}
	err = c.ask(ctx, to, rq, &answer)
	if refusal := err; mayBeOlder(refusal) && invite.Version.Number <= 2 { // v1 knows no later ones
		rq.path = fedPath("v1/invite", string(invite.Room), string(invite.ID))
		rq.body = withStripped(invite.JSON, stripped)
		var pair [2]jsontext.Value // 200 and the answer
		if err = c.ask(ctx, to, rq, &pair); err == nil && json.Unmarshal(pair[1], &answer) != nil {
			err = badAnswer(to, errors.New("there is no event"))
		}
		if unrecognized(err) {
			err = refusal // it was no older server
		}
	}
	if err == nil && answer.Event.Kind() != '{' {
		err = badAnswer(to, errors.New("there is no event"))
	}
	return answer.Event, err
}

// withStripped is an event with the stripped state in its unsigned, which an
// event in its own form does not have.
// spec: server-server-api#put_matrixfederationv1inviteroomideventid
func withStripped(ev []byte, stripped jsontext.Value) []byte {
	body := append([]byte(nil), ev[:len(ev)-1]...)
	body = append(body, `,"unsigned":{"invite_room_state":`...)
	return append(append(body, stripped...), `}}`...)
}

// ExchangeThirdPartyInvite asks a server in the room to make an invite of an
// accepted third-party invite.
// spec: server-server-api#put_matrixfederationv1exchange_third_party_inviteroomid
func (c *Client) ExchangeThirdPartyInvite(ctx context.Context, to id.Server, r id.Room, invite jsontext.Value) error {
	var answer jsontext.Value
	return c.ask(ctx, to, request{
		method: http.MethodPut, path: fedPath("v1/exchange_third_party_invite", string(r)), body: invite, within: handInTime, pause: askedPause,
	}, &answer)
}
