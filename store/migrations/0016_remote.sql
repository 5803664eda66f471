-- The signing keys of other servers, for as long as events are signed with them.
CREATE TABLE server_keys (
	server_name TEXT NOT NULL,
	key_id TEXT NOT NULL,
	public_key BLOB NOT NULL,
	valid_until BIGINT NOT NULL, -- milliseconds, at most a week after it was seen
	expired BIGINT NOT NULL,     -- when the server stopped using it; 0: it has not
	PRIMARY KEY (server_name, key_id)
) WITHOUT ROWID;

-- The newest document in which each server published them, which we hand on as a notary.
CREATE TABLE server_key_documents (
	server_name TEXT NOT NULL PRIMARY KEY,
	valid_until BIGINT NOT NULL,
	document BLOB NOT NULL
) WITHOUT ROWID;
