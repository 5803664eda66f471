package room

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/filter"
	"hearth/matrix/id"
	"hearth/store"
	"hearth/stream"
)

// SearchQuery says which events are looked for.
// spec: client-server-api#post_matrixclientv3search
type SearchQuery struct {
	Term         string
	Keys         []string // of content, such as content.body; nil: all
	Filter       *filter.RoomEventFilter
	Recent       bool           // newest first; otherwise best first
	Context      *SearchContext // nil: none
	IncludeState bool
	GroupBy      []string // room_id, sender
	After        SearchPlace
	Limit        int
}

// SearchContext is what is wanted round each result.
type SearchContext struct {
	Before, After  int
	IncludeProfile bool
}

// SearchPlace is where a page begins: after a result, in a group if it names one.
type SearchPlace struct {
	Event      id.Event `json:"e"` // empty: at the first
	GroupKey   string   `json:"k,omitzero"`
	GroupValue string   `json:"v,omitzero"`
}

// maxHits bounds the events that one search compares: the newest ones that have all words.
const maxHits = 2000

// hit is an event that was found.
type hit struct {
	event *Event
	view  *View
	rank  float64
}

// group is the value by which a hit is grouped.
func (h hit) group(key string) string {
	if key == "sender" {
		return string(h.event.PDU.Sender)
	}
	return string(h.event.PDU.Room)
}

// Search finds events by their words in the rooms where the reader is or was.
// token writes a place as a token. The answer is the value of room_events.
// spec: client-server-api#server-side-search
func (e *Engine) Search(ctx context.Context, who Reader, q SearchQuery, token func(SearchPlace) string) (body jsontext.Value, err error) {
	if e.options.NoSearch {
		return nil, errcode.New(400, "M_UNKNOWN", "search is switched off on this server")
	}
	if err := e.index(ctx); err != nil {
		return nil, err
	}
	err = e.store.View(ctx, func(tx *store.Tx) error {
		s := &searching{engine: e, tx: tx, query: q, words: words(q.Term), token: token, views: map[store.RoomNID]*View{}}
		if err := s.openRooms(who); err != nil {
			return err
		}
		if err := s.find(); err != nil {
			return err
		}
		members, err := s.answer()
		body = braced(members)
		return err
	})
	return body, err
}

// searching is one search.
type searching struct {
	engine *Engine
	tx     *store.Tx
	query  SearchQuery
	words  []string
	token  func(SearchPlace) string
	views  map[store.RoomNID]*View
	hits   []hit // in the order of the query
}

// openRooms makes a view of each room that the query and the reader's memberships allow.
func (s *searching) openRooms(who Reader) error {
	user, ok, err := s.tx.IDs.FindUser(who.User)
	if err != nil || !ok {
		return err
	}
	members, err := s.tx.Members.OfUser(user)
	if err != nil {
		return err
	}
	ignored, err := s.engine.Ignored(s.tx, who.User)
	if err != nil {
		return err
	}
	for _, m := range members {
		if m.Membership == store.Invite || m.Membership == store.Knock || m.Forgotten {
			continue
		}
		row, ok, err := s.tx.Rooms.GetNID(m.Room)
		if err != nil {
			return err
		}
		if !ok || s.query.Filter != nil && !s.query.Filter.MatchRoom(row.ID) {
			continue
		}
		v, err := s.engine.View(s.tx, row, user)
		if err != nil {
			return err
		}
		v.Device, v.Ignored = string(who.Device), ignored
		s.views[m.Room] = v
	}
	return nil
}

// find gathers the events that the reader may see and the query wants.
func (s *searching) find() error {
	rooms := make([]store.RoomNID, 0, len(s.views))
	for r := range s.views {
		rooms = append(rooms, r)
	}
	slices.Sort(rooms)
	nids, err := s.tx.Search.Find(rooms, s.words, maxHits)
	if err != nil {
		return err
	}
	events, err := s.engine.Events(s.tx, nids)
	if err != nil {
		return err
	}
	for _, ev := range events {
		v := s.views[ev.Room]
		if v == nil || !s.wantsKey(ev) {
			continue
		}
		ok, err := s.engine.shows(s.tx, v, s.query.Filter, ev)
		if err != nil {
			return err
		}
		if ok {
			s.hits = append(s.hits, hit{ev, v, s.rank(ev)})
		}
	}
	slices.SortStableFunc(s.hits, func(a, b hit) int {
		if !s.query.Recent {
			if c := cmp.Compare(b.rank, a.rank); c != 0 {
				return c
			}
		}
		return cmp.Compare(b.event.Position, a.event.Position)
	})
	return nil
}

