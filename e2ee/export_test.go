package e2ee

import "hearth/matrix/id"

// ParseUpload lets tests feed the parser alone.
func ParseUpload(user id.User, device id.Device, raw KeyUpload) ([]byte, error) {
	up, err := parseUpload(user, device, raw)
	return up.device, err
}
