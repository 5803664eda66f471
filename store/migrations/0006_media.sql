-- Files are on disk under their SHA-256; several rows may share one.
CREATE TABLE local_media_repository (
	media_id TEXT NOT NULL PRIMARY KEY,
	media_type TEXT,
	media_length INTEGER,       -- NULL: the id was created, nothing is uploaded yet
	created_ts INTEGER NOT NULL,
	upload_name TEXT,
	user_id TEXT,               -- NULL: fetched by the server itself, for a preview
	quarantined_by TEXT,
	url_cache TEXT,             -- the URL whose preview it is a part of
	last_access_ts INTEGER,
	safe_from_quarantine BOOLEAN NOT NULL DEFAULT FALSE,
	authenticated BOOLEAN NOT NULL DEFAULT FALSE, -- not served to those who are not logged in
	sha256 TEXT
);
CREATE INDEX local_media_repository_user ON local_media_repository (user_id, created_ts);
CREATE INDEX local_media_repository_sha256 ON local_media_repository (sha256);
CREATE INDEX local_media_repository_pending ON local_media_repository (created_ts) WHERE media_length IS NULL;
CREATE INDEX local_media_repository_url ON local_media_repository (created_ts) WHERE url_cache IS NOT NULL;

CREATE TABLE remote_media_cache (
	media_origin TEXT NOT NULL,
	media_id TEXT NOT NULL,
	media_type TEXT,
	media_length INTEGER,
	created_ts INTEGER NOT NULL, -- when it was fetched
	upload_name TEXT,
	quarantined_by TEXT,
	last_access_ts INTEGER,
	authenticated BOOLEAN NOT NULL DEFAULT FALSE,
	sha256 TEXT,
	PRIMARY KEY (media_origin, media_id)
);
CREATE INDEX remote_media_cache_sha256 ON remote_media_cache (sha256);
CREATE INDEX remote_media_cache_access ON remote_media_cache (last_access_ts);
