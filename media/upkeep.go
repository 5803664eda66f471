package media

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
)

const (
	accessEvery  = time.Minute
	cleanEvery   = time.Hour
	previewFiles = 2 * 24 * time.Hour // how long pictures of previews are kept; previews themselves are kept shorter
	cleanBatch   = 100
)

// Run writes down when files were asked for and removes what has had its time,
// until the context ends.
func (r *Repository) Run(ctx context.Context) error {
	access, clean := time.NewTicker(accessEvery), time.NewTicker(cleanEvery)
	defer access.Stop()
	defer clean.Stop()
	for {
		var err error
		select {
		case <-access.C:
			err = r.writeAccess(ctx)
		case <-clean.C:
			err = r.Clean(ctx)
		case <-ctx.Done():
			return r.writeAccess(context.WithoutCancel(ctx))
		}
		if err != nil && ctx.Err() == nil {
			slog.Error("upkeep of media", "error", err)
		}
	}
}

func (r *Repository) writeAccess(ctx context.Context) error {
	r.mu.Lock()
	accessed := r.accessed
	r.accessed = map[fileKey]int64{}
	r.mu.Unlock()
	if len(accessed) == 0 {
		return nil
	}
	return wrap(r.store.Update(ctx, func(tx *store.Tx) error {
		for key, at := range accessed {
			if err := tx.Media.SetLastAccess(key.origin, key.id, at); err != nil {
				return err
			}
		}
		return nil
	}), "note when media were used")
}

// Clean removes media ids that never got a file, pictures of old previews, and
// files that nobody asked for in the lifetimes of the options.
func (r *Repository) Clean(ctx context.Context) error {
	now := now()
	err := r.store.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Media.DeletePending(now - r.o.PendingLifetime.Milliseconds())
		return err
	})
	err = errors.Join(err, r.cleanList(ctx, func(tx *store.Tx) ([]store.MediaFile, error) {
		return tx.Media.ListOldPreviews(now-previewFiles.Milliseconds(), cleanBatch)
	}))
	if r.o.LocalLifetime > 0 {
		_, e := r.DeleteUnused(ctx, now-r.o.LocalLifetime.Milliseconds(), 0)
		err = errors.Join(err, e)
	}
	if r.o.RemoteLifetime > 0 {
		_, e := r.DeleteUnusedRemote(ctx, now-r.o.RemoteLifetime.Milliseconds())
		err = errors.Join(err, e)
	}
	return wrap(err, "remove old media")
}

// DeleteUnused removes our files of at least length bytes that nobody asked for since a time.
func (r *Repository) DeleteUnused(ctx context.Context, since, length int64) (deleted []string, err error) {
	err = r.cleanList(ctx, func(tx *store.Tx) ([]store.MediaFile, error) {
		files, err := tx.Media.ListUnusedLocal(since, length, cleanBatch)
		for _, m := range files {
			deleted = append(deleted, m.ID)
		}
		return files, err
	})
	return deleted, err
}

// DeleteUnusedRemote removes copies of other servers' files that nobody asked for since a time.
func (r *Repository) DeleteUnusedRemote(ctx context.Context, since int64) (deleted int, err error) {
	err = r.cleanList(ctx, func(tx *store.Tx) ([]store.MediaFile, error) {
		files, err := tx.Media.ListUnusedRemote(since, cleanBatch)
		deleted += len(files)
		return files, err
	})
	return deleted, err
}

// cleanList removes what list finds until it finds no more.
func (r *Repository) cleanList(ctx context.Context, list func(*store.Tx) ([]store.MediaFile, error)) error {
	for {
		var files []store.MediaFile
		err := r.store.View(ctx, func(tx *store.Tx) (err error) {
			files, err = list(tx)
			return err
		})
		if err != nil || len(files) == 0 {
			return err
		}
		if err := r.remove(ctx, files); err != nil {
			return err
		}
	}
}

// remove deletes rows, and the bytes that no other row needs.
func (r *Repository) remove(ctx context.Context, files []store.MediaFile) error {
	r.stored.Lock()
	defer r.stored.Unlock()
	var unneeded []string
	err := r.store.Update(ctx, func(tx *store.Tx) error {
		unneeded = unneeded[:0]
		for _, m := range files {
			shared, err := tx.Media.Delete(m)
			if err != nil {
				return err
			}
			if !shared {
				unneeded = append(unneeded, m.SHA256)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, sha := range unneeded {
		err = errors.Join(err, r.files.remove(sha))
	}
	return err
}

// Delete removes one file.
func (r *Repository) Delete(ctx context.Context, server id.Server, mediaID string) error {
	m, err := r.Find(ctx, server, mediaID)
	if err != nil {
		return err
	}
	return r.remove(ctx, []store.MediaFile{m})
}

// Find tells what is known of a file, for administrators.
func (r *Repository) Find(ctx context.Context, server id.Server, mediaID string) (store.MediaFile, error) {
	if !ValidID(mediaID) {
		return store.MediaFile{}, notFound()
	}
	if server == r.o.Server {
		server = ""
	}
	return r.read(ctx, server, mediaID)
}

// SetQuarantine withholds a file from everybody, or with an empty by no longer.
func (r *Repository) SetQuarantine(ctx context.Context, server id.Server, mediaID string, by id.User) error {
	m, err := r.Find(ctx, server, mediaID)
	if err != nil {
		return err
	}
	return r.store.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Media.SetQuarantine(m, string(by))
		return err
	})
}

// SetProtected keeps one of our files from quarantine, or no longer.
func (r *Repository) SetProtected(ctx context.Context, mediaID string, safe bool) error {
	return r.store.Update(ctx, func(tx *store.Tx) error {
		n, err := tx.Media.SetProtected(mediaID, safe)
		if err == nil && n == 0 {
			err = errcode.NotFound("there is no such file")
		}
		return err
	})
}

// ListOfUser lists a user's uploads, newest first, and counts all of them.
func (r *Repository) ListOfUser(ctx context.Context, user id.User, limit, from int) (files []store.MediaFile, total int64, err error) {
	err = r.store.View(ctx, func(tx *store.Tx) error {
		files, total, err = tx.Media.ListOfUser(user, limit, from)
		return err
	})
	return files, total, err
}

// ListUse lists who has uploaded how much, the most first.
func (r *Repository) ListUse(ctx context.Context, limit, from int) (use []store.MediaUse, err error) {
	err = r.store.View(ctx, func(tx *store.Tx) error {
		use, err = tx.Media.ListUse(limit, from)
		return err
	})
	return use, err
}
