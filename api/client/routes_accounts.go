package client

import "hearth/api/httpx"

// spec: client-server-api#legacy-login
func (a *API) authentication() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("GET /_matrix/client/v3/login", httpx.None, httpx.NoLimit, a.getLoginFlows),
		httpx.Handle("POST /_matrix/client/v3/login", httpx.None, httpx.NoLimit, a.login), // limits itself
		httpx.Handle("POST /_matrix/client/v1/login/get_token", httpx.User, httpx.LoginAccount, a.generateLoginToken),
		httpx.Handle("POST /_matrix/client/v3/refresh", httpx.None, httpx.NoLimit, a.refresh),
		httpx.Handle("POST /_matrix/client/v3/logout", httpx.Guest, httpx.NoLimit, a.logout),
		httpx.Handle("POST /_matrix/client/v3/logout/all", httpx.Guest, httpx.NoLimit, a.logout_all),
		httpx.Stream("GET /_matrix/client/v3/auth/{authType}/fallback/web", httpx.None, httpx.NoLimit, a.uiaFallback),
		httpx.Stream("POST /_matrix/client/v3/auth/{authType}/fallback/web", httpx.None, httpx.NoLimit, a.uiaFallbackSubmit).WithMaxBody(fallbackFormSize),
		httpx.Stream("GET /_matrix/static/client/login/{$}", httpx.None, httpx.NoLimit, a.loginFallback).Also("/_matrix/static/client/login"),
	}
}

// spec: client-server-api#legacy-account-registration
func (a *API) registration() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("POST /_matrix/client/v3/register", httpx.None, httpx.NoLimit, a.register), // limits itself
		httpx.Handle("GET /_matrix/client/v3/register/available", httpx.None, httpx.RegistrationTokenValidity, a.checkUsernameAvailability),
		httpx.Handle("GET /_matrix/client/v1/register/m.login.registration_token/validity", httpx.None, httpx.RegistrationTokenValidity, a.registrationTokenValidity),
	}
}

// spec: client-server-api#legacy-account-management
func (a *API) accountManagement() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("GET /_matrix/client/v3/account/whoami", httpx.Guest, httpx.NoLimit, a.getTokenOwner),
		httpx.Handle("POST /_matrix/client/v3/account/password", httpx.User, httpx.NoLimit, a.changePassword),
		httpx.Handle("POST /_matrix/client/v3/account/deactivate", httpx.User, httpx.NoLimit, a.deactivateAccount),
		httpx.Handle("POST /_matrix/client/v3/user/{userId}/openid/request_token", httpx.User, httpx.NoLimit, a.requestOpenIdToken),
	}
}

// spec: client-server-api#adding-account-administrative-contact-information
func (a *API) threePIDs() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("GET /_matrix/client/v3/account/3pid", httpx.User, httpx.NoLimit, a.getAccount3PIDs),
		httpx.Handle("POST /_matrix/client/v3/account/3pid", httpx.User, httpx.NoLimit, a.post3PIDs),
		httpx.Handle("POST /_matrix/client/v3/account/3pid/add", httpx.User, httpx.NoLimit, a.add3PID),
		httpx.Handle("POST /_matrix/client/v3/account/3pid/bind", httpx.User, httpx.NoLimit, a.bind3PID),
		httpx.Handle("POST /_matrix/client/v3/account/3pid/delete", httpx.User, httpx.NoLimit, a.delete3pidFromAccount),
		httpx.Handle("POST /_matrix/client/v3/account/3pid/unbind", httpx.User, httpx.NoLimit, a.unbind3pidFromAccount),
		httpx.Handle("POST /_matrix/client/v3/account/3pid/email/requestToken", httpx.None, httpx.ThirdPartyValidation, a.requestTokenTo3PIDEmail),
		httpx.Handle("POST /_matrix/client/v3/account/3pid/msisdn/requestToken", httpx.None, httpx.ThirdPartyValidation, a.requestTokenTo3PIDMSISDN),
		httpx.Handle("POST /_matrix/client/v3/account/password/email/requestToken", httpx.None, httpx.ThirdPartyValidation, a.requestTokenToResetPasswordEmail),
		httpx.Handle("POST /_matrix/client/v3/account/password/msisdn/requestToken", httpx.None, httpx.ThirdPartyValidation, a.requestTokenToResetPasswordMSISDN),
		httpx.Handle("POST /_matrix/client/v3/register/email/requestToken", httpx.None, httpx.ThirdPartyValidation, a.requestTokenToRegisterEmail),
		httpx.Handle("POST /_matrix/client/v3/register/msisdn/requestToken", httpx.None, httpx.ThirdPartyValidation, a.requestTokenToRegisterMSISDN),
	}
}

