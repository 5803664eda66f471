package ephemeral

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
	"hearth/stream"
)

// State is a user's or a device's presence.
type State string

const (
	Online      State = "online"
	Unavailable State = "unavailable"
	Offline     State = "offline"
)

// ParseState reads what a client asks for.
func ParseState(s string) (State, error) {
	switch State(s) {
	case Online, Unavailable, Offline:
		return State(s), nil
	}
	return "", errcode.InvalidParam("there is no presence %q", s)
}

const (
	// offlineAfter is how long a device counts as connected after its last sync.
	offlineAfter = 30 * time.Second
	// idleAfter is how long one is online without doing anything.
	// spec: client-server-api#idle-timeout
	idleAfter = 5 * time.Minute
	// activeFor is how long one counts as currently active; within it no news of activity is sent.
	// spec: client-server-api#last-active-ago
	activeFor = time.Minute
	// saveEvery is how often changes are written to the database.
	saveEvery = time.Minute
	// remoteFor is how long the presence of a user of another server lasts if nothing
	// is heard of it again; tellServersAgain is how often others hear of ours, at
	// least, while somebody is online and does something.
	remoteFor        = 30 * time.Minute
	tellServersAgain = 20 * time.Minute
	// maxPeople bounds how many users are remembered; those offline are forgotten first.
	maxPeople = 50_000
	// maxStatus bounds a status message in bytes.
	maxStatus = 2048
)

// Presence is who is online, in memory; the last state is saved now and then.
type Presence struct {
	// Changed, if set before use, hears of local users.
	Changed func(user id.User, nid store.UserNID, s Status)

	store   *store.Store
	hub     *stream.Hub
	enabled bool

	mu     sync.Mutex // held while the hub is told, so that no reader misses what it was told of
	people map[id.User]*person
	unsent map[*person]bool // changed since they were saved
	closed bool
}

// person is what is known of one user.
type person struct {
	nid        store.UserNID
	user       id.User
	devices    map[id.Device]*device
	statusMsg  string
	lastActive time.Time
	told       told
	position   int64 // when others were told, volatile
	timer      *time.Timer

	toldServers time.Time
	remote      *remotePresence // of a user of another server
}

// remotePresence is what another server said of its user.
type remotePresence struct {
	state           State
	currentlyActive bool
	until           time.Time
}

// device is a device that is or was connected.
type device struct {
	state   State
	syncing int       // requests that wait
	seen    time.Time // end of the last request
	active  time.Time
}

// told is what others know of a person.
type told struct {
	state           State
	currentlyActive bool
	statusMsg       string
}

// NewPresence makes the service; one that is not enabled shows everybody as offline.
func NewPresence(s *store.Store, hub *stream.Hub, enabled bool) *Presence {
	return &Presence{store: s, hub: hub, enabled: enabled, people: map[id.User]*person{}, unsent: map[*person]bool{}}
}

// Set is a client's explicit choice.
// spec: client-server-api#put_matrixclientv3presenceuseridstatus
func (p *Presence) Set(ctx context.Context, user id.User, d id.Device, state State, statusMsg string) error {
	if len(statusMsg) > maxStatus {
		return errcode.TooLarge("status_msg is longer than %d bytes", maxStatus)
	}
	return p.change(ctx, user, func(who *person, now time.Time) {
		who.statusMsg = statusMsg
		who.connect(d, state, now)
	})
}

// Syncing says that a device waits in a sync, until ctx ends, with a presence
// that it asks for. Asking to be offline leaves the presence as it is.
// spec: client-server-api#get_matrixclientv3sync set_presence
func (p *Presence) Syncing(ctx context.Context, user id.User, d id.Device, state State) error {
	if !p.enabled || state == Offline {
		return nil
	}
	err := p.change(ctx, user, func(who *person, now time.Time) {
		who.connect(d, state, now).syncing++
	})
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() {
		end := func(who *person, now time.Time) {
			if dev := who.devices[d]; dev != nil && dev.syncing > 0 {
				dev.syncing--
				dev.seen = now
			}
		}
		if err := p.change(context.WithoutCancel(ctx), user, end); err != nil {
			slog.WarnContext(ctx, "presence at the end of a sync", "user", user, "error", err)
		}
	})
	return nil
}

