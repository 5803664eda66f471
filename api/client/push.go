package client

import (
	"context"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/pushrules"
	"hearth/push"
)

// spec: client-server-api#push-rules-api

func (a *API) getPushRules(ctx context.Context, c httpx.Caller, _ none) (pushrules.Rulesets, error) {
	set, err := a.Push.Ruleset(ctx, c.User)
	return pushrules.Rulesets{Global: set}, err
}

func (a *API) getPushRulesGlobal(ctx context.Context, c httpx.Caller, _ none) (pushrules.Ruleset, error) {
	return a.Push.Ruleset(ctx, c.User)
}

type pushKindRequest struct {
	Kind pushrules.Kind `path:"kind"`
}

// getPushRulesKind is of old versions of the specification.
func (a *API) getPushRulesKind(ctx context.Context, c httpx.Caller, r pushKindRequest) ([]pushrules.Rule, error) {
	set, err := a.Push.Ruleset(ctx, c.User)
	if err != nil {
		return nil, err
	}
	rules, ok := set.OfKind(r.Kind)
	if !ok {
		return nil, errcode.NotFound("%q is no kind of push rule", r.Kind)
	}
	return rules, nil
}

type pushRuleRequest struct {
	Kind   pushrules.Kind `path:"kind"`
	RuleID string         `path:"ruleId"`
}

func (a *API) getPushRule(ctx context.Context, c httpx.Caller, r pushRuleRequest) (pushrules.Rule, error) {
	return a.Push.Rule(ctx, c.User, r.Kind, r.RuleID)
}

type setPushRuleRequest struct {
	Kind       pushrules.Kind   `path:"kind"`
	RuleID     string           `path:"ruleId"`
	Before     string           `query:"before"`
	After      string           `query:"after"`
	Actions    []jsontext.Value `json:"actions"`
	Conditions []jsontext.Value `json:"conditions"`
	Pattern    *string          `json:"pattern"`
}

func (a *API) setPushRule(ctx context.Context, c httpx.Caller, r setPushRuleRequest) (none, error) {
	rule := pushrules.Rule{RuleID: r.RuleID, Actions: r.Actions, Conditions: r.Conditions, Pattern: r.Pattern}
	return none{}, a.Push.PutRule(ctx, c.User, r.Kind, rule, r.Before, r.After)
}

func (a *API) deletePushRule(ctx context.Context, c httpx.Caller, r pushRuleRequest) (none, error) {
	return none{}, a.Push.DeleteRule(ctx, c.User, r.Kind, r.RuleID)
}

func (a *API) isPushRuleEnabled(ctx context.Context, c httpx.Caller, r pushRuleRequest) (enabled, error) {
	rule, err := a.Push.Rule(ctx, c.User, r.Kind, r.RuleID)
	return enabled{rule.Enabled}, err
}

type setPushRuleEnabledRequest struct {
	Kind    pushrules.Kind `path:"kind"`
	RuleID  string         `path:"ruleId"`
	Enabled *bool          `json:"enabled"`
}

func (a *API) setPushRuleEnabled(ctx context.Context, c httpx.Caller, r setPushRuleEnabledRequest) (none, error) {
	if r.Enabled == nil {
		return none{}, errcode.MissingParam("enabled is needed")
	}
	return none{}, a.Push.SetRuleEnabled(ctx, c.User, r.Kind, r.RuleID, *r.Enabled)
}

type pushRuleActions struct {
	Actions []jsontext.Value `json:"actions"`
}

func (a *API) getPushRuleActions(ctx context.Context, c httpx.Caller, r pushRuleRequest) (pushRuleActions, error) {
	rule, err := a.Push.Rule(ctx, c.User, r.Kind, r.RuleID)
	return pushRuleActions{rule.Actions}, err
}

type setPushRuleActionsRequest struct {
	Kind    pushrules.Kind   `path:"kind"`
	RuleID  string           `path:"ruleId"`
	Actions []jsontext.Value `json:"actions"`
}

func (a *API) setPushRuleActions(ctx context.Context, c httpx.Caller, r setPushRuleActionsRequest) (none, error) {
	if r.Actions == nil {
		return none{}, errcode.MissingParam("actions are needed")
	}
	return none{}, a.Push.SetRuleActions(ctx, c.User, r.Kind, r.RuleID, r.Actions)
}

type pushersResponse struct {
	Pushers []push.Pusher `json:"pushers"`
}

// spec: client-server-api#get_matrixclientv3pushers
func (a *API) getPushers(ctx context.Context, c httpx.Caller, _ none) (pushersResponse, error) {
	all, err := a.Push.Pushers(ctx, c.User)
	return pushersResponse{all}, err
}

type postPusherRequest struct {
	PushKey           string         `json:"pushkey"`
	AppID             string         `json:"app_id"`
	Kind              jsontext.Value `json:"kind"` // a string, or null to delete
	AppDisplayName    *string        `json:"app_display_name"`
	DeviceDisplayName *string        `json:"device_display_name"`
	ProfileTag        string         `json:"profile_tag"`
	Lang              *string        `json:"lang"`
	Data              jsontext.Value `json:"data"`
	Append            bool           `json:"append"`
	Enabled           *bool          `json:"org.matrix.msc3881.enabled"` // msc: 3881
}

// spec: client-server-api#post_matrixclientv3pushersset
func (a *API) postPusher(ctx context.Context, c httpx.Caller, r postPusherRequest) (none, error) {
	return none{}, a.Push.SetPusher(ctx, c.User, c.Device, c.TokenID, push.PusherChange{
		PushKey: r.PushKey, AppID: r.AppID, Kind: r.Kind, AppDisplayName: r.AppDisplayName, DeviceDisplayName: r.DeviceDisplayName,
		ProfileTag: r.ProfileTag, Lang: r.Lang, Data: r.Data, Append: r.Append, Enabled: r.Enabled,
	})
}

type getNotificationsRequest struct {
	From  string `query:"from"`
	Limit *int   `query:"limit"`
	Only  string `query:"only"`
}

type notificationsResponse struct {
	Notifications []push.Notification `json:"notifications"`
	NextToken     string              `json:"next_token,omitzero"`
}

// spec: client-server-api#listing-notifications
func (a *API) getNotifications(ctx context.Context, c httpx.Caller, r getNotificationsRequest) (notificationsResponse, error) {
	page, next, err := a.Push.Notifications(ctx, push.NotificationsRequest{
		User: c.User, Device: c.Device, From: r.From, Limit: r.Limit, OnlyHighlights: r.Only == "highlight",
	})
	return notificationsResponse{page, next}, err
}
