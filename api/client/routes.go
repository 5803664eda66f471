package client

import "hearth/api/httpx"

// Routes is the table of contents of the API, in the order of the spec.
func (a *API) Routes() []httpx.Route {
	var table []httpx.Route
	for _, chapter := range [][]httpx.Route{
		a.discovery(),
		a.syncing(),
		a.authentication(),
		a.registration(),
		a.accountManagement(),
		a.threePIDs(),
		a.devices(),
		a.profiles(),
		a.accountData(),
		a.moderation(),
		a.roomCreation(),
		a.roomMembership(),
		a.roomHistory(),
		a.roomState(),
		a.relationRoutes(),
		a.roomEvents(),
		a.roomAliases(),
		a.roomDirectory(),
		a.searchRoutes(),
		a.reporting(),
		a.voip(),
		a.pushNotifications(),
		a.applicationServices(),
		a.readReceipts(),
		a.typingNotifications(),
		a.presence(),
		a.sendToDeviceMessaging(),
		a.endToEndEncryption(),
		a.keyBackups(),
	} {
		table = append(table, chapter...)
	}
	return table
}

// spec: client-server-api#server-discovery
func (a *API) discovery() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("GET /.well-known/matrix/client", httpx.None, httpx.NoLimit, a.getWellknown),
		httpx.Handle("GET /.well-known/matrix/support", httpx.None, httpx.NoLimit, a.getWellknownSupport),
		httpx.Handle("GET /.well-known/matrix/policy_server", httpx.None, httpx.NoLimit, a.getWellknownPolicy),
		httpx.Handle("GET /_matrix/client/versions", httpx.Optional, httpx.NoLimit, a.getVersions),
		httpx.Handle("GET /_matrix/client/v3/capabilities", httpx.Guest, httpx.NoLimit, a.getCapabilities),
	}
}

// spec: client-server-api#syncing
func (a *API) syncing() []httpx.Route {
	return []httpx.Route{
		httpx.Stream("GET /_matrix/client/v3/sync", httpx.Guest, httpx.NoLimit, a.sync),
		httpx.Stream("GET /_matrix/client/v3/initialSync", httpx.Guest, httpx.NoLimit, a.initialSync),
		httpx.Handle("GET /_matrix/client/v3/events", httpx.Guest, httpx.NoLimit, a.getEvents),
	}
}

// spec: client-server-api#creation
func (a *API) roomCreation() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("POST /_matrix/client/v3/createRoom", httpx.User, httpx.RoomCreation, a.createRoom).UnlessSuspended(),
		httpx.Handle("POST /_matrix/client/v3/rooms/{roomId}/upgrade", httpx.User, httpx.RoomCreation, a.upgradeRoom).UnlessSuspended(),
	}
}

// spec: client-server-api#room-membership
func (a *API) roomMembership() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("POST /_matrix/client/v3/join/{roomIdOrAlias}", httpx.Guest, httpx.JoinsLocal, a.joinRoom).UnlessSuspended(),
		httpx.Handle("POST /_matrix/client/v3/rooms/{roomId}/join", httpx.Guest, httpx.JoinsLocal, a.joinRoomById).UnlessSuspended(),
		httpx.Handle("POST /_matrix/client/v3/knock/{roomIdOrAlias}", httpx.User, httpx.JoinsLocal, a.knockRoom).UnlessSuspended(),
		httpx.Handle("POST /_matrix/client/v3/rooms/{roomId}/leave", httpx.Guest, httpx.NoLimit, a.leaveRoom),
		httpx.Handle("POST /_matrix/client/v3/rooms/{roomId}/forget", httpx.Guest, httpx.NoLimit, a.forgetRoom),
		httpx.Handle("POST /_matrix/client/v3/rooms/{roomId}/invite", httpx.User, httpx.InvitesPerIssuer, a.inviteUser).UnlessSuspended(),
		httpx.Handle("POST /_matrix/client/v3/rooms/{roomId}/kick", httpx.User, httpx.NoLimit, a.kick).UnlessSuspended(),
		httpx.Handle("POST /_matrix/client/v3/rooms/{roomId}/ban", httpx.User, httpx.NoLimit, a.ban).UnlessSuspended(),
		httpx.Handle("POST /_matrix/client/v3/rooms/{roomId}/unban", httpx.User, httpx.NoLimit, a.unban).UnlessSuspended(),
		httpx.Handle("GET /_matrix/client/v3/joined_rooms", httpx.Guest, httpx.NoLimit, a.getJoinedRooms),
	}
}