// Active says that a user did something: sent a message, typed, read.
func (p *Presence) Active(ctx context.Context, user id.User, d id.Device) error {
	return p.change(ctx, user, func(who *person, now time.Time) {
		who.lastActive = now
		if dev := who.devices[d]; dev != nil {
			dev.active, dev.state = now, Online
		}
	})
}

// connect notes a device's presence.
func (who *person) connect(d id.Device, state State, now time.Time) *device {
	dev := who.devices[d]
	if dev == nil {
		dev = &device{}
		who.devices[d] = dev
	}
	dev.state, dev.seen = state, now
	if state == Online {
		dev.active, who.lastActive = now, now
	}
	return dev
}

// change applies fn to a person and tells others if that shows.
func (p *Presence) change(ctx context.Context, user id.User, fn func(*person, time.Time)) error {
	if !p.enabled {
		return nil
	}
	who, err := p.find(ctx, user)
	if err != nil {
		return fmt.Errorf("presence of %s: %w", user, err)
	}
	p.mu.Lock()
	now := time.Now()
	fn(who, now)
	news := p.settle(who)
	again := who.remote == nil && who.told.state == Online && now.Sub(who.toldServers) >= tellServersAgain
	p.mu.Unlock()
	if news {
		err = p.tell(ctx, who)
	}
	if news || again {
		p.tellServers(who)
	}
	return err
}

// tellServers lets other servers know of a local user.
func (p *Presence) tellServers(who *person) {
	p.mu.Lock()
	now := time.Now()
	who.toldServers = now
	local, s := who.remote == nil, who.status(now)
	p.mu.Unlock()
	if local && p.Changed != nil {
		p.Changed(who.user, who.nid, s)
	}
}

// Receive takes what another server says of its user, if anybody here sees him.
// spec: server-server-api#presence
func (p *Presence) Receive(ctx context.Context, user id.User, state State, statusMsg string, lastActiveAgo time.Duration, currentlyActive bool) error {
	if !p.enabled {
		return nil
	}
	if len(statusMsg) > maxStatus {
		return errcode.TooLarge("status_msg is longer than %d bytes", maxStatus)
	}
	seen := false
	err := p.store.View(ctx, func(tx *store.Tx) error {
		nid, known, err := tx.IDs.FindUser(user)
		if err == nil && known {
			seen, err = tx.RemoteLists.Shares(nid, 0)
		}
		return err
	})
	if err != nil || !seen {
		return err
	}
	return p.change(ctx, user, func(who *person, now time.Time) {
		who.remote = &remotePresence{state, currentlyActive, now.Add(remoteFor)}
		who.statusMsg = statusMsg
		who.lastActive = now.Add(-max(0, lastActiveAgo))
	})
}

// find is the person in memory, begun with what was saved.
func (p *Presence) find(ctx context.Context, user id.User) (*person, error) {
	if who := p.known(user); who != nil {
		return who, nil
	}
	fresh := &person{user: user, devices: map[id.Device]*device{}, told: told{state: Offline}}
	read := func(tx *store.Tx) (err error) {
		if fresh.nid, _, err = tx.IDs.FindUser(user); err != nil {
			return err
		}
		saved, ok, err := tx.Presence.Get(fresh.nid)
		if ok && err == nil {
			fresh.statusMsg, fresh.told.statusMsg, fresh.lastActive = saved.StatusMsg, saved.StatusMsg, unMilli(saved.LastActiveTS)
		}
		return err
	}
	err := p.store.View(ctx, read)
	if err == nil && fresh.nid == 0 {
		err = p.store.Update(ctx, func(tx *store.Tx) (err error) {
			fresh.nid, err = tx.IDs.User(user)
			return err
		})
	}
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if who := p.people[user]; who != nil {
		return who, nil
	}
	p.forget()
	p.people[user] = fresh
	return fresh, nil
}

func (p *Presence) known(user id.User) *person {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.people[user]
}

// forget drops saved people who are offline when there are too many.
func (p *Presence) forget() {
	if len(p.people) < maxPeople {
		return
	}
	for user, who := range p.people {
		if len(who.devices) == 0 && !p.unsent[who] {
			delete(p.people, user)
		}
	}
}

