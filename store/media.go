package store

import (
	"hearth/matrix/id"
)

// Media is what is known of uploaded and fetched files; their bytes are on disk.
type Media struct{ tx *Tx }

// MediaFile is a row of local_media_repository, or of remote_media_cache where Origin is set.
type MediaFile struct {
	Origin        id.Server // empty: ours
	ID            string
	Type          string
	Length        int64 // -1: not uploaded yet
	Created       int64 // milliseconds
	Name          string
	User          id.User // empty: fetched by the server
	QuarantinedBy string
	URL           string // whose preview it is a part of
	LastAccess    int64
	Safe          bool // not to be quarantined
	Authenticated bool // not served to those who are not logged in
	SHA256        string
}

// MediaUse is how much a user has uploaded.
type MediaUse struct {
	User   id.User
	Count  int64
	Length int64
}

const (
	mediaColumns = `media_id, COALESCE(media_type, ''), COALESCE(media_length, -1), created_ts, COALESCE(upload_name, ''),
		COALESCE(quarantined_by, ''), COALESCE(last_access_ts, 0), authenticated, COALESCE(sha256, '')`
	localColumns  = mediaColumns + `, '', COALESCE(user_id, ''), COALESCE(url_cache, ''), safe_from_quarantine`
	remoteColumns = mediaColumns + `, media_origin, '', '', FALSE`

	getLocalMedia    = `SELECT ` + localColumns + ` FROM local_media_repository WHERE media_id = $1`
	getRemoteMedia   = `SELECT ` + remoteColumns + ` FROM remote_media_cache WHERE media_origin = $1 AND media_id = $2`
	insertLocalMedia = `INSERT INTO local_media_repository
		(media_id, media_type, media_length, created_ts, upload_name, user_id, url_cache, last_access_ts, authenticated, sha256)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $4, $8, $9)`
	insertPendingMedia = `INSERT INTO local_media_repository (media_id, created_ts, user_id, authenticated) VALUES ($1, $2, $3, $4)`
	fillLocalMedia     = `UPDATE local_media_repository SET media_type = $2, media_length = $3, upload_name = $4, last_access_ts = $5, sha256 = $6
		WHERE media_id = $1 AND media_length IS NULL`
	insertRemoteMedia = `INSERT INTO remote_media_cache
		(media_origin, media_id, media_type, media_length, created_ts, upload_name, last_access_ts, authenticated, sha256)
		VALUES ($1, $2, $3, $4, $5, $6, $5, $7, $8) ON CONFLICT (media_origin, media_id) DO NOTHING`
	countPending = `SELECT COUNT(*), COALESCE(MIN(created_ts), 0) FROM local_media_repository
		WHERE user_id = $1 AND media_length IS NULL AND created_ts > $2`
	uploadedSince   = `SELECT COALESCE(SUM(media_length), 0) FROM local_media_repository WHERE user_id = $1 AND created_ts > $2 AND media_length IS NOT NULL`
	touchLocal      = `UPDATE local_media_repository SET last_access_ts = $2 WHERE media_id = $1`
	touchRemote     = `UPDATE remote_media_cache SET last_access_ts = $3 WHERE media_origin = $1 AND media_id = $2`
	deleteLocal     = `DELETE FROM local_media_repository WHERE media_id = $1`
	deleteRemote    = `DELETE FROM remote_media_cache WHERE media_origin = $1 AND media_id = $2`
	usesOfFile      = `SELECT (SELECT COUNT(*) FROM local_media_repository WHERE sha256 = $1) + (SELECT COUNT(*) FROM remote_media_cache WHERE sha256 = $1)`
	deletePending   = `DELETE FROM local_media_repository WHERE media_length IS NULL AND created_ts <= $1`
	oldPreviews     = `SELECT ` + localColumns + ` FROM local_media_repository WHERE url_cache IS NOT NULL AND created_ts < $1 ORDER BY created_ts LIMIT $2`
	unusedLocal     = `SELECT ` + localColumns + ` FROM local_media_repository WHERE last_access_ts < $1 AND media_length >= $2 AND quarantined_by IS NULL AND safe_from_quarantine = FALSE LIMIT $3`
	unusedRemote    = `SELECT ` + remoteColumns + ` FROM remote_media_cache WHERE last_access_ts < $1 AND quarantined_by IS NULL ORDER BY last_access_ts LIMIT $2`
	mediaOfUser     = `SELECT ` + localColumns + ` FROM local_media_repository WHERE user_id = $1 AND media_length IS NOT NULL ORDER BY created_ts DESC, media_id LIMIT $2 OFFSET $3`
	countOfUser     = `SELECT COUNT(*) FROM local_media_repository WHERE user_id = $1 AND media_length IS NOT NULL`
	quarantineLocal = `UPDATE local_media_repository SET quarantined_by = $2 WHERE media_id = $1 AND safe_from_quarantine = FALSE`
	quarantineFile  = `UPDATE local_media_repository SET quarantined_by = $2 WHERE sha256 = $1 AND safe_from_quarantine = FALSE`
	quarantineCache = `UPDATE remote_media_cache SET quarantined_by = $3 WHERE media_origin = $1 AND media_id = $2`
	protectLocal    = `UPDATE local_media_repository SET safe_from_quarantine = $2 WHERE media_id = $1`
	useByUser       = `SELECT user_id, COUNT(*), SUM(media_length) FROM local_media_repository
		WHERE user_id IS NOT NULL AND media_length IS NOT NULL GROUP BY user_id ORDER BY SUM(media_length) DESC, user_id LIMIT $1 OFFSET $2`
)