// spec: client-server-api#getting-events-for-a-room
func (a *API) roomHistory() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("GET /_matrix/client/v3/rooms/{roomId}/messages", httpx.Guest, httpx.NoLimit, a.getRoomEvents),
		httpx.Handle("GET /_matrix/client/v3/rooms/{roomId}/context/{eventId}", httpx.Guest, httpx.NoLimit, a.getEventContext),
		httpx.Handle("GET /_matrix/client/v3/rooms/{roomId}/event/{eventId}", httpx.Guest, httpx.NoLimit, a.getOneRoomEvent),
		httpx.Handle("GET /_matrix/client/v3/events/{eventId}", httpx.Guest, httpx.NoLimit, a.getOneEvent),
		httpx.Handle("GET /_matrix/client/v3/rooms/{roomId}/initialSync", httpx.Guest, httpx.NoLimit, a.roomInitialSync),
		httpx.Handle("GET /_matrix/client/v1/rooms/{roomId}/timestamp_to_event", httpx.Guest, httpx.NoLimit, a.getEventByTimestamp).
			Also("/_matrix/client/unstable/org.matrix.msc3030/rooms/{roomId}/timestamp_to_event"),
	}
}

// spec: client-server-api#get_matrixclientv3roomsroomidstate
func (a *API) roomState() []httpx.Route {
	return []httpx.Route{
		httpx.Stream("GET /_matrix/client/v3/rooms/{roomId}/state", httpx.Guest, httpx.NoLimit, a.getRoomState),
		httpx.Handle("GET /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}", httpx.Guest, httpx.NoLimit, a.getRoomStateWithKey).
			Also("/_matrix/client/v3/rooms/{roomId}/state/{eventType}", "/_matrix/client/v3/rooms/{roomId}/state/{eventType}/{$}"),
		httpx.Stream("GET /_matrix/client/v3/rooms/{roomId}/members", httpx.Guest, httpx.NoLimit, a.getMembersByRoom),
		httpx.Stream("GET /_matrix/client/v3/rooms/{roomId}/joined_members", httpx.Guest, httpx.NoLimit, a.getJoinedMembersByRoom),
	}
}

// spec: client-server-api#relationships-api
func (a *API) relationRoutes() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}", httpx.Guest, httpx.NoLimit, a.getRelatingEvents),
		httpx.Handle("GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}", httpx.Guest, httpx.NoLimit, a.getRelatingEventsWithRelType),
		httpx.Handle("GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}/{eventType}", httpx.Guest, httpx.NoLimit, a.getRelatingEventsWithRelTypeAndEventType),
		httpx.Handle("GET /_matrix/client/v1/rooms/{roomId}/threads", httpx.Guest, httpx.NoLimit, a.getThreadRoots),
	}
}

// spec: client-server-api#sending-events-to-a-room
func (a *API) roomEvents() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("PUT /_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}", httpx.Guest, httpx.Message, a.sendMessage).ComesBack(),
		httpx.Handle("PUT /_matrix/client/v3/rooms/{roomId}/redact/{eventId}/{txnId}", httpx.Guest, httpx.Message, a.redactEvent).ComesBack(),
		httpx.Handle("PUT /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}", httpx.Guest, httpx.Message, a.setRoomStateWithKey).
			Also("/_matrix/client/v3/rooms/{roomId}/state/{eventType}", "/_matrix/client/v3/rooms/{roomId}/state/{eventType}/{$}"),
	}
}

// spec: client-server-api#room-aliases
func (a *API) roomAliases() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("GET /_matrix/client/v3/directory/room/{roomAlias}", httpx.None, httpx.NoLimit, a.getRoomIdByAlias),
		httpx.Handle("PUT /_matrix/client/v3/directory/room/{roomAlias}", httpx.User, httpx.NoLimit, a.setRoomAlias).UnlessSuspended(),
		httpx.Handle("DELETE /_matrix/client/v3/directory/room/{roomAlias}", httpx.User, httpx.NoLimit, a.deleteRoomAlias).UnlessSuspended(),
		httpx.Handle("GET /_matrix/client/v3/rooms/{roomId}/aliases", httpx.User, httpx.NoLimit, a.getLocalAliases),
		httpx.Handle("GET /_matrix/client/v3/directory/list/room/{roomId}", httpx.None, httpx.NoLimit, a.getRoomVisibilityOnDirectory),
		httpx.Handle("PUT /_matrix/client/v3/directory/list/room/{roomId}", httpx.User, httpx.NoLimit, a.setRoomVisibilityOnDirectory).UnlessSuspended(),
		httpx.Handle("PUT /_matrix/client/v3/directory/list/appservice/{networkId}/{roomId}", httpx.Appservice, httpx.NoLimit, a.updateAppserviceRoomDirectoryVisibility),
	}
}