// wantsKey says whether the words of an event are in a key that is searched.
func (s *searching) wantsKey(ev *Event) bool {
	return s.query.Keys == nil || slices.Contains(s.query.Keys, "content."+searched[ev.PDU.Type])
}

// rank is higher the more of a text the words are.
func (s *searching) rank(ev *Event) float64 {
	n := len(words(ev.PDU.ContentString(searched[ev.PDU.Type])))
	return float64(len(s.words)) / (1 + math.Log1p(float64(max(n, len(s.words)))))
}

// page is the part of the hits that is wanted, and where the next begins.
func (s *searching) page() (page []hit, next SearchPlace, more bool, err error) {
	rest := s.hits
	if at := s.query.After; at.GroupKey != "" {
		rest = slices.DeleteFunc(slices.Clone(rest), func(h hit) bool { return h.group(at.GroupKey) != at.GroupValue })
	}
	if at := s.query.After; at.Event != "" {
		i := slices.IndexFunc(rest, func(h hit) bool { return h.event.ID == at.Event })
		if i < 0 {
			return nil, next, false, errcode.InvalidParam("next_batch is not a token of this search, or its place is gone")
		}
		rest = rest[i+1:]
	}
	page = rest[:min(len(rest), s.query.Limit)]
	if len(page) == 0 || len(page) < s.query.Limit {
		return page, next, false, nil
	}
	next = s.query.After
	next.Event = page[len(page)-1].event.ID
	return page, next, true, nil
}

func (s *searching) answer() (members []byte, err error) {
	page, next, more, err := s.page()
	if err != nil {
		return nil, err
	}
	members = event.AppendMember(nil, "count", strconv.AppendInt(nil, int64(len(s.hits)), 10))
	highlights := []byte{'['}
	for i, w := range s.words {
		if i > 0 {
			highlights = append(highlights, ',')
		}
		highlights = appendQuoted(highlights, w)
	}
	members = event.AppendMember(members, "highlights", append(highlights, ']'))
	if members, err = s.appendResults(event.AppendMember(members, "results", nil), page); err != nil {
		return nil, err
	}
	if more {
		members = event.AppendStringMember(members, "next_batch", s.token(next))
	}
	if len(s.query.GroupBy) > 0 {
		members = event.AppendMember(members, "groups", s.groups(page))
	}
	if s.query.IncludeState {
		return s.appendStates(members, page)
	}
	return members, nil
}

func (s *searching) appendResults(dst []byte, page []hit) (_ []byte, err error) {
	f := Format{Now: now()}
	if f.Bundle, err = s.bundles(page, f); err != nil {
		return dst, err
	}
	dst = append(dst, '[')
	for i, h := range page {
		if i > 0 {
			dst = append(dst, ',')
		}
		result, err := s.engine.AppendEvent(nil, s.tx, h.view, h.event, f)
		if err != nil {
			return dst, err
		}
		members := event.AppendMember(nil, "rank", strconv.AppendFloat(nil, h.rank, 'g', 6, 64))
		members = event.AppendMember(members, "result", result)
		if s.query.Context != nil {
			context, err := s.context(h)
			if err != nil {
				return dst, err
			}
			members = event.AppendMember(members, "context", context)
		}
		dst = append(dst, braced(members)...)
	}
	return append(dst, ']'), nil
}

// bundles aggregates below the results, room by room.
func (s *searching) bundles(page []hit, f Format) (map[store.EventNID][]byte, error) {
	all := map[store.EventNID][]byte{}
	byRoom := map[store.RoomNID][]*Event{}
	for _, h := range page {
		byRoom[h.event.Room] = append(byRoom[h.event.Room], h.event)
	}
	for room, events := range byRoom {
		some, err := s.engine.Bundle(s.tx, s.views[room], events, f)
		if err != nil {
			return nil, err
		}
		for nid, b := range some {
			all[nid] = b
		}
	}
	return all, nil
}

