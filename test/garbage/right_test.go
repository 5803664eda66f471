package garbage_test

// proof is interactive authentication that succeeds.
const proof = `{"type":"m.login.password","identifier":{"type":"m.id.user","user":"USER"},"password":"PASSWORD"}`

// right are bodies that do what an operation is for, before they are spoiled:
// they get past checks that no random body passes.
var right = map[string][]string{
	"login":                  {proof, `{"type":"m.login.password","user":"USER","password":"PASSWORD","device_id":"DEV","initial_device_display_name":"x","refresh_token":true}`, `{"type":"m.login.token","token":"x"}`},
	"register":               {`{"username":"userNUMBER","password":"PASSWORD","auth":{"type":"m.login.dummy"},"refresh_token":true,"device_id":"D"}`, `{"username":"userNUMBER","password":"PASSWORD","inhibit_login":true,"auth":{"type":"m.login.dummy"}}`},
	"refresh":                {`{"refresh_token":"REFRESH"}`},
	"changePassword":         {`{"new_password":"PASSWORD","logout_devices":false,"auth":` + proof + `}`},
	"deactivateAccount":      {`{"erase":true,"auth":` + proof + `}`},
	"deleteDevice":           {`{"auth":` + proof + `}`},
	"deleteDevices":          {`{"devices":["DEV","OTHER"],"auth":` + proof + `}`},
	"generateLoginToken":     {`{"auth":` + proof + `}`},
	"uploadCrossSigningKeys": {`{"auth":` + proof + `,"master_key":` + crossSigning + `}`},
	"createRoom": {
		`{"name":"x","topic":"y","invite":["OTHERUSER"],"room_version":"12","creation_content":{"type":"m.space","additional_creators":["OTHERUSER"]},"initial_state":[{"type":"m.room.encryption","state_key":"","content":{"algorithm":"m.megolm.v1.aes-sha2"}}],"preset":"trusted_private_chat","is_direct":true,"power_level_content_override":{"users":{"USER":100},"events":{"m.room.name":0}},"visibility":"public","room_alias_name":"NUMBER"}`,
		`{"room_version":"1","power_level_content_override":{"users":{"USER":"100"},"ban":"50"},"initial_state":[{"type":"m.room.power_levels","content":{"users":{}}},{"type":"m.room.member","state_key":"OTHERUSER","content":{"membership":"join"}}]}`,
		`{"room_version":"11","creation_content":{"m.federate":false,"predecessor":{"room_id":"!ROOM","event_id":"$EVENT"},"creator":"OTHERUSER","room_version":"1"}}`,
	},
	"upgradeRoom":                  {`{"new_version":"12","additional_creators":["OTHERUSER"]}`, `{"new_version":"9"}`, `{"new_version":"1"}`},
	"inviteUser":                   {`{"user_id":"OTHERUSER","reason":"x"}`, `{"user_id":"@nobody:localhost"}`, `{"id_server":"localhost","id_access_token":"x","medium":"email","address":"a@localhost"}`},
	"kick":                         {`{"user_id":"OTHERUSER","reason":"x"}`},
	"ban":                          {`{"user_id":"OTHERUSER","reason":"x"}`},
	"unban":                        {`{"user_id":"OTHERUSER","reason":"x"}`},
	"joinRoom":                     {`{"reason":"x","third_party_signed":{"sender":"USER","mxid":"OTHERUSER","token":"t","signatures":{"localhost":{"ed25519:0":"x"}}}}`, `{}`},
	"setRoomAlias":                 {`{"room_id":"!ROOM"}`},
	"setPushRule":                  {`{"actions":["notify",{"set_tweak":"sound","value":"default"}],"pattern":"x"}`, `{"actions":[],"conditions":[{"kind":"event_match","key":"content.body","pattern":"a*?[x]"},{"kind":"event_property_is","key":"content.n","value":null},{"kind":"room_member_count","is":">=2"}]}`},
	"setPushRuleEnabled":           {`{"enabled":false}`},
	"setPushRuleActions":           {`{"actions":["dont_notify"]}`, `{"actions":["notify",{"set_tweak":"highlight"}]}`},
	"postPusher":                   {`{"pushkey":"k","kind":"http","app_id":"a","app_display_name":"n","device_display_name":"d","profile_tag":"t","lang":"en","data":{"url":"http://127.0.0.1:1/_matrix/push/v1/notify","format":"event_id_only"},"append":true}`, `{"pushkey":"k","kind":null,"app_id":"a"}`},
	"setProfileField":              {`{"displayname":"x"}`, `{"avatar_url":"mxc://localhost/x"}`, `{"m.tz":"Europe/Berlin"}`, `{"x.y":{"a":[1]}}`},
	"add3PID":                      {`{"client_secret":"s","sid":"1","auth":` + proof + `}`},
	"setReadMarker":                {`{"m.fully_read":"$EVENT","m.read":"$EVENT","m.read.private":"$EVENT"}`},
	"postReceipt":                  {`{}`, `{"thread_id":"main"}`, `{"thread_id":"$EVENT"}`},
	"setTyping":                    {`{"typing":true,"timeout":30000}`, `{"typing":false}`},
	"setPresence":                  {`{"presence":"unavailable","status_msg":"x"}`},
	"setRoomTag":                   {`{"order":0.25}`, `{}`},
	"uploadKeys":                   {`{"device_keys":` + deviceKeys + `,"one_time_keys":{"signed_curve25519:AA":{"key":"` + publicKey + `","signatures":{"USER":{"ed25519:DEV":"x"}}}},"fallback_keys":{"signed_curve25519:BB":{"key":"` + publicKey + `","fallback":true,"signatures":{"USER":{"ed25519:DEV":"x"}}}}}`},
	"queryKeys":                    {`{"device_keys":{"USER":[],"OTHERUSER":["OTHER"]},"timeout":10}`},
	"claimKeys":                    {`{"one_time_keys":{"USER":{"DEV":"signed_curve25519"},"OTHERUSER":{"OTHER":"signed_curve25519"}},"timeout":10}`},
	"sendToDevice":                 {`{"messages":{"USER":{"DEV":{"a":1},"*":{"b":2}},"OTHERUSER":{"*":{}}}}`},
	"postRoomKeysVersion":          {`{"algorithm":"m.megolm_backup.v1.curve25519-aes-sha2","auth_data":{"public_key":"` + publicKey + `","signatures":{}}}`},
	"putRoomKeysVersion":           {`{"algorithm":"m.megolm_backup.v1.curve25519-aes-sha2","auth_data":{"public_key":"` + publicKey + `","signatures":{}},"version":"1"}`},
	"putRoomKeys":                  {`{"rooms":{"!ROOM":{"sessions":{"s":` + session + `}}}}`},
	"putRoomKeysByRoomId":          {`{"sessions":{"s":` + session + `}}`},
	"putRoomKeysBySessionId":       {session},
	"uploadCrossSigningSignatures": {`{"USER":{"DEV":` + deviceKeys + `}}`},
	"setRoomVisibilityOnDirectory": {`{"visibility":"public"}`},
	"queryPublicRooms":             {`{"limit":2,"filter":{"generic_search_term":"x","room_types":[null,"m.space"]},"since":"x","include_all_networks":true}`},
	"searchUserDirectory":          {`{"search_term":"ali","limit":2}`},
	"search":                       {`{"search_categories":{"room_events":{"search_term":"x","keys":["content.body"],"filter":{"rooms":["!ROOM"]},"order_by":"recent","event_context":{"before_limit":1,"after_limit":1,"include_profile":true},"include_state":true,"groupings":{"group_by":[{"key":"room_id"}]}}}}`},
	"reportEvent":                  {`{"reason":"x","score":-100}`},
	"reportRoom":                   {`{"reason":"x"}`},
	"reportUser":                   {`{"reason":"x"}`},
	"setAdminLockUser":             {`{"locked":true}`},
	"setAdminSuspendUser":          {`{"suspended":true}`},
}

const (
	publicKey    = "nqOvzeuGWT/sRx3h7+MHoInYj3Uk2LD/unI9kDYcHwk"
	crossSigning = `{"user_id":"USER","usage":["master"],"keys":{"ed25519:` + publicKey + `":"` + publicKey + `"},"signatures":{"USER":{"ed25519:DEV":"x"}}}`
	deviceKeys   = `{"user_id":"USER","device_id":"DEV","algorithms":["m.olm.v1.curve25519-aes-sha2","m.megolm.v1.aes-sha2"],"keys":{"curve25519:DEV":"` + publicKey + `","ed25519:DEV":"` + publicKey + `"},"signatures":{"USER":{"ed25519:DEV":"x"}}}`
	session      = `{"first_message_index":1,"forwarded_count":0,"is_verified":true,"session_data":{"ciphertext":"x","mac":"y","ephemeral":"z"}}`
)