// spec: client-server-api#push-notifications
func (a *API) pushNotifications() []httpx.Route {
	const rule = "/_matrix/client/v3/pushrules/global/{kind}/{ruleId}"
	return []httpx.Route{
		httpx.Handle("GET /_matrix/client/v3/pushrules/{$}", httpx.User, httpx.NoLimit, a.getPushRules).
			Also("/_matrix/client/v3/pushrules"),
		httpx.Handle("GET /_matrix/client/v3/pushrules/global/{$}", httpx.User, httpx.NoLimit, a.getPushRulesGlobal).
			Also("/_matrix/client/v3/pushrules/global"),
		httpx.Handle("GET /_matrix/client/v3/pushrules/global/{kind}/{$}", httpx.User, httpx.NoLimit, a.getPushRulesKind).
			Also("/_matrix/client/v3/pushrules/global/{kind}"),
		httpx.Handle("GET "+rule, httpx.User, httpx.NoLimit, a.getPushRule),
		httpx.Handle("PUT "+rule, httpx.User, httpx.NoLimit, a.setPushRule),
		httpx.Handle("DELETE "+rule, httpx.User, httpx.NoLimit, a.deletePushRule),
		httpx.Handle("GET "+rule+"/enabled", httpx.User, httpx.NoLimit, a.isPushRuleEnabled),
		httpx.Handle("PUT "+rule+"/enabled", httpx.User, httpx.NoLimit, a.setPushRuleEnabled),
		httpx.Handle("GET "+rule+"/actions", httpx.User, httpx.NoLimit, a.getPushRuleActions),
		httpx.Handle("PUT "+rule+"/actions", httpx.User, httpx.NoLimit, a.setPushRuleActions),
		httpx.Handle("GET /_matrix/client/v3/pushers", httpx.User, httpx.NoLimit, a.getPushers),
		httpx.Handle("POST /_matrix/client/v3/pushers/set", httpx.User, httpx.NoLimit, a.postPusher),
		httpx.Handle("GET /_matrix/client/v3/notifications", httpx.User, httpx.NoLimit, a.getNotifications),
	}
}

// spec: client-server-api#published-room-directory
func (a *API) roomDirectory() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("GET /_matrix/client/v3/publicRooms", httpx.Optional, httpx.NoLimit, a.getPublicRooms),
		httpx.Handle("POST /_matrix/client/v3/publicRooms", httpx.Guest, httpx.NoLimit, a.queryPublicRooms),
		httpx.Handle("GET /_matrix/client/v1/room_summary/{roomIdOrAlias}", httpx.Optional, httpx.NoLimit, a.getRoomSummary).
			Also("/_matrix/client/unstable/im.nheko.summary/summary/{roomIdOrAlias}", "/_matrix/client/unstable/im.nheko.summary/rooms/{roomIdOrAlias}/summary"),
		httpx.Handle("GET /_matrix/client/v1/rooms/{roomId}/hierarchy", httpx.Guest, httpx.NoLimit, a.getSpaceHierarchy),
		httpx.Handle("POST /_matrix/client/v3/user_directory/search", httpx.User, httpx.UserDirectory, a.searchUserDirectory),
		httpx.Handle("GET /_matrix/client/v1/mutual_rooms", httpx.User, httpx.NoLimit, a.getMutualRooms).
			Also("/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms"),
	}
}

// spec: client-server-api#reporting-content
func (a *API) reporting() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("POST /_matrix/client/v3/rooms/{roomId}/report/{eventId}", httpx.Guest, httpx.Reports, a.reportEvent),
		httpx.Handle("POST /_matrix/client/v3/rooms/{roomId}/report", httpx.User, httpx.Reports, a.reportRoom),
		httpx.Handle("POST /_matrix/client/v3/users/{userId}/report", httpx.User, httpx.Reports, a.reportUser),
	}
}

// spec: client-server-api#voice-over-ip
func (a *API) voip() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("GET /_matrix/client/v3/voip/turnServer", httpx.Guest, httpx.NoLimit, a.getTurnServer),
	}
}

// spec: client-server-api#receipts
func (a *API) readReceipts() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("POST /_matrix/client/v3/rooms/{roomId}/receipt/{receiptType}/{eventId}", httpx.Guest, httpx.NoLimit, a.postReceipt),
		httpx.Handle("POST /_matrix/client/v3/rooms/{roomId}/read_markers", httpx.Guest, httpx.NoLimit, a.setReadMarker),
	}
}

