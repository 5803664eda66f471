package media

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"time"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/outgoing"
	"hearth/store"
)

// Request names a file and says how it is asked for.
type Request struct {
	Server id.Server
	ID     string
	// LoggedIn is false for the old endpoints, which anybody may call.
	LoggedIn bool
	// NoRemote asks for no file of another server but those copied already.
	NoRemote bool
	// ByServer: another server asks.
	ByServer bool
	// Timeout is how long to wait for a file that is not uploaded yet.
	Timeout time.Duration
}

// File is an open file with what is known of it. The caller closes it.
type File struct {
	*os.File
	Type     string
	Name     string
	Length   int64
	Modified time.Time
	ETag     string // changes whenever the bytes do
	// LoggedIn says that only those who are logged in may see it.
	LoggedIn bool
}

// maxWait bounds how long a download waits for its upload.
const maxWait = time.Minute

// Download opens a file of ours or of another server.
// spec: client-server-api#get_matrixclientv1mediadownloadservernamemediaid
func (r *Repository) Download(ctx context.Context, q Request) (*File, error) {
	m, err := r.find(ctx, q)
	if err != nil {
		return nil, err
	}
	return r.open(m)
}

func (r *Repository) open(m store.MediaFile) (*File, error) {
	f, err := r.files.open(m.SHA256)
	if errors.Is(err, fs.ErrNotExist) {
		slog.Error("a media file is missing on disk", "origin", m.Origin, "media_id", m.ID, "sha256", m.SHA256)
		return nil, notFound()
	}
	if err != nil {
		return nil, fmt.Errorf("open media %s: %w", m.ID, err)
	}
	return &File{
		File: f, Type: m.Type, Name: m.Name, Length: m.Length,
		Modified: time.UnixMilli(m.Created), ETag: m.SHA256, LoggedIn: m.Authenticated,
	}, nil
}

// find finds a file that may be served to the caller, and waits for it or
// fetches it where that is needed.
func (r *Repository) find(ctx context.Context, q Request) (store.MediaFile, error) {
	if !ValidID(q.ID) {
		return store.MediaFile{}, notFound()
	}
	var m store.MediaFile
	var err error
	if q.Server == r.o.Server {
		m, err = r.findLocal(ctx, q)
	} else {
		m, err = r.findRemote(ctx, q)
	}
	if err != nil {
		return m, err
	}
	// The freeze: what is newer than the endpoints with authentication is not
	// served by those without.
	if m.QuarantinedBy != "" || m.Authenticated && !q.LoggedIn {
		return m, notFound()
	}
	r.noteAccess(fileKey{m.Origin, m.ID})
	return m, nil
}

func (r *Repository) findLocal(ctx context.Context, q Request) (store.MediaFile, error) {
	come, leave := r.await(q.ID)
	defer leave()
	m, err := r.read(ctx, "", q.ID)
	if err != nil || m.Length >= 0 {
		return m, err
	}
	timeout := time.NewTimer(min(q.Timeout, maxWait))
	defer timeout.Stop()
	select {
	case <-come:
		return r.read(ctx, "", q.ID)
	case <-ctx.Done():
		return m, ctx.Err()
	case <-timeout.C:
		return m, errcode.New(http.StatusGatewayTimeout, "M_NOT_YET_UPLOADED", "the file is not uploaded yet")
	}
}

// read reads a row that is not expired.
func (r *Repository) read(ctx context.Context, origin id.Server, mediaID string) (m store.MediaFile, err error) {
	err = r.store.View(ctx, func(tx *store.Tx) error {
		var ok bool
		m, ok, err = tx.Media.Find(origin, mediaID)
		if err == nil && (!ok || r.expired(m)) {
			err = notFound()
		}
		return err
	})
	return m, err
}

// findRemote finds the copy of another server's file, or makes it. One fetch
// serves all who ask meanwhile.
func (r *Repository) findRemote(ctx context.Context, q Request) (store.MediaFile, error) {
	key := fileKey{q.Server, q.ID}
	for {
		m, err := r.read(ctx, q.Server, q.ID)
		if e, ok := errors.AsType[*errcode.Error](err); err == nil || !ok || e.Code != "M_NOT_FOUND" {
			return m, err
		}
		// A copy made now would be new, and so not for those who are not logged
		// in: they must not make us fetch.
		if r.o.Remote == nil || q.NoRemote || r.o.Authenticated && !q.LoggedIn {
			return m, err
		}
		f, mine := r.beginFetch(key, q.Timeout)
		if mine {
			f.err = r.fetch(ctx, q)
			f.left = ctx.Err() != nil
			r.endFetch(key)
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return m, ctx.Err()
		}
		if f.err != nil && (mine || f.speaksFor(q.Timeout)) {
			return m, f.err
		}
	}
}

// fetching is that another server is asked for a file. done is closed when that has ended;
// then the rest is set.
type fetching struct {
	timeout time.Duration // of whoever asks
	done    chan struct{}
	err     error
	left    bool // whoever asked went away
}

// speaksFor says whether a failure is one for somebody with other patience, too.
func (f *fetching) speaksFor(timeout time.Duration) bool {
	e, ok := errors.AsType[*errcode.Error](f.err)
	return !f.left && (f.timeout >= timeout || !ok || e.Code != "M_NOT_YET_UPLOADED")
}

// beginFetch returns the fetch of a file that is under way, or one that is the caller's to do.
func (r *Repository) beginFetch(key fileKey, timeout time.Duration) (f *fetching, mine bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.fetching[key]; f != nil {
		return f, false
	}
	f = &fetching{timeout: timeout, done: make(chan struct{})}
	r.fetching[key] = f
	return f, true
}

func (r *Repository) endFetch(key fileKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.fetching[key].done)
	delete(r.fetching, key)
}

// fetch copies another server's file.
func (r *Repository) fetch(ctx context.Context, q Request) error {
	remote, err := r.o.Remote(ctx, q.Server, q.ID, min(q.Timeout, maxWait))
	if err != nil {
		return fetchFailed(ctx, q, err)
	}
	defer remote.Body.Close()
	d, err := r.files.write(remote.Body, r.o.MaxUpload)
	if errors.Is(err, errTooLong) || errors.Is(err, outgoing.ErrTooLarge) {
		return remoteTooLarge("the file")
	}
	if err != nil {
		return fetchFailed(ctx, q, err)
	}
	defer d.discard()
	meta := Meta{remote.Type, remote.Name}.clean()
	return r.keep(ctx, d, func(tx *store.Tx, d *draft) error {
		return tx.Media.Insert(store.MediaFile{
			Origin: q.Server, ID: q.ID, Type: meta.Type, Name: meta.Name, Length: d.length, SHA256: d.sha,
			Created: now(), Authenticated: r.o.Authenticated,
		})
	})
}

func fetchFailed(ctx context.Context, q Request, err error) error {
	if _, ok := errors.AsType[*errcode.Error](err); ok || ctx.Err() != nil {
		return err
	}
	slog.InfoContext(ctx, "a file of another server was not to be had", "server", q.Server, "media_id", q.ID, "error", err)
	return errcode.New(http.StatusBadGateway, "M_UNKNOWN", "the file could not be fetched from %s", q.Server)
}

func (r *Repository) noteAccess(key fileKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.accessed[key] = now()
}
