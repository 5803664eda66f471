package federation

import (
	"slices"

	"hearth/api/httpx"
)

// Bounds of request bodies. A transaction has at most 150 parts of at most 64 KiB
// in canonical form, and as servers write them they are somewhat longer.
const (
	maxTransaction = 16 << 20
	maxMembership  = 1 << 20 // an event, and the stripped state of an invite
	maxQuestion    = 64 << 10
	maxEvent       = 256 << 10 // 64 KiB in canonical form
)

// Routes is the table of contents of the API.
func (a *API) Routes() []httpx.Route {
	return slices.Concat(a.serverRoutes(), a.roomRoutes(), a.historyRoutes(), a.queryRoutes(), a.keyRoutes())
}

func (a *API) serverRoutes() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("GET /.well-known/matrix/server", httpx.None, httpx.NoLimit, a.getWellKnown),
		httpx.Handle("GET /_matrix/federation/v1/version", httpx.None, httpx.NoLimit, a.getVersion),
		httpx.Handle("GET /_matrix/key/v2/server", httpx.None, httpx.NoLimit, a.getServerKey).
			Also("/_matrix/key/v2/server/{keyId}"), // the former form, which old servers ask for
		httpx.Handle("GET /_matrix/key/v2/query/{serverName}", httpx.None, httpx.NoLimit, a.perspectivesKeyQuery).FewAtOnce(),
		httpx.Handle("POST /_matrix/key/v2/query", httpx.None, httpx.NoLimit, a.bulkPerspectivesKeyQuery).FewAtOnce().WithMaxBody(maxEvent),
	}
}

// roomRoutes are how other servers take part in rooms.
func (a *API) roomRoutes() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("PUT /_matrix/federation/v1/send/{txnId}", httpx.Server, httpx.NoLimit, a.sendTransaction).WithMaxBody(maxTransaction),
		httpx.Handle("GET /_matrix/federation/v1/make_join/{roomId}/{userId}", httpx.Server, httpx.NoLimit, a.makeJoin),
		httpx.Stream("PUT /_matrix/federation/v1/send_join/{roomId}/{eventId}", httpx.Server, httpx.NoLimit, a.sendJoinV1).WithMaxBody(maxMembership),
		httpx.Stream("PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}", httpx.Server, httpx.NoLimit, a.sendJoinV2).WithMaxBody(maxMembership),
		httpx.Handle("GET /_matrix/federation/v1/make_knock/{roomId}/{userId}", httpx.Server, httpx.NoLimit, a.makeKnock),
		httpx.Handle("PUT /_matrix/federation/v1/send_knock/{roomId}/{eventId}", httpx.Server, httpx.NoLimit, a.sendKnock).WithMaxBody(maxMembership),
		httpx.Handle("GET /_matrix/federation/v1/make_leave/{roomId}/{userId}", httpx.Server, httpx.NoLimit, a.makeLeave),
		httpx.Handle("PUT /_matrix/federation/v1/send_leave/{roomId}/{eventId}", httpx.Server, httpx.NoLimit, a.sendLeaveV1).WithMaxBody(maxMembership),
		httpx.Handle("PUT /_matrix/federation/v2/send_leave/{roomId}/{eventId}", httpx.Server, httpx.NoLimit, a.sendLeaveV2).WithMaxBody(maxMembership),
		httpx.Handle("PUT /_matrix/federation/v1/invite/{roomId}/{eventId}", httpx.Server, httpx.NoLimit, a.sendInviteV1).WithMaxBody(maxMembership),
		httpx.Handle("PUT /_matrix/federation/v2/invite/{roomId}/{eventId}", httpx.Server, httpx.NoLimit, a.sendInviteV2).WithMaxBody(maxMembership),
		httpx.Handle("POST /_matrix/policy/v1/sign", httpx.Server, httpx.NoLimit, a.askPolicyServerToSign).WithMaxBody(maxEvent),
		httpx.Handle("PUT /_matrix/federation/v1/exchange_third_party_invite/{roomId}", httpx.Server, httpx.NoLimit, a.exchangeThirdPartyInvite).WithMaxBody(maxQuestion),
		httpx.Handle("PUT /_matrix/federation/v1/3pid/onbind", httpx.None, httpx.ThirdPartyValidation, a.onBindThirdPartyIdentifier).WithMaxBody(maxQuestion),
	}
}