// spec: client-server-api#device-management
func (a *API) devices() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("GET /_matrix/client/v3/devices", httpx.Guest, httpx.NoLimit, a.getDevices),
		httpx.Handle("GET /_matrix/client/v3/devices/{deviceId}", httpx.Guest, httpx.NoLimit, a.getDevice),
		httpx.Handle("PUT /_matrix/client/v3/devices/{deviceId}", httpx.Guest, httpx.NoLimit, a.updateDevice),
		httpx.Handle("DELETE /_matrix/client/v3/devices/{deviceId}", httpx.User, httpx.NoLimit, a.deleteDevice),
		httpx.Handle("POST /_matrix/client/v3/delete_devices", httpx.User, httpx.NoLimit, a.deleteDevices),
		httpx.Handle("GET /_matrix/client/v3/admin/whois/{userId}", httpx.User, httpx.NoLimit, a.getWhoIs).Also("/_synapse/admin/v1/whois/{userId}"),
	}
}

// spec: client-server-api#profiles
func (a *API) profiles() []httpx.Route {
	const unstable = "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{userId}" // msc: 4133
	return []httpx.Route{
		httpx.Handle("GET /_matrix/client/v3/profile/{userId}", httpx.Optional, httpx.NoLimit, a.getUserProfile).Also(unstable),
		httpx.Handle("GET /_matrix/client/v3/profile/{userId}/{keyName}", httpx.Optional, httpx.NoLimit, a.getProfileField).Also(unstable + "/{keyName}"),
		httpx.Handle("PUT /_matrix/client/v3/profile/{userId}/{keyName}", httpx.Guest, httpx.NoLimit, a.setProfileField).UnlessSuspended().Also(unstable + "/{keyName}"),
		httpx.Handle("DELETE /_matrix/client/v3/profile/{userId}/{keyName}", httpx.Guest, httpx.NoLimit, a.deleteProfileField).UnlessSuspended().Also(unstable + "/{keyName}"),
	}
}

// spec: client-server-api#client-config
func (a *API) accountData() []httpx.Route {
	const user = "/_matrix/client/v3/user/{userId}"
	return []httpx.Route{
		httpx.Handle("GET "+user+"/account_data/{type}", httpx.User, httpx.NoLimit, a.getAccountData),
		httpx.Handle("PUT "+user+"/account_data/{type}", httpx.User, httpx.NoLimit, a.setAccountData).WithMaxBody(maxAccountData),
		httpx.Handle("GET "+user+"/rooms/{roomId}/account_data/{type}", httpx.User, httpx.NoLimit, a.getAccountDataPerRoom),
		httpx.Handle("PUT "+user+"/rooms/{roomId}/account_data/{type}", httpx.User, httpx.NoLimit, a.setAccountDataPerRoom).WithMaxBody(maxAccountData),
		httpx.Handle("GET "+user+"/rooms/{roomId}/tags", httpx.User, httpx.NoLimit, a.getRoomTags),
		httpx.Handle("PUT "+user+"/rooms/{roomId}/tags/{tag}", httpx.User, httpx.NoLimit, a.setRoomTag).WithMaxBody(maxTag),
		httpx.Handle("DELETE "+user+"/rooms/{roomId}/tags/{tag}", httpx.User, httpx.NoLimit, a.deleteRoomTag),
		httpx.Handle("POST "+user+"/filter", httpx.Guest, httpx.NoLimit, a.defineFilter).WithMaxBody(maxFilter),
		httpx.Handle("GET "+user+"/filter/{filterId}", httpx.Guest, httpx.NoLimit, a.getFilter),
	}
}

// spec: client-server-api#account-moderation
func (a *API) moderation() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("GET /_matrix/client/v1/admin/lock/{userId}", httpx.Admin, httpx.NoLimit, a.getAdminLockUser),
		httpx.Handle("PUT /_matrix/client/v1/admin/lock/{userId}", httpx.Admin, httpx.NoLimit, a.setAdminLockUser),
		httpx.Handle("GET /_matrix/client/v1/admin/suspend/{userId}", httpx.Admin, httpx.NoLimit, a.getAdminSuspendUser),
		httpx.Handle("PUT /_matrix/client/v1/admin/suspend/{userId}", httpx.Admin, httpx.NoLimit, a.setAdminSuspendUser),
	}
}
