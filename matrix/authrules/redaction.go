package authrules

import "hearth/matrix/event"

// checkRedaction is the rule for redactions that room versions 1 and 2 have.
// spec: rooms/v1#authorisation-rules 11
func checkRedaction(ev *event.PDU, levels *PowerLevels) error {
	if levels.UserLevel(ev.Sender) >= levels.Redact() {
		return nil
	}
	// The server in an event id is not proof of anything; that is why later room
	// versions ask for the sender's.
	if own := ev.ID.Server(); own != "" && own == ev.Redacts.Server() {
		return nil
	}
	return deny(rule(ev.Version, ruleRedaction, 3), "%s has level %d, redacting events of other servers needs %d", ev.Sender, levels.UserLevel(ev.Sender), levels.Redact())
}

// MayRedact says whether a redaction that has been allowed is to be carried out
// on the event that it names. In room versions 1 and 2 being allowed suffices;
// later ones judge it here, by the power levels at the redaction.
// spec: rooms/v3#handling-redactions
func MayRedact(redaction, target *event.PDU, levels *PowerLevels) bool {
	if redaction.Type != event.TypeRedaction || redaction.Redacts != target.ID || redaction.Room != target.Room {
		return false
	}
	if redaction.Version.RedactionAuthRule {
		return true
	}
	return levels.UserLevel(redaction.Sender) >= levels.Redact() || redaction.Sender.Server() == target.Sender.Server()
}
