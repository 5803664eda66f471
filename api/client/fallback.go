package client

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"html"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"hearth/account"
	"hearth/api/httpx"
	"hearth/matrix/errcode"
)

// Pages for clients that do not know a stage of interactive authentication, or
// a way to log in: they open these in a browser.
// spec: client-server-api#fallback

// fallbackFormSize bounds a submitted form: a password or a token.
const fallbackFormSize = 8 << 10

type fallbackRequest struct {
	Stage   string `path:"authType"`
	Session string `query:"session"`
}

type fallbackSubmitRequest struct {
	Stage   string    `path:"authType"`
	Session string    `query:"session"`
	Body    io.Reader `body:"stream"`
}

// onAuthDone is the spec's own text.
const onAuthDone = `if (window.onAuthDone) {
    window.onAuthDone();
} else if (window.opener && window.opener.postMessage) {
    window.opener.postMessage("authDone", "*");
}`

func (a *API) uiaFallback(ctx context.Context, w http.ResponseWriter, _ httpx.Caller, r fallbackRequest) error {
	waiting, err := a.Accounts.FindWaiting(ctx, r.Session, r.Stage)
	if err != nil {
		return err
	}
	return writeStage(w, http.StatusOK, r.Stage, waiting, "")
}

func (a *API) uiaFallbackSubmit(ctx context.Context, w http.ResponseWriter, c httpx.Caller, r fallbackSubmitRequest) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, fallbackFormSize))
	if err != nil {
		return errcode.InvalidParam("the form did not arrive")
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return errcode.InvalidParam("the form is malformed")
	}
	waiting, err := a.Accounts.FindWaiting(ctx, r.Session, r.Stage)
	if err != nil {
		return err
	}
	if r.Stage == account.StageRegistrationToken {
		if err := a.Limits.Take(httpx.RegistrationTokenValidity, c.Network()); err != nil {
			return err
		}
	}
	err = a.Accounts.CompleteStage(ctx, r.Session, r.Stage, form.Get("password"), form.Get("token"))
	if e, ok := errors.AsType[*errcode.Error](err); ok {
		return writeStage(w, e.Status, r.Stage, waiting, e.Message)
	}
	if err != nil {
		return err
	}
	waiting.Done = true
	return writeStage(w, http.StatusOK, r.Stage, waiting, "")
}

// writeStage writes the page of one stage. Each form works without scripts.
func writeStage(w http.ResponseWriter, status int, stage string, waiting account.Waiting, message string) error {
	if waiting.Done {
		return writePage(w, status, "Done", `<p>You can go back to the app now.</p>`, onAuthDone)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "<p>An app asks to %s.", html.EscapeString(waiting.Operation))
	if waiting.User != "" {
		fmt.Fprintf(&b, " Your account is %s.", html.EscapeString(string(waiting.User)))
	}
	b.WriteString(" If that is not you, close this page.</p>")
	if message != "" {
		fmt.Fprintf(&b, `<p role="alert">%s</p>`, html.EscapeString(message))
	}
	b.WriteString(`<form method="post">`)
	b.WriteString(stageFields(stage, waiting))
	b.WriteString(`<p><button>Continue</button></p></form>`)
	return writePage(w, status, "Confirm that it is you", b.String(), "")
}

func stageFields(stage string, waiting account.Waiting) string {
	switch stage {
	case account.StagePassword:
		return `<p><label>Password <input name="password" type="password" autocomplete="current-password" required autofocus></label></p>`
	case account.StageRegistrationToken:
		return `<p><label>Registration token <input name="token" maxlength="64" required autofocus></label></p>`
	case account.StageTerms:
		return `<p>By continuing you accept:</p>` + policyList(waiting.Policies)
	}
	return ""
}

func policyList(policies map[string]account.Policy) string {
	var b strings.Builder
	b.WriteString("<ul>")
	for _, name := range slices.Sorted(maps.Keys(policies)) {
		texts := policies[name].Translations
		text, ok := texts["en"]
		for _, lang := range slices.Sorted(maps.Keys(texts)) {
			if !ok {
				text, ok = texts[lang], true
			}
		}
		fmt.Fprintf(&b, `<li><a href="%s" target="_blank" rel="noopener">%s</a></li>`, html.EscapeString(text.URL), html.EscapeString(text.Name))
	}
	b.WriteString("</ul>")
	return b.String()
}

//go:embed pages/login.js
var loginScript string

// spec: client-server-api#login-fallback
func (a *API) loginFallback(_ context.Context, w http.ResponseWriter, _ httpx.Caller, _ none) error {
	if !a.Accounts.CanLoginByPassword() {
		return errcode.NotFound("logging in with a password is not possible here")
	}
	return writePage(w, http.StatusOK, "Log in", `<form method="post"><p role="alert"></p>
<p><label>User name <input name="user" autocomplete="username" autocapitalize="none" required autofocus></label></p>
<p><label>Password <input name="password" type="password" autocomplete="current-password" required></label></p>
<p><button>Log in</button></p></form>
<noscript><p>This page works with JavaScript only.</p></noscript>`, loginScript)
}

const pageStyle = `body{font:1rem/1.5 system-ui,sans-serif;max-width:24rem;margin:2rem auto;padding:0 1rem}` +
	`input{display:block;width:100%;box-sizing:border-box;font:inherit;padding:.4rem}button{font:inherit;padding:.4rem 1rem}[role=alert]{color:#b00}`

// writePage writes a small page. Nothing but the script given may run in it,
// and no other site may frame it.
func writePage(w http.ResponseWriter, status int, title, body, script string) error {
	nonce := rand.Text()
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'nonce-"+nonce+"'; style-src 'nonce-"+nonce+
		"'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	if script != "" {
		script = fmt.Sprintf(`<script nonce="%s">%s</script>`, nonce, script)
	}
	w.WriteHeader(status)
	_, err := fmt.Fprintf(w, `<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">`+
		`<title>%[1]s</title><style nonce="%[2]s">%[3]s</style></head><body><main><h1>%[1]s</h1>%[4]s</main>%[5]s</body></html>`,
		html.EscapeString(title), nonce, pageStyle, body, script)
	return err
}