func scanMediaFile(r scanner) (m MediaFile, err error) {
	err = r.Scan(&m.ID, &m.Type, &m.Length, &m.Created, &m.Name, &m.QuarantinedBy, &m.LastAccess, &m.Authenticated, &m.SHA256,
		&m.Origin, &m.User, &m.URL, &m.Safe)
	return
}

// Find reads what is known of a file; an empty origin means one of ours.
func (t Media) Find(origin id.Server, mediaID string) (MediaFile, bool, error) {
	if origin == "" {
		return one(t.tx, scanMediaFile, getLocalMedia, mediaID)
	}
	return one(t.tx, scanMediaFile, getRemoteMedia, string(origin), mediaID)
}

// Insert notes a file that is on disk. A remote one that is known already stays as it is.
func (t Media) Insert(m MediaFile) error {
	if m.Origin != "" {
		_, err := t.tx.exec(insertRemoteMedia, string(m.Origin), m.ID, m.Type, m.Length, m.Created, orNull(m.Name), m.Authenticated, m.SHA256)
		return err
	}
	_, err := t.tx.exec(insertLocalMedia, m.ID, m.Type, m.Length, m.Created, orNull(m.Name), orNull(string(m.User)), orNull(m.URL), m.Authenticated, m.SHA256)
	return err
}

// InsertPending notes a media id whose file comes later.
func (t Media) InsertPending(mediaID string, user id.User, now int64, authenticated bool) error {
	_, err := t.tx.exec(insertPendingMedia, mediaID, now, string(user), authenticated)
	return err
}

// Fill notes the file of a pending media id; false: it has one, or there is no such id.
func (t Media) Fill(m MediaFile) (bool, error) {
	n, err := t.tx.exec(fillLocalMedia, m.ID, m.Type, m.Length, orNull(m.Name), m.LastAccess, m.SHA256)
	return n > 0, err
}

// CountPending counts a user's media ids without a file that were created
// after a time, and says when the oldest of them was.
func (t Media) CountPending(user id.User, after int64) (n, oldest int64, err error) {
	_, _, err = one(t.tx, func(r scanner) (struct{}, error) { return struct{}{}, r.Scan(&n, &oldest) }, countPending, string(user), after)
	return n, oldest, err
}

// UploadedSince sums the bytes that a user uploaded after a time.
func (t Media) UploadedSince(user id.User, after int64) (int64, error) {
	n, _, err := one(t.tx, value[int64], uploadedSince, string(user), after)
	return n, err
}

// SetLastAccess notes when a file was last asked for.
func (t Media) SetLastAccess(origin id.Server, mediaID string, at int64) error {
	if origin == "" {
		_, err := t.tx.exec(touchLocal, mediaID, at)
		return err
	}
	_, err := t.tx.exec(touchRemote, string(origin), mediaID, at)
	return err
}

// Delete forgets a file and says whether another row still needs its bytes.
func (t Media) Delete(m MediaFile) (shared bool, err error) {
	if m.Origin == "" {
		_, err = t.tx.exec(deleteLocal, m.ID)
	} else {
		_, err = t.tx.exec(deleteRemote, string(m.Origin), m.ID)
	}
	if err != nil || m.SHA256 == "" {
		return true, err
	}
	n, _, err := one(t.tx, value[int64], usesOfFile, m.SHA256)
	return n > 0, err
}

// DeletePending forgets media ids that were created by a time and never got a file.
func (t Media) DeletePending(createdBy int64) (int64, error) {
	return t.tx.exec(deletePending, createdBy)
}

// ListOldPreviews lists files of previews that were made before a time.
func (t Media) ListOldPreviews(before int64, limit int) ([]MediaFile, error) {
	return list(t.tx, scanMediaFile, oldPreviews, before, limit)
}

// ListUnusedLocal lists our files that nobody asked for since a time and that
// have at least so many bytes; not those in quarantine or protected.
func (t Media) ListUnusedLocal(since, length int64, limit int) ([]MediaFile, error) {
	return list(t.tx, scanMediaFile, unusedLocal, since, length, limit)
}

// ListUnusedRemote lists other servers' files that nobody asked for since a time.
func (t Media) ListUnusedRemote(since int64, limit int) ([]MediaFile, error) {
	return list(t.tx, scanMediaFile, unusedRemote, since, limit)
}

// ListOfUser lists a user's uploads, newest first, and counts all of them.
func (t Media) ListOfUser(user id.User, limit, from int) ([]MediaFile, int64, error) {
	total, _, err := one(t.tx, value[int64], countOfUser, string(user))
	if err != nil {
		return nil, 0, err
	}
	files, err := list(t.tx, scanMediaFile, mediaOfUser, string(user), limit, from)
	return files, total, err
}

// SetQuarantine withholds a file from everybody, or with an empty by no
// longer. Equal files of ours go with it; protected ones stay.
func (t Media) SetQuarantine(m MediaFile, by string) (int64, error) {
	switch {
	case m.Origin != "":
		return t.tx.exec(quarantineCache, string(m.Origin), m.ID, orNull(by))
	case m.SHA256 != "":
		return t.tx.exec(quarantineFile, m.SHA256, orNull(by))
	}
	return t.tx.exec(quarantineLocal, m.ID, orNull(by))
}

// SetProtected keeps one of our files from quarantine.
func (t Media) SetProtected(mediaID string, safe bool) (int64, error) {
	return t.tx.exec(protectLocal, mediaID, safe)
}

// ListUse lists who has uploaded how much, the most first.
func (t Media) ListUse(limit, from int) ([]MediaUse, error) {
	return list(t.tx, func(r scanner) (u MediaUse, err error) {
		err = r.Scan(&u.User, &u.Count, &u.Length)
		return
	}, useByUser, limit, from)
}
