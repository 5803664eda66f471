package store

import (
	"errors"
	"fmt"

	"github.com/klauspost/compress/s2"
)

// Bodies of events are packed with a dictionary that holds what events
// have in common. A body that begins with a brace is stored as it is.

// dictionaryID is the first byte of a packed body and names its dictionary. A better dictionary
// gets the next number and this one stays for reading.
const dictionaryID = 1

// bodyDictionary is a text rather than a trained dictionary: keys in canonical
// order with what lies between them. The most common end is last, where
// references to it are shortest.
const bodyDictionary = `"content":{"alias":"#","ban":50,"events":{"m.room.avatar":50,"m.room.canonical_alias":50,"m.room.encryption":100,"m.room.history_visibility":100,"m.room.power_levels":100,"m.room.server_acl":100,"m.room.tombstone":150},"events_default":0,"historical":100,"invite":0,"kick":50,"redact":50,"state_default":50,"users":{"@":100},"users_default":0},` +
	`"content":{"creator":"@","room_version":"12"},"state_key":"","type":"m.room.create"` +
	`"content":{"join_rule":"public"},"state_key":"","type":"m.room.join_rules""content":{"history_visibility":"shared"},"type":"m.room.history_visibility""content":{"guest_access":"can_join"},"type":"m.room.guest_access"` +
	`"content":{"m.topic":{"m.text":[{"body":"","mimetype":"text/plain"}]},"topic":""},"content":{"name":""},"state_key":"","type":"m.room.name"` +
	`"content":{"body":"image.png","info":{"h":600,"mimetype":"image/png","size":1000,"thumbnail_info":{"h":600,"mimetype":"image/jpeg","size":1000,"w":800},"thumbnail_url":"mxc://","w":800,"xyz.amorgan.blurhash":"L"},"msgtype":"m.image","url":"mxc://"},` +
	`"content":{"m.relates_to":{"event_id":"$","key":"👍","rel_type":"m.annotation"}},"type":"m.reaction"` +
	`"content":{"reason":"","redacts":"$"},"type":"m.room.redaction"` +
	`"content":{"avatar_url":"mxc://matrix.org/","displayname":"","is_direct":true,"membership":"invite"},"content":{"avatar_url":null,"displayname":"","membership":"leave"},` +
	`"content":{"displayname":"","membership":"join"},"depth":1,"hashes":{"sha256":"","room_id":"!","sender":"@","state_key":"@","type":"m.room.member"}` +
	`"content":{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"AwgAEpAB","device_id":"","sender_key":"","session_id":"","m.relates_to":{"event_id":"$","is_falling_back":true,"m.in_reply_to":{"event_id":"$"},"rel_type":"m.thread"}},"type":"m.room.encrypted"` +
	`"content":{"body":"* ","format":"org.matrix.custom.html","formatted_body":"<mx-reply><blockquote><a href=\"https://matrix.to/#/!","m.mentions":{"user_ids":["@"]},"m.new_content":{"body":"","m.mentions":{},"msgtype":"m.text"},"m.relates_to":{"event_id":"$","rel_type":"m.replace"},"msgtype":"m.text"},` +
	`,"unsigned":{"age":` +
	`{"auth_events":["$","$","$"],"content":{"body":"","m.mentions":{},"msgtype":"m.text"},"depth":,"hashes":{"sha256":""},"origin_server_ts":17,"prev_events":["$"],"room_id":"!","sender":"@","signatures":{"":{"ed25519:a_":""}},"type":"m.room.message"}`

// minPacked is the size in bytes below which packing gains nothing.
const minPacked = 200

// maxBody bounds what a stored body may unfold to: an event has at most 65,536 bytes.
const maxBody = 1 << 20

var bodyDict = s2.MakeDict([]byte(bodyDictionary), nil)

// packBody is the form in which an event's JSON is stored: S2, which costs a
// microsecond; zstd would save a seventh more for twenty times as much.
func packBody(json []byte) []byte {
	if len(json) < minPacked {
		return json
	}
	packed := make([]byte, 1+s2.MaxEncodedLen(len(json)))
	packed[0] = dictionaryID
	packed = packed[:1+len(bodyDict.Encode(packed[1:], json))]
	if len(packed) < len(json) {
		return packed
	}
	return json
}

// unpackBody is its reverse. The result may share body's memory.
func unpackBody(body []byte) ([]byte, error) {
	if len(body) == 0 || body[0] == '{' {
		return body, nil
	}
	if body[0] != dictionaryID {
		return nil, fmt.Errorf("unpack body: it is of a newer Hearth (form %d)", body[0])
	}
	n, err := s2.DecodedLen(body[1:])
	if err == nil && n > maxBody {
		err = errors.New("it is larger than any event")
	}
	if err != nil {
		return nil, fmt.Errorf("unpack body: %w", err)
	}
	json, err := bodyDict.Decode(make([]byte, n), body[1:])
	if err != nil {
		return nil, fmt.Errorf("unpack body: %w", err)
	}
	return json, nil
}
