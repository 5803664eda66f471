package client

import (
	"context"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/e2ee"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

// spec: client-server-api#server-side-key-backups

type postRoomKeysVersionRequest struct {
	Algorithm string         `json:"algorithm"`
	AuthData  jsontext.Value `json:"auth_data"`
}

type postRoomKeysVersionResponse struct {
	Version string `json:"version"`
}

func (a *API) postRoomKeysVersion(ctx context.Context, c httpx.Caller, r postRoomKeysVersionRequest) (postRoomKeysVersionResponse, error) {
	version, err := a.E2EE.CreateBackup(ctx, c.User, r.Algorithm, r.AuthData)
	return postRoomKeysVersionResponse{version}, err
}

func (a *API) getRoomKeysVersionCurrent(ctx context.Context, c httpx.Caller, _ none) (e2ee.Backup, error) {
	return a.E2EE.GetBackup(ctx, c.User, "")
}

type backupVersionRequest struct {
	Version string `path:"version"`
}

func (a *API) getRoomKeysVersion(ctx context.Context, c httpx.Caller, r backupVersionRequest) (e2ee.Backup, error) {
	return a.E2EE.GetBackup(ctx, c.User, r.Version)
}

type putRoomKeysVersionRequest struct {
	Version   string         `path:"version"`
	Same      string         `json:"version"`
	Algorithm string         `json:"algorithm"`
	AuthData  jsontext.Value `json:"auth_data"`
}

func (a *API) putRoomKeysVersion(ctx context.Context, c httpx.Caller, r putRoomKeysVersionRequest) (none, error) {
	if r.Same != "" && r.Same != r.Version {
		return none{}, errcode.InvalidParam("version in the body is not the version in the path")
	}
	return none{}, a.E2EE.SetBackupAuthData(ctx, c.User, r.Version, r.Algorithm, r.AuthData)
}

func (a *API) deleteRoomKeysVersion(ctx context.Context, c httpx.Caller, r backupVersionRequest) (none, error) {
	return none{}, a.E2EE.DeleteBackup(ctx, c.User, r.Version)
}

// checkVersion demands the query parameter that names the backup.
func checkVersion(version string) error {
	if version == "" {
		return errcode.MissingParam("version is missing")
	}
	return nil
}

type roomKeys struct {
	Rooms map[id.Room]e2ee.RoomKeys `json:"rooms"`
}

type putRoomKeysRequest struct {
	Version string                    `query:"version"`
	Rooms   map[id.Room]e2ee.RoomKeys `json:"rooms"`
}

func (a *API) putRoomKeys(ctx context.Context, c httpx.Caller, r putRoomKeysRequest) (e2ee.BackupState, error) {
	if r.Rooms == nil {
		return e2ee.BackupState{}, errcode.MissingParam("rooms is missing")
	}
	return a.storeRoomKeys(ctx, c, r.Version, r.Rooms)
}

type putRoomKeysByRoomIDRequest struct {
	Room    id.Room       `path:"roomId"`
	Version string        `query:"version"`
	Keys    e2ee.RoomKeys `body:"."`
}

func (a *API) putRoomKeysByRoomId(ctx context.Context, c httpx.Caller, r putRoomKeysByRoomIDRequest) (e2ee.BackupState, error) {
	return a.storeRoomKeys(ctx, c, r.Version, map[id.Room]e2ee.RoomKeys{r.Room: r.Keys})
}

type putRoomKeyBySessionIDRequest struct {
	Room    id.Room          `path:"roomId"`
	Session string           `path:"sessionId"`
	Version string           `query:"version"`
	Key     e2ee.BackedUpKey `body:"."`
}

func (a *API) putRoomKeyBySessionId(ctx context.Context, c httpx.Caller, r putRoomKeyBySessionIDRequest) (e2ee.BackupState, error) {
	keys := e2ee.RoomKeys{Sessions: map[string]e2ee.BackedUpKey{r.Session: r.Key}}
	return a.storeRoomKeys(ctx, c, r.Version, map[id.Room]e2ee.RoomKeys{r.Room: keys})
}

func (a *API) storeRoomKeys(ctx context.Context, c httpx.Caller, version string, rooms map[id.Room]e2ee.RoomKeys) (e2ee.BackupState, error) {
	if err := checkVersion(version); err != nil {
		return e2ee.BackupState{}, err
	}
	return a.E2EE.PutRoomKeys(ctx, c.User, version, rooms)
}

type allKeysRequest struct {
	Version string `query:"version"`
}

type roomKeysRequest struct {
	Room    id.Room `path:"roomId"`
	Version string  `query:"version"`
}

type sessionKeyRequest struct {
	Room    id.Room `path:"roomId"`
	Session string  `path:"sessionId"`
	Version string  `query:"version"`
}

func (a *API) getRoomKeys(ctx context.Context, c httpx.Caller, r allKeysRequest) (roomKeys, error) {
	if err := checkVersion(r.Version); err != nil {
		return roomKeys{}, err
	}
	rooms, err := a.E2EE.GetRoomKeys(ctx, c.User, r.Version, "")
	return roomKeys{rooms}, err
}

func (a *API) getRoomKeysByRoomId(ctx context.Context, c httpx.Caller, r roomKeysRequest) (e2ee.RoomKeys, error) {
	if err := checkVersion(r.Version); err != nil {
		return e2ee.RoomKeys{}, err
	}
	rooms, err := a.E2EE.GetRoomKeys(ctx, c.User, r.Version, r.Room)
	return rooms[r.Room], err
}

func (a *API) getRoomKeyBySessionId(ctx context.Context, c httpx.Caller, r sessionKeyRequest) (e2ee.BackedUpKey, error) {
	if err := checkVersion(r.Version); err != nil {
		return e2ee.BackedUpKey{}, err
	}
	return a.E2EE.GetRoomKey(ctx, c.User, r.Version, r.Room, r.Session)
}

func (a *API) deleteRoomKeys(ctx context.Context, c httpx.Caller, r allKeysRequest) (e2ee.BackupState, error) {
	return a.removeRoomKeys(ctx, c, r.Version, "", "")
}

func (a *API) deleteRoomKeysByRoomId(ctx context.Context, c httpx.Caller, r roomKeysRequest) (e2ee.BackupState, error) {
	return a.removeRoomKeys(ctx, c, r.Version, r.Room, "")
}

func (a *API) deleteRoomKeyBySessionId(ctx context.Context, c httpx.Caller, r sessionKeyRequest) (e2ee.BackupState, error) {
	return a.removeRoomKeys(ctx, c, r.Version, r.Room, r.Session)
}

func (a *API) removeRoomKeys(ctx context.Context, c httpx.Caller, version string, room id.Room, session string) (e2ee.BackupState, error) {
	if err := checkVersion(version); err != nil {
		return e2ee.BackupState{}, err
	}
	return a.E2EE.DeleteRoomKeys(ctx, c.User, version, room, session)
}