// settle works out a person's presence, says whether others must hear of it,
// and sets the timer for the next change by itself.
func (p *Presence) settle(who *person) (news bool) {
	now := time.Now()
	state, next := who.state(now)
	t := told{state, false, who.statusMsg}
	if who.remote != nil {
		t.currentlyActive = state == Online && who.remote.currentlyActive
	} else if state == Online {
		if left := who.lastActive.Add(activeFor).Sub(now); left > 0 {
			t.currentlyActive = true
			next = sooner(next, left)
		}
	}
	news = t != who.told
	who.told = t
	if news && who.remote == nil {
		p.unsent[who] = true
	}
	if who.timer != nil {
		who.timer.Stop()
		who.timer = nil
	}
	if next > 0 && !p.closed {
		who.timer = time.AfterFunc(next, func() { p.elapse(who) })
	}
	return news
}

// state is the most present of a person's devices, and when that may change by itself.
func (who *person) state(now time.Time) (state State, next time.Duration) {
	if r := who.remote; r != nil {
		if left := r.until.Sub(now); left > 0 && r.state != Offline {
			return r.state, left
		}
		return Offline, 0
	}
	state = Offline
	for name, d := range who.devices {
		if d.syncing == 0 {
			left := d.seen.Add(offlineAfter).Sub(now)
			if left <= 0 || d.state == Offline {
				delete(who.devices, name)
				continue
			}
			next = sooner(next, left)
		}
		if d.state == Online {
			if left := d.active.Add(idleAfter).Sub(now); left > 0 {
				next = sooner(next, left)
			} else {
				d.state = Unavailable
			}
		}
		if d.state == Online || state == Offline {
			state = d.state
		}
	}
	return state, next
}

func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b < a {
		return b
	}
	return a
}

// elapse is called when a person's presence may have changed by itself.
func (p *Presence) elapse(who *person) {
	p.mu.Lock()
	news := !p.closed && p.settle(who)
	p.mu.Unlock()
	if !news {
		return
	}
	if err := p.tell(context.Background(), who); err != nil {
		slog.Warn("tell presence", "user", who.user, "error", err)
	}
	p.tellServers(who)
}

// tell wakes those who see a person.
func (p *Presence) tell(ctx context.Context, who *person) error {
	var seen []store.UserNID
	p.mu.Lock()
	local := who.remote == nil
	p.mu.Unlock()
	err := p.store.View(ctx, func(tx *store.Tx) (err error) {
		if !local {
			seen, err = tx.DeviceLists.Observers(who.nid)
		} else {
			seen, err = tx.Members.SharingLocal(who.nid)
		}
		return err
	})
	if err != nil {
		return err
	}
	if len(seen) == 0 && local {
		seen = []store.UserNID{who.nid}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	who.position = p.hub.PublishVolatile(stream.Presence, 0, seen)
	return nil
}

// Run saves changes now and then, until the context ends, and at its end.
func (p *Presence) Run(ctx context.Context) error {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := p.save(ctx); err != nil {
				slog.WarnContext(ctx, "save presence", "error", err)
			}
		case <-ctx.Done():
			p.close()
			return p.save(context.WithoutCancel(ctx))
		}
	}
}

func (p *Presence) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, who := range p.people {
		if who.timer != nil {
			who.timer.Stop()
		}
	}
}

// save writes what changed since the last time.
func (p *Presence) save(ctx context.Context) error {
	p.mu.Lock()
	saving := p.unsent
	p.unsent = map[*person]bool{}
	var rows []store.PresenceState
	for who := range saving {
		rows = append(rows, store.PresenceState{User: who.nid, State: string(who.told.state), StatusMsg: who.statusMsg, LastActiveTS: milli(who.lastActive)})
	}
	p.mu.Unlock()
	if len(rows) == 0 {
		return nil
	}
	err := p.store.Update(ctx, func(tx *store.Tx) error {
		for _, r := range rows {
			if err := tx.Presence.Set(r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		maps.Copy(p.unsent, saving)
	}
	return err
}

// milli is a time in milliseconds, 0 for none; unMilli is its reverse.
func milli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func unMilli(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}
