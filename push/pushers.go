package push

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
)

// Bounds of pushers.
const (
	maxPushKey    = 512      // bytes, by the specification
	maxAppID      = 64       // characters, by the specification
	maxPusherText = 1 << 10  // bytes of each other text
	maxPusherData = 16 << 10 // bytes
	maxPushers    = 200      // of one user
)

// Pusher is where a user wants to be notified, as the API shows it.
// spec: client-server-api#get_matrixclientv3pushers
type Pusher struct {
	PushKey           string         `json:"pushkey"`
	Kind              string         `json:"kind"`
	AppID             string         `json:"app_id"`
	AppDisplayName    string         `json:"app_display_name"`
	DeviceDisplayName string         `json:"device_display_name"`
	ProfileTag        string         `json:"profile_tag,omitzero"`
	Lang              string         `json:"lang"`
	Data              jsontext.Value `json:"data"`
	// msc: 3881
	Enabled bool      `json:"org.matrix.msc3881.enabled"`
	Device  id.Device `json:"org.matrix.msc3881.device_id,omitzero"`
}

// PusherChange is what a client asks to be set.
// spec: client-server-api#post_matrixclientv3pushersset
type PusherChange struct {
	PushKey           string
	AppID             string
	Kind              jsontext.Value // null: delete the pusher
	AppDisplayName    *string
	DeviceDisplayName *string
	ProfileTag        string
	Lang              *string
	Data              jsontext.Value
	Append            bool
	Enabled           *bool
}

// Pushers lists a user's pushers.
func (s *Service) Pushers(ctx context.Context, user id.User) ([]Pusher, error) {
	all := []Pusher{}
	err := s.store.View(ctx, func(tx *store.Tx) error {
		rows, err := tx.Push.Pushers(user)
		for _, p := range rows {
			all = append(all, Pusher{
				PushKey: p.PushKey, Kind: p.Kind, AppID: p.AppID, AppDisplayName: p.AppDisplayName, DeviceDisplayName: p.DeviceDisplayName,
				ProfileTag: p.ProfileTag, Lang: p.Lang, Data: p.Data, Enabled: p.Enabled, Device: p.Device,
			})
		}
		return err
	})
	return all, err
}

// SetPusher makes, changes or deletes a pusher of the session that asks.
func (s *Service) SetPusher(ctx context.Context, user id.User, device id.Device, tokenID int64, c PusherChange) error {
	p, err := c.pusher()
	if err != nil {
		return err
	}
	p.User, p.Device, p.TokenID, p.SetMS = user, device, tokenID, time.Now().UnixMilli()
	return s.store.Update(ctx, func(tx *store.Tx) error {
		if p.Kind == "" {
			return tx.Push.DeletePusher(user, p.AppID, p.PushKey)
		}
		if err := checkRoomFor(tx, p); err != nil {
			return err
		}
		if !c.Append {
			if err := tx.Push.DeleteOtherPushers(user, p.AppID, p.PushKey); err != nil {
				return fmt.Errorf("delete pushers of other users: %w", err)
			}
		}
		return tx.Push.SetPusher(p)
	})
}

// localSettings are the types of account data, each followed by a device, in which
// clients keep whether that device makes a noise.
// msc: 3890
var localSettings = []string{"m.local_notification_settings.", "org.matrix.msc3890.local_notification_settings."}

// DevicesDeleted takes away the pushers that a user's deleted devices had set, and how
// they were to notify.
func (s *Service) DevicesDeleted(tx *store.Tx, user id.User, devices []id.Device) error {
	for _, device := range devices {
		for _, prefix := range localSettings {
			if err := tx.AccountData.Delete(user, prefix+string(device)); err != nil {
				return fmt.Errorf("forget notification settings of a device of %s: %w", user, err)
			}
		}
	}
	return tx.Push.DeletePushersOn(user, devices)
}

