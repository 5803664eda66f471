package store

import "hearth/matrix/id"

// ServerKeys is the signing keys of other servers.
type ServerKeys struct{ tx *Tx }

// ServerKey is a key with which a server signs, or once signed.
type ServerKey struct {
	ID         id.Key
	Public     []byte
	ValidUntil int64 // milliseconds
	Expired    int64 // when the server stopped using it; 0: it has not
}

const (
	listServerKeys = `SELECT key_id, public_key, valid_until, expired FROM server_keys WHERE server_name = $1`
	setServerKey   = `INSERT INTO server_keys (server_name, key_id, public_key, valid_until, expired) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (server_name, key_id) DO UPDATE SET public_key = excluded.public_key, valid_until = excluded.valid_until, expired = excluded.expired`
	deleteServerKey = `DELETE FROM server_keys WHERE server_name = $1 AND key_id = $2`
	findKeyDocument = `SELECT document FROM server_key_documents WHERE server_name = $1`
	setKeyDocument  = `INSERT INTO server_key_documents (server_name, valid_until, document) VALUES ($1, $2, $3)
		ON CONFLICT (server_name) DO UPDATE SET valid_until = excluded.valid_until, document = excluded.document`
)

// List lists the keys of a server.
func (t ServerKeys) List(server id.Server) ([]ServerKey, error) {
	return list(t.tx, func(r scanner) (k ServerKey, err error) {
		err = r.Scan(&k.ID, &k.Public, &k.ValidUntil, &k.Expired)
		return
	}, listServerKeys, string(server))
}

// Set adds or replaces a key of a server.
func (t ServerKeys) Set(server id.Server, k ServerKey) error {
	_, err := t.tx.exec(setServerKey, string(server), string(k.ID), k.Public, k.ValidUntil, k.Expired)
	return err
}

// Delete forgets a key of a server.
func (t ServerKeys) Delete(server id.Server, key id.Key) error {
	_, err := t.tx.exec(deleteServerKey, string(server), string(key))
	return err
}

// FindDocument finds the newest document of a server's keys.
func (t ServerKeys) FindDocument(server id.Server) ([]byte, bool, error) {
	return one(t.tx, value[[]byte], findKeyDocument, string(server))
}

// SetDocument replaces it.
func (t ServerKeys) SetDocument(server id.Server, validUntil int64, document []byte) error {
	_, err := t.tx.exec(setKeyDocument, string(server), validUntil, document)
	return err
}
