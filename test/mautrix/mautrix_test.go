//go:build goolm

// Package mautrix_test lets clients made with mautrix-go talk to a server with
// their own pure-Go encryption:
//
//	go test -tags goolm ./test/mautrix
package mautrix_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"testing"

	"github.com/go-json-experiment/json"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto/backup"
	"maunium.net/go/mautrix/crypto/ssss"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

func TestEncryptedMessagesGoBothWays(t *testing.T) {
	url := homeserver(t)
	alice, bob := register(t, url, "alice"), register(t, url, "bob")
	room := encryptedRoom(alice, bob)

	alice.send(room, "hello bob")
	bob.reads("hello bob")
	bob.send(room, "hello alice")
	alice.reads("hello alice")

	// A device that comes later gets what is said from then on.
	second := login(t, url, "alice")
	second.member(room, bob.UserID, event.MembershipJoin)
	for _, d := range []*device{alice, bob} {
		d.knows(second, id.TrustStateUnset)
	}
	bob.send(room, "hello both")
	for _, d := range []*device{alice, second} {
		d.reads("hello both")
	}
	second.send(room, "from my telephone")
	for _, d := range []*device{alice, bob} {
		d.reads("from my telephone")
	}
}

// spec: client-server-api#key-requests
func TestKeysAreSharedWithVerifiedDevicesAlone(t *testing.T) {
	url := homeserver(t)
	alice, bob := register(t, url, "alice"), register(t, url, "bob")
	room := encryptedRoom(alice, bob)
	recovery, err := alice.crypto.GenerateAndVerifyWithRecoveryKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	message := bob.send(room, "before the second device")
	alice.reads("before the second device")

	second := login(t, url, "alice")
	missing := second.cannotRead(message)
	ask := func() {
		if err := second.crypto.SendRoomKeyRequest(t.Context(), room, missing.SenderKey, missing.SessionID, "",
			map[id.UserID][]id.DeviceID{alice.UserID: {"*"}}); err != nil {
			t.Fatal(err)
		}
	}
	ask()
	second.until("the refusal", func() bool { return second.to[event.ToDeviceRoomKeyWithheld] > 0 })
	second.cannotRead(message)

	if err := second.crypto.VerifyWithRecoveryKey(t.Context(), recovery); err != nil {
		t.Fatal(err)
	}
	alice.knows(second, id.TrustStateCrossSignedVerified)
	ask()
	second.reads("before the second device")

	// What alice says of bob, her own devices see and bob does not.
	if _, err := bob.crypto.GenerateAndVerifyWithRecoveryKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	alice.knows(bob, id.TrustStateCrossSignedTOFU)
	keys, err := alice.crypto.GetCrossSigningPublicKeys(t.Context(), bob.UserID)
	if err != nil {
		t.Fatal(err)
	}
	if err := alice.crypto.SignUser(t.Context(), bob.UserID, keys.MasterKey); err != nil {
		t.Fatal(err)
	}
	second.knows(bob, id.TrustStateCrossSignedVerified)
	signatures := masterKey(bob, bob.UserID).Signatures
	if len(signatures[bob.UserID]) == 0 || len(signatures[alice.UserID]) > 0 {
		t.Errorf("bob sees the signatures %v of his master key", signatures)
	}
}

func masterKey(d *device, user id.UserID) mautrix.CrossSigningKeys {
	d.t.Helper()
	r, err := d.QueryKeys(d.t.Context(), &mautrix.ReqQueryKeys{DeviceKeys: mautrix.DeviceKeysRequest{user: {}}})
	if err != nil {
		d.t.Fatal(err)
	}
	return r.MasterKeys[user]
}

// spec: client-server-api#server-side-key-backups
func TestKeyBackupIsRestoredOnAnotherDevice(t *testing.T) {
	url := homeserver(t)
	alice, bob := register(t, url, "alice"), register(t, url, "bob")
	room := encryptedRoom(alice, bob)
	recovery, _, err := alice.crypto.GenerateAndUploadCrossSigningKeys(t.Context(), nil, "a phrase")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "two"} {
		alice.send(room, text)
	}
	bob.send(room, "three")
	alice.reads("three")
	secret := backUp(alice, storageKey(alice, recovery), 2)

	second := login(t, url, "alice")
	if err := second.crypto.VerifyWithRecoveryKey(t.Context(), recovery); err != nil {
		t.Fatal(err)
	}
	stored, err := second.crypto.SSSS.GetDecryptedAccountData(t.Context(), event.AccountDataMegolmBackupKey, storageKey(second, recovery))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(stored, secret.Bytes()) {
		t.Error("the secret storage holds another key")
	}
	key, err := backup.MegolmBackupKeyFromBytes(stored)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.crypto.DownloadAndStoreLatestKeyBackup(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "two", "three"} {
		second.reads(text)
	}

	latest, err := second.GetKeyBackupLatestVersion(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := second.DeleteKeyBackupVersion(t.Context(), latest.Version); err != nil {
		t.Fatal(err)
	}
	if _, err := second.GetKeyBackupLatestVersion(t.Context()); !errors.Is(err, mautrix.MNotFound) {
		t.Errorf("a deleted backup: %v", err)
	}
}

