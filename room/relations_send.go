package room

import (
	"bytes"
	"context"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
)

// checkRelation refuses relations that clients may not make, though they may
// come from other servers.
func (w *writing) checkRelation(ctx context.Context, p Proposal) error {
	if p.StateKey != nil || !bytes.Contains(p.Content, []byte(`"m.relates_to"`)) {
		return nil
	}
	var content struct {
		RelatesTo jsontext.Value `json:"m.relates_to"`
	}
	if json.Unmarshal(p.Content, &content) != nil {
		return nil // building the event says what is wrong with it
	}
	rel, ok := relationOf(content.RelatesTo)
	if !ok || rel.RelType != relThread && rel.RelType != relAnnotation {
		return nil
	}
	return w.engine.store.View(ctx, func(tx *store.Tx) error {
		if rel.RelType == relThread {
			return w.checkThreadRoot(tx, rel.Event)
		}
		return w.checkAnnotation(tx, p, rel)
	})
}

// checkThreadRoot: a thread does not begin at an event that itself refers to another.
// spec: client-server-api#validation-of-mthread-relationships
func (w *writing) checkThreadRoot(tx *store.Tx, root id.Event) error {
	ev, ok, err := w.engine.Event(tx, w.head.NID, root)
	if err != nil || !ok {
		return err
	}
	if _, refers := relationOf(ev.PDU.ContentValue("m.relates_to")); refers {
		return errcode.New(400, "M_UNKNOWN", "%s refers to another event itself, so no thread can begin there", root)
	}
	return nil
}

// checkAnnotation: nobody reacts twice to an event with the same key.
// spec: client-server-api#avoiding-duplicate-annotations
func (w *writing) checkAnnotation(tx *store.Tx, p Proposal, rel relatesTo) error {
	sender, ok, err := tx.IDs.FindUser(p.Sender)
	if err != nil || !ok {
		return err
	}
	typ, ok, err := tx.IDs.FindType(p.Type)
	if err != nil || !ok {
		return err
	}
	nids, err := tx.Relations.By(w.head.NID, rel.Event, relAnnotation, typ, sender)
	if err != nil {
		return err
	}
	before, err := w.engine.Events(tx, nids)
	if err != nil {
		return err
	}
	for _, ev := range before {
		if old, ok := relationOf(ev.PDU.ContentValue("m.relates_to")); ok && old.key() == rel.key() {
			return errcode.New(400, "M_DUPLICATE_ANNOTATION", "you have reacted to this event with %q already", rel.key())
		}
	}
	return nil
}
