-- Identity keys of our users' devices, as uploaded, in canonical form without unsigned.
CREATE TABLE device_keys (
	user_nid INTEGER NOT NULL,
	device_id TEXT NOT NULL,
	keys BLOB NOT NULL,
	PRIMARY KEY (user_nid, device_id)
) WITHOUT ROWID;

-- Keys that are given out once each, in the order of their uploads. Claimed
-- ones stay for some uploads, lest a repeated upload brings them back.
CREATE TABLE one_time_keys (
	user_nid INTEGER NOT NULL,
	device_id TEXT NOT NULL,
	algorithm TEXT NOT NULL,
	key_id TEXT NOT NULL,
	upload INTEGER NOT NULL,  -- counts a device's uploads
	key BLOB NOT NULL,
	claimed SMALLINT NOT NULL DEFAULT 0,
	PRIMARY KEY (user_nid, device_id, algorithm, key_id)
) WITHOUT ROWID;
CREATE INDEX one_time_keys_order ON one_time_keys (user_nid, device_id, algorithm, upload) WHERE claimed = 0;

-- What is given out when there is no one-time key left.
CREATE TABLE fallback_keys (
	user_nid INTEGER NOT NULL,
	device_id TEXT NOT NULL,
	algorithm TEXT NOT NULL,
	key_id TEXT NOT NULL,
	key BLOB NOT NULL,
	used SMALLINT NOT NULL DEFAULT 0,
	PRIMARY KEY (user_nid, device_id, algorithm)
) WITHOUT ROWID;

-- When a device's keys last changed; rows stay after the device. An empty
-- device id: the user's cross-signing keys.
CREATE TABLE device_list_changes (
	user_nid INTEGER NOT NULL,
	device_id TEXT NOT NULL,
	position INTEGER NOT NULL,
	PRIMARY KEY (user_nid, device_id)
) WITHOUT ROWID;
CREATE INDEX device_list_changes_order ON device_list_changes (position, user_nid);

-- When a user last signed another user's master key, which only the signer sees.
CREATE TABLE user_signature_changes (
	signer_nid INTEGER NOT NULL,
	target_nid INTEGER NOT NULL,
	position INTEGER NOT NULL,
	PRIMARY KEY (signer_nid, target_nid)
) WITHOUT ROWID;

-- Public cross-signing keys, in canonical form without signatures and unsigned.
CREATE TABLE cross_signing_keys (
	user_nid INTEGER NOT NULL,
	usage TEXT NOT NULL,       -- master, self_signing, user_signing
	public_key TEXT NOT NULL,  -- unpadded base64
	key BLOB NOT NULL,
	PRIMARY KEY (user_nid, usage)
) WITHOUT ROWID;

-- Signatures on cross-signing keys, and those on devices that the device did not make itself.
CREATE TABLE key_signatures (
	target_nid INTEGER NOT NULL,
	target_key TEXT NOT NULL,  -- a device id, or the public part of a cross-signing key
	signer_nid INTEGER NOT NULL,
	signing_key TEXT NOT NULL, -- ed25519:…
	signature TEXT NOT NULL,
	PRIMARY KEY (target_nid, target_key, signer_nid, signing_key)
) WITHOUT ROWID;
CREATE INDEX key_signatures_signer ON key_signatures (signer_nid, signing_key);

-- Messages that wait for a device.
CREATE TABLE to_device_messages (
	user_nid INTEGER NOT NULL,
	device_id TEXT NOT NULL,
	position INTEGER NOT NULL,
	event BLOB NOT NULL,
	PRIMARY KEY (user_nid, device_id, position)
) WITHOUT ROWID;

-- Requests that were answered, so that a repeated one sends nothing again.
CREATE TABLE to_device_transactions (
	user_nid INTEGER NOT NULL,
	device_id TEXT NOT NULL,
	event_type TEXT NOT NULL,
	txn_id TEXT NOT NULL,
	created_ts INTEGER NOT NULL,
	PRIMARY KEY (user_nid, device_id, event_type, txn_id)
) WITHOUT ROWID;
CREATE INDEX to_device_transactions_age ON to_device_transactions (created_ts);

CREATE TABLE key_backup_versions (
	user_nid INTEGER NOT NULL,
	version INTEGER NOT NULL,
	algorithm TEXT NOT NULL,
	auth_data BLOB NOT NULL,
	etag INTEGER NOT NULL DEFAULT 0,  -- moves with every change of the keys
	count INTEGER NOT NULL DEFAULT 0, -- of keys
	deleted SMALLINT NOT NULL DEFAULT 0,
	PRIMARY KEY (user_nid, version)
) WITHOUT ROWID;

CREATE TABLE key_backup_sessions (
	user_nid INTEGER NOT NULL,
	version INTEGER NOT NULL,
	room_id TEXT NOT NULL,
	session_id TEXT NOT NULL,
	first_message_index INTEGER NOT NULL,
	forwarded_count INTEGER NOT NULL,
	is_verified SMALLINT NOT NULL,
	session_data BLOB NOT NULL,
	PRIMARY KEY (user_nid, version, room_id, session_id)
) WITHOUT ROWID;