// historyRoutes are how other servers read rooms.
func (a *API) historyRoutes() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("GET /_matrix/federation/v1/event/{eventId}", httpx.Server, httpx.NoLimit, a.getEvent),
		httpx.Stream("GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}", httpx.Server, httpx.NoLimit, a.getEventAuth),
		httpx.Stream("GET /_matrix/federation/v1/state/{roomId}", httpx.Server, httpx.NoLimit, a.getRoomState),
		httpx.Handle("GET /_matrix/federation/v1/state_ids/{roomId}", httpx.Server, httpx.NoLimit, a.getRoomStateIds),
		httpx.Handle("GET /_matrix/federation/v1/backfill/{roomId}", httpx.Server, httpx.NoLimit, a.backfillRoom),
		httpx.Handle("POST /_matrix/federation/v1/get_missing_events/{roomId}", httpx.Server, httpx.NoLimit, a.getMissingPreviousEvents).WithMaxBody(maxQuestion),
		httpx.Handle("GET /_matrix/federation/v1/timestamp_to_event/{roomId}", httpx.Server, httpx.NoLimit, a.getEventByTimestamp),
	}
}

// queryRoutes are questions about rooms and people that need no room.
func (a *API) queryRoutes() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("GET /_matrix/federation/v1/query/directory", httpx.Server, httpx.NoLimit, a.queryRoomDirectory),
		httpx.Handle("GET /_matrix/federation/v1/query/profile", httpx.Server, httpx.NoLimit, a.queryProfile),
		httpx.Handle("GET /_matrix/federation/v1/query/{queryType}", httpx.Server, httpx.NoLimit, a.queryInfo),
		httpx.Handle("GET /_matrix/federation/v1/publicRooms", httpx.Server, httpx.NoLimit, a.getPublicRooms),
		httpx.Handle("POST /_matrix/federation/v1/publicRooms", httpx.Server, httpx.NoLimit, a.queryPublicRooms).WithMaxBody(maxQuestion),
		httpx.Handle("GET /_matrix/federation/v1/hierarchy/{roomId}", httpx.Server, httpx.NoLimit, a.getSpaceHierarchy),
		httpx.Handle("GET /_matrix/federation/unstable/rooms/{roomId}/complexity", httpx.Server, httpx.NoLimit, a.getRoomComplexity),
		httpx.Handle("GET /_matrix/federation/v1/openid/userinfo", httpx.None, httpx.NoLimit, a.exchangeOpenIdToken),
		httpx.Stream("GET /_matrix/federation/v1/media/download/{mediaId}", httpx.Server, httpx.NoLimit, a.getContent),
		httpx.Stream("GET /_matrix/federation/v1/media/thumbnail/{mediaId}", httpx.Server, httpx.NoLimit, a.getContentThumbnail),
	}
}

// keyRoutes are the keys of users' devices.
func (a *API) keyRoutes() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("GET /_matrix/federation/v1/user/devices/{userId}", httpx.Server, httpx.NoLimit, a.getUserDevices),
		httpx.Handle("POST /_matrix/federation/v1/user/keys/query", httpx.Server, httpx.NoLimit, a.queryUserEncryptionKeys).WithMaxBody(maxMembership),
		httpx.Handle("POST /_matrix/federation/v1/user/keys/claim", httpx.Server, httpx.NoLimit, a.claimUserEncryptionKeys).WithMaxBody(maxMembership),
	}
}