// context is what lies round a result.
func (s *searching) context(h hit) (jsontext.Value, error) {
	at, before := stream.Position{Durable: h.event.Position}, stream.Position{Durable: h.event.Position - 1}
	older, err := s.engine.Messages(s.tx, h.view, Page{From: &before, Back: true, Limit: s.query.Context.Before})
	if err != nil {
		return nil, err
	}
	newer, err := s.engine.Messages(s.tx, h.view, Page{From: &at, Limit: s.query.Context.After})
	if err != nil {
		return nil, err
	}
	members := event.AppendStringMember(event.AppendStringMember(nil, "start", older.Reached), "end", newer.Reached)
	if members, err = s.engine.appendBundled(event.AppendMember(members, "events_before", nil), s.tx, h.view, older.Events); err != nil {
		return nil, err
	}
	if members, err = s.engine.appendBundled(event.AppendMember(members, "events_after", nil), s.tx, h.view, newer.Events); err != nil {
		return nil, err
	}
	if s.query.Context.IncludeProfile {
		profiles, err := s.profiles(h, append(append([]*Event{h.event}, older.Events...), newer.Events...))
		if err != nil {
			return nil, err
		}
		members = event.AppendMember(members, "profile_info", profiles)
	}
	return braced(members), nil
}

// profiles are the names and avatars that the senders of events had in the room at the result.
func (s *searching) profiles(h hit, events []*Event) (jsontext.Value, error) {
	list, err := s.engine.membersAt(s.tx, SendersOf(events), h.event)
	if err != nil {
		return nil, err
	}
	var members []byte
	for _, ev := range list {
		var profile []byte
		for _, key := range []string{"displayname", "avatar_url"} {
			if value := ev.PDU.ContentString(key); value != "" {
				profile = event.AppendStringMember(profile, key, value)
			}
		}
		members = event.AppendMember(members, *ev.PDU.StateKey, braced(profile))
	}
	return braced(members), nil
}

// groups partitions the page. Each group can be paged by itself.
func (s *searching) groups(page []hit) jsontext.Value {
	var members []byte
	for _, key := range s.query.GroupBy {
		var values []string
		byValue := map[string][]hit{}
		for _, h := range page {
			v := h.group(key)
			if byValue[v] == nil {
				values = append(values, v)
			}
			byValue[v] = append(byValue[v], h)
		}
		var inner []byte
		for i, v := range values {
			inner = event.AppendMember(inner, v, s.group(key, v, i+1, byValue[v]))
		}
		members = event.AppendMember(members, key, braced(inner))
	}
	return braced(members)
}

func (s *searching) group(key, value string, order int, hits []hit) jsontext.Value {
	results := []byte{'['}
	for i, h := range hits {
		if i > 0 {
			results = append(results, ',')
		}
		results = appendQuoted(results, h.event.ID)
	}
	members := event.AppendMember(nil, "results", append(results, ']'))
	members = event.AppendMember(members, "order", strconv.AppendInt(nil, int64(order), 10))
	last := hits[len(hits)-1].event.ID
	i := slices.IndexFunc(s.hits, func(h hit) bool { return h.event.ID == last })
	if slices.ContainsFunc(s.hits[i+1:], func(h hit) bool { return h.group(key) == value }) {
		members = event.AppendStringMember(members, "next_batch", s.token(SearchPlace{last, key, value}))
	}
	return braced(members)
}

// appendStates appends the state of each room of the page, as the reader is shown it.
func (s *searching) appendStates(members []byte, page []hit) ([]byte, error) {
	var states []byte
	seen := map[store.RoomNID]bool{}
	for _, h := range page {
		if seen[h.event.Room] {
			continue
		}
		seen[h.event.Room] = true
		state, err := s.engine.StateFor(s.tx, h.view)
		if err != nil {
			return nil, err
		}
		list, err := s.engine.appendState(nil, s.tx, h.view, state)
		if err != nil {
			return nil, err
		}
		states = event.AppendMember(states, string(h.view.Room.ID), list)
	}
	return event.AppendMember(members, "state", braced(states)), nil
}
