package account

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
)

// Stages of interactive authentication.
// spec: client-server-api#authentication-types
const (
	StagePassword          = "m.login.password"
	StageDummy             = "m.login.dummy"
	StageTerms             = "m.login.terms"
	StageRegistrationToken = "m.login.registration_token"
)

// anonymousSessions bounds, per second, what people without an account can make
// the database keep.
const anonymousSessions = 50

// Interaction is a request that needs interactive authentication.
type Interaction struct {
	User      id.User        // who asks; empty: nobody yet
	Operation string         // what is asked for: an endpoint with its path
	Params    jsontext.Value // the request's body without auth and Secret
	// Secret is a new password in the request. It is kept as a hash only.
	Secret string
	// Mutable lets the request change between stages: nobody is harmed if the
	// one who registers has second thoughts about the name.
	Mutable bool
	Auth    jsontext.Value // what the client sent as auth; nil: nothing
	Flows   [][]string
}

// Proof is what a finished interaction leaves.
type Proof struct {
	Params     jsontext.Value    // those of the request, also if the last one was only the session
	SecretHash string            // of Secret; empty: there was none
	Results    map[string]string // stage -> what came of it: the registration token
}

// secretKey is where a session's completed stages keep the hash of Secret.
const secretKey = "secret_hash"

// authDict is the auth object of a request; each stage has keys of its own.
type authDict struct {
	Type       string      `json:"type,omitempty"`
	Session    string      `json:"session,omitempty"`
	Identifier *Identifier `json:"identifier,omitempty"`
	User       string      `json:"user,omitempty"` // before identifiers
	Password   string      `json:"password,omitempty"`
	Token      string      `json:"token,omitempty"`
}

// interaction is a session at work.
type interaction struct {
	store.Interaction
	stored bool
}

// Interact returns when the request may be carried out, once for each session.
// Its *errcode.Error of status 401 is the challenge to send.
// spec: client-server-api#user-interactive-authentication-api
func (a *Accounts) Interact(ctx context.Context, in Interaction) (Proof, error) {
	var auth authDict
	if v := bytes.TrimSpace(in.Auth); len(v) > 0 && string(v) != "null" {
		if err := json.Unmarshal(v, &auth); err != nil {
			return Proof{}, errcode.BadJSON("auth is not a valid object")
		}
	}
	s, err := a.resume(ctx, in, auth.Session)
	if err != nil {
		return Proof{}, err
	}
	var failure *errcode.Error
	if _, done := s.Completed[auth.Type]; auth.Type != "" && !done {
		if failure, err = a.stage(ctx, s, auth); err != nil {
			return Proof{}, err
		}
	}
	if failure == nil && s.isComplete() {
		return a.finish(ctx, in, s)
	}
	if err := a.keep(ctx, in, s); err != nil {
		return Proof{}, err
	}
	return Proof{}, a.challenge(s, failure)
}

// resume finds the session of a request or begins one. What a session was
// begun for cannot be changed to something else later.
func (a *Accounts) resume(ctx context.Context, in Interaction, session string) (*interaction, error) {
	params, err := canonical(in.Params)
	if err != nil {
		return nil, err
	}
	fresh := &interaction{Interaction: store.Interaction{Session: randomToken(""), CreatedMS: nowMS(), User: in.User,
		Operation: in.Operation, Params: params, Flows: in.Flows, Completed: map[string]string{}}}
	if session == "" || strings.ContainsRune(session, 0) {
		return fresh, nil
	}
	old, ok, err := a.findInteraction(ctx, session)
	if err != nil {
		return nil, err
	}
	if !ok {
		return fresh, nil // the challenge tells the new session
	}
	s := &interaction{old, true}
	if s.User != in.User || s.Operation != in.Operation {
		return nil, errcode.Forbidden("the session was begun for another request")
	}
	if string(params) == "{}" && in.Secret == "" || string(params) == string(s.Params) {
		return s, nil
	}
	if !in.Mutable {
		return nil, errcode.Forbidden("the request has changed since the session was begun")
	}
	s.Params = params
	return s, nil
}

func (a *Accounts) findInteraction(ctx context.Context, session string) (s store.Interaction, ok bool, err error) {
	err = a.store.View(ctx, func(tx *store.Tx) (err error) {
		s, ok, err = tx.Registration.GetInteraction(session)
		return
	})
	return s, ok && s.CreatedMS > nowMS()-a.o.InteractionLifetime.Milliseconds(), err
}

