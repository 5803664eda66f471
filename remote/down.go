package remote

import (
	"errors"
	"sync"
	"time"

	"hearth/matrix/id"
)

// downList is which servers could not be reached, so that requests to them fail
// at once for a while. It is in memory only: after a restart all are tried.
type downList struct {
	mu      sync.Mutex
	servers map[id.Server]downState
}

type downState struct {
	failures    int
	last, until time.Time
}

// ErrDown is in the error of a request that was not sent, because the server
// could not be reached lately.
var ErrDown = errors.New("the server could not be reached lately")

const (
	firstWait = time.Second
	maxWait   = time.Hour
	// askedPause is how long a server is left alone at most where somebody wants something
	// that only this server can do: it may be back for long and have nothing to say.
	askedPause = time.Minute
	// shownPause is the same for what clients ask for by themselves, and by the dozen, of what
	// they show: the files and profiles of a server that is gone must not keep them waiting.
	shownPause = 10 * time.Minute
	// longestCost bounds for how long a server is left alone because it took as long to
	// find out that it does not answer.
	longestCost = time.Minute
	// maxDown bounds the list, which strangers can make grow by naming servers
	// that do not exist.
	maxDown = 20_000
)

// Down says until when requests to a server fail at once, and whether they do so now.
func (c *Client) Down(server id.Server) (until time.Time, down bool) {
	c.down.mu.Lock()
	defer c.down.mu.Unlock()
	s := c.down.servers[server]
	return s.until, c.now().Before(s.until)
}

// leftAlone says whether a request to a server fails at once. pause bounds for how long
// after a failure that is so; 0: only the list does.
func (c *Client) leftAlone(server id.Server, pause time.Duration) bool {
	c.down.mu.Lock()
	defer c.down.mu.Unlock()
	s := c.down.servers[server]
	now := c.now()
	return now.Before(s.until) && (pause == 0 || now.Before(s.last.Add(pause)))
}

// reached notes that something answered, if only with an error.
func (c *Client) reached(server id.Server) {
	c.down.mu.Lock()
	delete(c.down.servers, server)
	c.down.mu.Unlock()
}

// Up notes that a server shows life: it did what it was asked, or sent a request that was its own.
func (c *Client) Up(server id.Server) {
	c.reached(server)
	if c.Alive != nil {
		c.Alive(server)
	}
}

// failed notes that a server could not be reached, and how long it took to find out: for
// so long at least it is left alone, so that nobody waits most of the time. Requests that
// were under way together count once.
func (c *Client) failed(server id.Server, took time.Duration) {
	now := c.now()
	c.down.mu.Lock()
	defer c.down.mu.Unlock()
	s := c.down.servers[server]
	if now.Before(s.until) {
		s.last = now
		c.down.servers[server] = s
		return
	}
	if c.down.servers == nil {
		c.down.servers = map[id.Server]downState{}
	}
	if len(c.down.servers) >= maxDown {
		c.down.trim(now)
	}
	s.failures++
	s.last = now
	s.until = now.Add(max(min(firstWait<<min(s.failures-1, 20), maxWait), min(took, longestCost)))
	c.down.servers[server] = s
}

// trim forgets those whose time is over, and if that is not enough, anyone.
func (d *downList) trim(now time.Time) {
	for server, s := range d.servers {
		if now.After(s.until) {
			delete(d.servers, server)
		}
	}
	for server := range d.servers {
		if len(d.servers) < maxDown {
			return
		}
		delete(d.servers, server)
	}
}