// storageKey opens the secret storage with the key that the user wrote down.
func storageKey(d *device, recovery string) *ssss.Key {
	d.t.Helper()
	keyID, data, err := d.crypto.SSSS.GetDefaultKeyData(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	key, err := data.VerifyRecoveryKey(keyID, recovery)
	if err != nil {
		d.t.Fatal(err)
	}
	return key
}

// backUp puts all keys, of which there must be as many, into a new backup,
// whose secret goes into the secret storage.
func backUp(d *device, storage *ssss.Key, count int) *backup.MegolmBackupKey {
	t := d.t
	t.Helper()
	key, err := backup.NewMegolmBackupKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.crypto.SSSS.SetEncryptedAccountData(t.Context(), event.AccountDataMegolmBackupKey, key.Bytes(), storage); err != nil {
		t.Fatal(err)
	}
	version, err := d.CreateKeyBackupVersion(t.Context(), &mautrix.ReqRoomKeysVersionCreate[backup.MegolmAuthData]{
		Algorithm: id.KeyBackupAlgorithmMegolmBackupV1,
		AuthData:  backup.MegolmAuthData{PublicKey: id.Ed25519(base64.RawStdEncoding.EncodeToString(key.PublicKey().Bytes()))},
	})
	if err != nil {
		t.Fatal(err)
	}
	sessions, err := d.crypto.CryptoStore.GetAllGroupSessions(t.Context()).AsList()
	if err != nil {
		t.Fatal(err)
	}
	upload := mautrix.ReqKeyBackup{Rooms: map[id.RoomID]mautrix.ReqRoomKeyBackup{}}
	for _, s := range sessions {
		exported, err := s.Internal.Export(s.Internal.FirstKnownIndex())
		if err != nil {
			t.Fatal(err)
		}
		data, err := backup.EncryptSessionData(key, backup.MegolmSessionData{
			Algorithm: id.AlgorithmMegolmV1, SenderKey: s.SenderKey, SessionKey: string(exported),
			SenderClaimedKeys:  backup.SenderClaimedKeys{Ed25519: s.SigningKey},
			ForwardingKeyChain: []string{},
		})
		if err != nil {
			t.Fatal(err)
		}
		body, err := json.Marshal(data)
		if err != nil {
			t.Fatal(err)
		}
		if upload.Rooms[s.RoomID].Sessions == nil {
			upload.Rooms[s.RoomID] = mautrix.ReqRoomKeyBackup{Sessions: map[id.SessionID]mautrix.ReqKeyBackupData{}}
		}
		upload.Rooms[s.RoomID].Sessions[s.ID()] = mautrix.ReqKeyBackupData{
			FirstMessageIndex: int(s.Internal.FirstKnownIndex()), SessionData: body,
		}
	}
	before, err := d.PutKeysInBackup(t.Context(), version.Version, &upload)
	if err != nil {
		t.Fatal(err)
	}
	if before.Count != count {
		t.Errorf("%d keys are in the backup, want %d", before.Count, count)
	}
	// What is there is not replaced by what is no better.
	// spec: client-server-api#backup-algorithm-mmegolm_backupv1curve25519-aes-sha2
	after, err := d.PutKeysInBackup(t.Context(), version.Version, &upload)
	if err != nil {
		t.Fatal(err)
	}
	if *after != *before {
		t.Errorf("the same keys again: %v, before %v", after, before)
	}
	return key
}

// spec: client-server-api#post_matrixclientv3keysdevice_signingupload
func TestReplacedCrossSigningKeysTakeThePassword(t *testing.T) {
	url := homeserver(t)
	alice := register(t, url, "alice")
	first, err := alice.crypto.GenerateAndVerifyWithRecoveryKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	before := masterKey(alice, alice.UserID)
	if _, err := alice.crypto.GenerateAndVerifyWithRecoveryKey(t.Context()); err == nil {
		t.Fatal("keys were replaced by a token alone")
	}
	if got := masterKey(alice, alice.UserID); got.FirstKey() != before.FirstKey() {
		t.Fatal("keys were replaced although it was refused")
	}
	recovery, keys, err := alice.crypto.GenerateAndUploadCrossSigningKeysWithPassword(t.Context(), password("alice"), "")
	if err != nil {
		t.Fatal(err)
	}
	if recovery == first {
		t.Error("the recovery key is the old one")
	}
	if got := masterKey(alice, alice.UserID); got.FirstKey() != keys.MasterKey.PublicKey() {
		t.Errorf("the master key is %s, not the new one", got.FirstKey())
	}
}
