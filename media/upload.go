package media

import (
	"context"
	"errors"
	"io"
	"net/http"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
)

// Upload stores a file and returns its media id.
// spec: client-server-api#post_matrixmediav3upload
func (r *Repository) Upload(ctx context.Context, user id.User, meta Meta, body io.Reader) (mediaID string, err error) {
	if err := r.checkQuota(ctx, user, 0); err != nil {
		return "", err
	}
	mediaID = newMediaID()
	return mediaID, r.receive(ctx, user, body, func(tx *store.Tx, d *draft) error {
		meta = meta.clean()
		return tx.Media.Insert(store.MediaFile{
			ID: mediaID, Type: meta.Type, Name: meta.Name, Length: d.length, SHA256: d.sha,
			Created: now(), User: user, Authenticated: r.o.Authenticated,
		})
	})
}

// Create gives out a media id whose file comes later, and says until when it may come.
// spec: client-server-api#post_matrixmediav1create
func (r *Repository) Create(ctx context.Context, user id.User) (mediaID string, expires int64, err error) {
	mediaID = newMediaID()
	lifetime := r.o.PendingLifetime.Milliseconds()
	err = r.store.Update(ctx, func(tx *store.Tx) error {
		now := now()
		expires = now + lifetime
		n, oldest, err := tx.Media.CountPending(user, now-lifetime)
		if err != nil {
			return err
		}
		if n >= int64(r.o.MaxPending) {
			return errcode.LimitExceeded(max(1, oldest+lifetime-now))
		}
		return tx.Media.InsertPending(mediaID, user, now, r.o.Authenticated)
	})
	return mediaID, expires, err
}

// UploadTo stores the file of a media id that its user created before.
// spec: client-server-api#put_matrixmediav3uploadservernamemediaid
func (r *Repository) UploadTo(ctx context.Context, user id.User, server id.Server, mediaID string, meta Meta, body io.Reader) error {
	if server != r.o.Server {
		return errcode.NotFound("this media id is not of this server")
	}
	check := func(tx *store.Tx) error {
		m, ok, err := tx.Media.Find("", mediaID)
		switch {
		case err != nil:
			return err
		case !ok:
			return errcode.NotFound("there is no such media id")
		case m.User != user:
			return errcode.Forbidden("somebody else created this media id")
		case m.Length >= 0:
			return cannotOverwrite()
		case r.expired(m):
			return errcode.NotFound("this media id has expired")
		}
		return nil
	}
	if err := r.store.View(ctx, check); err != nil {
		return err
	}
	err := r.receive(ctx, user, body, func(tx *store.Tx, d *draft) error {
		meta = meta.clean()
		ok, err := tx.Media.Fill(store.MediaFile{
			ID: mediaID, Type: meta.Type, Name: meta.Name, Length: d.length, SHA256: d.sha, LastAccess: now(),
		})
		if err == nil && !ok {
			err = cannotOverwrite() // somebody was faster, or it expired meanwhile
		}
		return err
	})
	if err == nil {
		r.announce(mediaID)
	}
	return err
}

func cannotOverwrite() error {
	return errcode.New(http.StatusConflict, "M_CANNOT_OVERWRITE_MEDIA", "this media id has a file already")
}

func (r *Repository) expired(m store.MediaFile) bool {
	return m.Length < 0 && now() >= m.Created+r.o.PendingLifetime.Milliseconds()
}

// receive writes an upload to disk and then its row.
func (r *Repository) receive(ctx context.Context, user id.User, body io.Reader, insert func(*store.Tx, *draft) error) error {
	d, err := r.files.write(body, r.o.MaxUpload)
	if errors.Is(err, errTooLong) {
		return tooLarge(r.o.MaxUpload)
	}
	if err != nil {
		return err
	}
	defer d.discard()
	if err := r.checkQuota(ctx, user, d.length); err != nil {
		return err
	}
	return r.keep(ctx, d, insert)
}

// keep puts a draft in its place and notes it.
func (r *Repository) keep(ctx context.Context, d *draft, insert func(*store.Tx, *draft) error) error {
	r.stored.RLock()
	defer r.stored.RUnlock()
	if err := d.keep(); err != nil {
		return err
	}
	// A client that goes away now must not leave us guessing about the row.
	return r.store.Update(context.WithoutCancel(ctx), func(tx *store.Tx) error { return insert(tx, d) })
}

func (r *Repository) checkQuota(ctx context.Context, user id.User, length int64) error {
	if len(r.o.Quotas) == 0 {
		return nil
	}
	return r.store.View(ctx, func(tx *store.Tx) error {
		for _, q := range r.o.Quotas {
			used, err := tx.Media.UploadedSince(user, now()-q.Period.Milliseconds())
			if err != nil {
				return err
			}
			if used+max(1, length) > q.Size {
				return errcode.Forbidden("you may upload %d bytes in %s, which would be exceeded", q.Size, q.Period)
			}
		}
		return nil
	})
}

// waiters are those who wait for the file of one media id.
type waiters struct {
	come chan struct{} // closed when it is there
	n    int
}

// announce wakes those who wait for the file of a media id.
func (r *Repository) announce(mediaID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w := r.waiting[mediaID]; w != nil {
		close(w.come)
		delete(r.waiting, mediaID)
	}
}

// await says when a file has come for a media id; the caller ends it with leave.
func (r *Repository) await(mediaID string) (come <-chan struct{}, leave func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.waiting[mediaID]
	if w == nil {
		w = &waiters{come: make(chan struct{})}
		r.waiting[mediaID] = w
	}
	w.n++
	return w.come, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if w.n--; w.n == 0 && r.waiting[mediaID] == w {
			delete(r.waiting, mediaID)
		}
	}
}