// spec: client-server-api#typing-notifications
func (a *API) typingNotifications() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("PUT /_matrix/client/v3/rooms/{roomId}/typing/{userId}", httpx.Guest, httpx.NoLimit, a.setTyping),
	}
}

// spec: client-server-api#presence
func (a *API) presence() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("PUT /_matrix/client/v3/presence/{userId}/status", httpx.User, httpx.NoLimit, a.setPresence),
		httpx.Handle("GET /_matrix/client/v3/presence/{userId}/status", httpx.User, httpx.NoLimit, a.getPresence),
	}
}

// spec: client-server-api#send-to-device-messaging
func (a *API) sendToDeviceMessaging() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("PUT /_matrix/client/v3/sendToDevice/{eventType}/{txnId}", httpx.Guest, httpx.NoLimit, a.sendToDevice),
	}
}

// spec: client-server-api#end-to-end-encryption
func (a *API) endToEndEncryption() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("POST /_matrix/client/v3/keys/upload", httpx.Guest, httpx.NoLimit, a.uploadKeys).
			Also("/_matrix/client/v3/keys/upload/{deviceId}"),
		httpx.Handle("POST /_matrix/client/v3/keys/query", httpx.Guest, httpx.NoLimit, a.queryKeys),
		httpx.Handle("POST /_matrix/client/v3/keys/claim", httpx.Guest, httpx.NoLimit, a.claimKeys),
		httpx.Handle("GET /_matrix/client/v3/keys/changes", httpx.Guest, httpx.NoLimit, a.getKeysChanges),
		httpx.Handle("POST /_matrix/client/v3/keys/device_signing/upload", httpx.User, httpx.NoLimit, a.uploadCrossSigningKeys).
			Also("/_matrix/client/unstable/keys/device_signing/upload"),
		httpx.Handle("POST /_matrix/client/v3/keys/signatures/upload", httpx.User, httpx.NoLimit, a.uploadCrossSigningSignatures).
			Also("/_matrix/client/unstable/keys/signatures/upload"),
	}
}

// spec: client-server-api#server-side-key-backups
func (a *API) keyBackups() []httpx.Route {
	const keys, version = "/_matrix/client/v3/room_keys/keys", "/_matrix/client/v3/room_keys/version"
	return []httpx.Route{
		httpx.Handle("POST "+version, httpx.User, httpx.NoLimit, a.postRoomKeysVersion),
		httpx.Handle("GET "+version, httpx.User, httpx.NoLimit, a.getRoomKeysVersionCurrent),
		httpx.Handle("GET "+version+"/{version}", httpx.User, httpx.NoLimit, a.getRoomKeysVersion),
		httpx.Handle("PUT "+version+"/{version}", httpx.User, httpx.NoLimit, a.putRoomKeysVersion),
		httpx.Handle("DELETE "+version+"/{version}", httpx.User, httpx.NoLimit, a.deleteRoomKeysVersion),
		httpx.Handle("PUT "+keys, httpx.User, httpx.NoLimit, a.putRoomKeys),
		httpx.Handle("GET "+keys, httpx.User, httpx.NoLimit, a.getRoomKeys),
		httpx.Handle("DELETE "+keys, httpx.User, httpx.NoLimit, a.deleteRoomKeys),
		httpx.Handle("PUT "+keys+"/{roomId}", httpx.User, httpx.NoLimit, a.putRoomKeysByRoomId),
		httpx.Handle("GET "+keys+"/{roomId}", httpx.User, httpx.NoLimit, a.getRoomKeysByRoomId),
		httpx.Handle("DELETE "+keys+"/{roomId}", httpx.User, httpx.NoLimit, a.deleteRoomKeysByRoomId),
		httpx.Handle("PUT "+keys+"/{roomId}/{sessionId}", httpx.User, httpx.NoLimit, a.putRoomKeyBySessionId),
		httpx.Handle("GET "+keys+"/{roomId}/{sessionId}", httpx.User, httpx.NoLimit, a.getRoomKeyBySessionId),
		httpx.Handle("DELETE "+keys+"/{roomId}/{sessionId}", httpx.User, httpx.NoLimit, a.deleteRoomKeyBySessionId),
	}
}

// spec: client-server-api#server-side-search
func (a *API) searchRoutes() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("POST /_matrix/client/v3/search", httpx.User, httpx.NoLimit, a.search),
	}
}