// canonical is a form of the parameters in which equal ones have equal bytes.
func canonical(v jsontext.Value) (jsontext.Value, error) {
	if len(v) == 0 {
		return jsontext.Value("{}"), nil
	}
	v = v.Clone()
	if err := v.Canonicalize(); err != nil {
		return nil, errcode.BadJSON("the request cannot be brought in canonical form")
	}
	return v, nil
}

// done lists completed stages in the order of the flow they belong to.
func (s *interaction) done() []string {
	done := slices.Collect(maps.Keys(s.Completed))
	done = slices.DeleteFunc(done, func(stage string) bool { return stage == secretKey })
	slices.SortFunc(done, func(x, y string) int {
		for _, flow := range s.Flows {
			if i, j := slices.Index(flow, x), slices.Index(flow, y); i >= 0 && j >= 0 {
				return i - j
			}
		}
		return strings.Compare(x, y)
	})
	return done
}

func (s *interaction) isComplete() bool {
	done := s.done()
	return slices.ContainsFunc(s.Flows, func(flow []string) bool { return slices.Equal(flow, done) })
}

// mayCome says whether a stage is the next one of a flow.
func (s *interaction) mayCome(stage string) bool {
	done := s.done()
	return slices.ContainsFunc(s.Flows, func(flow []string) bool {
		return len(flow) > len(done) && slices.Equal(flow[:len(done)], done) && flow[len(done)] == stage
	})
}

// stage tries one stage. A failure of the client goes into the next challenge;
// an error ends the request.
func (a *Accounts) stage(ctx context.Context, s *interaction, auth authDict) (*errcode.Error, error) {
	if !s.mayCome(auth.Type) {
		return errcode.Forbidden("%s is not a stage that comes next", auth.Type), nil
	}
	result, err := a.prove(ctx, s.User, auth)
	if err == nil {
		s.Completed[auth.Type] = result
		return nil, nil
	}
	if errors.Is(err, errOtherAccount) {
		return nil, errOtherAccount // no further try can mend that
	}
	if e, ok := errors.AsType[*errcode.Error](err); ok && e.Status != http.StatusTooManyRequests {
		return e, nil
	}
	return nil, err
}

// prove checks what a client gives for one stage.
func (a *Accounts) prove(ctx context.Context, u id.User, auth authDict) (result string, err error) {
	switch auth.Type {
	case StageDummy, StageTerms:
		return "", nil
	case StagePassword:
		return "", a.provePassword(ctx, u, auth)
	case StageRegistrationToken:
		if auth.Token == "" || len(auth.Token) > 64 || strings.ContainsRune(auth.Token, 0) {
			return "", errcode.Unauthorized("the registration token is not valid")
		}
		valid, err := a.IsRegistrationTokenValid(ctx, auth.Token)
		if err == nil && !valid {
			err = errcode.Unauthorized("the registration token is not valid")
		}
		return auth.Token, err
	}
	return "", errcode.Forbidden("%s is not possible here", auth.Type)
}

var errOtherAccount = errcode.Forbidden("the password must be that of your own account")

// provePassword wants the password of the user who asks, not of just any.
func (a *Accounts) provePassword(ctx context.Context, u id.User, auth authDict) error {
	if a.o.Passwords.NoReauth || u == "" {
		return errcode.Forbidden("passwords are not used here")
	}
	i := Identifier{Type: "m.id.user", User: auth.User}
	if auth.Identifier != nil {
		i = *auth.Identifier
	}
	if i.Type == "m.id.user" && i.User == "" {
		i.User = string(u) // who asks is known
	}
	named, err := a.Identify(ctx, i)
	if err != nil {
		return err
	}
	if named != u {
		return errOtherAccount
	}
	_, err = a.verify(ctx, u, auth.Password)
	return err
}

// keep stores a session for its next request, without any password in it.
func (a *Accounts) keep(ctx context.Context, in Interaction, s *interaction) error {
	if err := a.keepSecret(ctx, in, s); err != nil {
		return err
	}
	if !s.stored && s.User == "" && !a.anonymous.Allow() {
		return errcode.LimitExceeded(1000)
	}
	err := a.store.Update(ctx, func(tx *store.Tx) error {
		if s.stored {
			return tx.Registration.SetInteraction(s.Interaction)
		}
		return tx.Registration.InsertInteraction(s.Interaction, nowMS()-a.o.InteractionLifetime.Milliseconds())
	})
	s.stored = true
	return err
}