// Deactivated forgets the push rules and pushers of a user who is gone.
func (s *Service) Deactivated(ctx context.Context, user id.User, _ bool) error {
	err := s.store.Update(ctx, func(tx *store.Tx) error {
		tx.AfterCommit(func() { s.rules.Invalidate(user) })
		return tx.Push.DeleteAll(user)
	})
	if err != nil {
		return fmt.Errorf("forget push rules and pushers of %s: %w", user, err)
	}
	return nil
}

// checkRoomFor refuses a pusher beyond the bound; to change one is always allowed.
func checkRoomFor(tx *store.Tx, p store.Pusher) error {
	all, err := tx.Push.Pushers(p.User)
	if err != nil || len(all) < maxPushers {
		return err
	}
	for _, other := range all {
		if other.AppID == p.AppID && other.PushKey == p.PushKey {
			return nil
		}
	}
	return errcode.TooLarge("there may be no more than %d pushers", maxPushers)
}

// pusher checks the change; the kind of what it returns is empty if it deletes.
func (c *PusherChange) pusher() (store.Pusher, error) {
	p := store.Pusher{PushKey: c.PushKey, AppID: c.AppID, ProfileTag: c.ProfileTag, Data: c.Data, Enabled: c.Enabled == nil || *c.Enabled}
	switch {
	case c.PushKey == "", c.AppID == "", c.Kind == nil:
		return p, errcode.MissingParam("pushkey, app_id and kind are needed")
	case len(c.PushKey) > maxPushKey:
		return p, errcode.InvalidParam("pushkey is longer than %d bytes", maxPushKey)
	case len([]rune(c.AppID)) > maxAppID:
		return p, errcode.InvalidParam("app_id is longer than %d characters", maxAppID)
	case c.Kind.Kind() == 'n':
		return p, nil
	case json.Unmarshal(c.Kind, &p.Kind) != nil:
		return p, errcode.BadJSON("kind is a string or null")
	}
	if err := c.texts(&p); err != nil {
		return p, err
	}
	switch p.Kind {
	case "http":
		return p, checkGateway(c.Data)
	case "email":
		return p, errcode.InvalidParam("this server sends no notifications by email")
	}
	return p, errcode.InvalidParam("%q is no kind of pusher", p.Kind)
}

// texts copies what a pusher needs beyond its key.
func (c *PusherChange) texts(p *store.Pusher) error {
	var missing []string
	for _, text := range []struct {
		name  string
		value *string
		into  *string
	}{
		{"app_display_name", c.AppDisplayName, &p.AppDisplayName},
		{"device_display_name", c.DeviceDisplayName, &p.DeviceDisplayName},
		{"lang", c.Lang, &p.Lang},
		{"profile_tag", &c.ProfileTag, &p.ProfileTag},
	} {
		switch {
		case text.value == nil:
			missing = append(missing, text.name)
		case len(*text.value) > maxPusherText, strings.IndexByte(*text.value, 0) >= 0:
			return errcode.InvalidParam("%s is too long, or has a NUL character", text.name)
		default:
			*text.into = *text.value
		}
	}
	switch {
	case c.Data == nil:
		missing = append(missing, "data")
	case c.Data.Kind() != '{':
		return errcode.BadJSON("data is an object")
	case len(c.Data) > maxPusherData:
		return errcode.TooLarge("data may have no more than %d bytes", maxPusherData)
	}
	if len(missing) > 0 {
		return errcode.MissingParam("missing parameters: %s", strings.Join(missing, ", "))
	}
	return nil
}

// checkGateway checks the address of a push gateway.
func checkGateway(data jsontext.Value) error {
	var d struct {
		URL    string         `json:"url"`
		Format jsontext.Value `json:"format"`
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return errcode.BadJSON("data of the pusher: %s", err)
	}
	if d.URL == "" {
		return errcode.MissingParam("data needs a url")
	}
	u, err := url.Parse(d.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.Path != "/_matrix/push/v1/notify" {
		return errcode.InvalidParam("url must be an HTTPS URL with the path /_matrix/push/v1/notify")
	}
	return nil
}