// keepSecret puts the hash of the secret into the session, unless it is there.
func (a *Accounts) keepSecret(ctx context.Context, in Interaction, s *interaction) error {
	if in.Secret == "" {
		return nil
	}
	if old := s.Completed[secretKey]; old != "" {
		same, err := a.hashes.check(ctx, old, in.Secret)
		if err != nil || same {
			return err
		}
		if !in.Mutable {
			return errcode.Forbidden("the request has changed since the session was begun")
		}
	}
	hash, err := a.HashPassword(ctx, in.Secret)
	s.Completed[secretKey] = hash
	return err
}

// finish uses the session up: of two requests that finish it, one wins.
func (a *Accounts) finish(ctx context.Context, in Interaction, s *interaction) (Proof, error) {
	if err := a.keepSecret(ctx, in, s); err != nil {
		return Proof{}, err
	}
	if s.stored {
		err := a.store.Update(ctx, func(tx *store.Tx) error {
			ended, err := tx.Registration.DeleteInteraction(s.Session)
			if err == nil && !ended {
				err = errcode.Forbidden("the session is over")
			}
			return err
		})
		if err != nil {
			return Proof{}, err
		}
	}
	hash := s.Completed[secretKey]
	delete(s.Completed, secretKey)
	return Proof{s.Params, hash, s.Completed}, nil
}

func (a *Accounts) challenge(s *interaction, failure *errcode.Error) error {
	e := &errcode.Error{Status: http.StatusUnauthorized, Message: "more authentication is needed"}
	if failure != nil {
		e.Code, e.Message = failure.Code, failure.Message
	}
	e.Extra = map[string]any{"session": s.Session, "flows": flowList(s.Flows), "params": a.stageParams(s.Flows)}
	if done := s.done(); len(done) > 0 {
		e.Extra["completed"] = done
	}
	return e
}

type flowInfo struct {
	Stages []string `json:"stages"`
}

func flowList(flows [][]string) []flowInfo {
	list := make([]flowInfo, len(flows))
	for i, f := range flows {
		list[i] = flowInfo{f}
	}
	return list
}

func (a *Accounts) stageParams(flows [][]string) map[string]any {
	params := map[string]any{}
	for _, flow := range flows {
		if slices.Contains(flow, StageTerms) {
			params[StageTerms] = map[string]any{"policies": a.policies()}
		}
	}
	return params
}

func (a *Accounts) policies() map[string]any {
	policies := map[string]any{}
	for name, p := range a.o.Terms {
		policy := map[string]any{"version": p.Version}
		for lang, text := range p.Translations {
			policy[lang] = text
		}
		policies[name] = policy
	}
	return policies
}

// Waiting is a stage that somebody completes in a browser.
// spec: client-server-api#fallback
type Waiting struct {
	User      id.User
	Operation string
	Done      bool // was completed already
	Policies  map[string]Policy
}

// FindWaiting finds a stage of a session that a browser may complete now.
func (a *Accounts) FindWaiting(ctx context.Context, session, stage string) (Waiting, error) {
	s, ok, err := a.findInteraction(ctx, session)
	if err != nil {
		return Waiting{}, err
	}
	live := &interaction{s, true}
	_, done := s.Completed[stage]
	if !ok || !done && !live.mayCome(stage) {
		return Waiting{}, errcode.NotFound("there is no such session, or it does not wait for this")
	}
	return Waiting{s.User, s.Operation, done, a.o.Terms}, nil
}

// CompleteStage tries a stage of a session with what was typed into a browser.
func (a *Accounts) CompleteStage(ctx context.Context, session, stage, password, token string) error {
	if _, err := a.FindWaiting(ctx, session, stage); err != nil {
		return err
	}
	s, _, err := a.findInteraction(ctx, session)
	if err != nil {
		return err
	}
	result, err := a.prove(ctx, s.User, authDict{Type: stage, Password: password, Token: token})
	if err != nil {
		return err
	}
	return a.store.Update(ctx, func(tx *store.Tx) error {
		s, ok, err := tx.Registration.GetInteraction(session)
		if err != nil || !ok {
			return err
		}
		s.Completed[stage] = result
		return tx.Registration.SetInteraction(s)
	})
}
