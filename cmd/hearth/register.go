package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	"hearth/config"
)

// registration is what register-new-matrix-user was asked to do.
type registration struct {
	user, password, passwordFile, userType string
	admin, noAdmin, existsOK               bool
	configs                                []string
	secret, url                            string
}

// registerCommand has the flags and questions of Synapse's register_new_matrix_user.
func registerCommand(name string) *cobra.Command {
	var r registration
	cmd := &cobra.Command{
		Use:           name + " (-c FILE | -k SECRET) [SERVER_URL]",
		Short:         "Make an account with the registration shared secret",
		Args:          cobra.MaximumNArgs(1),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				r.url = args[0]
			}
			return r.run(cmd.Context(), bufio.NewReader(cmd.InOrStdin()), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&r.user, "user", "u", "", "local part of the new user; asked for when missing")
	f.StringVarP(&r.password, "password", "p", "", "password; asked for when missing")
	f.StringVar(&r.passwordFile, "password-file", "", "file that holds the password; - for standard input")
	f.StringVarP(&r.userType, "user_type", "t", "", "type of the user: bot, support or extra")
	f.BoolVarP(&r.admin, "admin", "a", false, "make an administrator")
	f.BoolVar(&r.noAdmin, "no-admin", false, "make no administrator")
	f.BoolVar(&r.existsOK, "exists-ok", false, "be content when the user exists")
	f.StringArrayVarP(&r.configs, "config", "c", nil, "configuration file of the server; may be repeated")
	f.StringVarP(&r.secret, "shared-secret", "k", "", "the registration shared secret")
	cmd.MarkFlagsMutuallyExclusive("admin", "no-admin")
	cmd.MarkFlagsMutuallyExclusive("config", "shared-secret")
	cmd.MarkFlagsOneRequired("config", "shared-secret")
	cmd.MarkFlagsMutuallyExclusive("password", "password-file")
	return cmd
}

func (r *registration) run(ctx context.Context, in *bufio.Reader, out, errOut io.Writer) error {
	if err := r.readConfig(errOut); err != nil {
		return err
	}
	if err := r.ask(in, out); err != nil {
		return err
	}
	fmt.Fprintln(out, "Sending registration request...")
	err := r.send(ctx)
	if e, ok := errors.AsType[*apiError](err); ok && e.Code == "M_USER_IN_USE" && r.existsOK {
		fmt.Fprintln(out, "User already exists.")
		return nil
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "Success!")
	return nil
}

// readConfig finds the secret and the server in configuration files, which
// need not be all of the server's.
func (r *registration) readConfig(errOut io.Writer) error {
	const fallback = "http://localhost:8008"
	if len(r.configs) > 0 {
		cfg, _, err := config.Read(r.configs...)
		if err != nil {
			return err
		}
		r.secret, err = cfg.SharedSecret()
		if err != nil {
			return err
		}
		if r.secret == "" {
			return errors.New("no registration_shared_secret or registration_shared_secret_path in the configuration")
		}
		for _, l := range cfg.Listeners {
			if r.url == "" && l.Type == "http" && !l.TLS {
				r.url = "http://localhost:" + strconv.Itoa(l.Port)
			}
		}
	}
	if r.url == "" {
		r.url = fallback
		fmt.Fprintln(errOut, "No server URL was given; using", fallback)
	}
	r.url = strings.TrimSuffix(r.url, "/")
	return nil
}

func (r *registration) ask(in *bufio.Reader, out io.Writer) (err error) {
	if r.user == "" {
		if r.user, err = question(in, out, "New user localpart [root]: "); err != nil {
			return err
		}
		if r.user == "" {
			r.user = "root"
		}
	}
	if r.passwordFile == "-" {
		if r.password, err = question(in, io.Discard, ""); err != nil {
			return err
		}
	} else if r.passwordFile != "" {
		b, err := os.ReadFile(r.passwordFile)
		if err != nil {
			return fmt.Errorf("read password: %w", err)
		}
		r.password = strings.TrimSpace(string(b))
	}
	if r.password == "" {
		if r.password, err = secretQuestion(in, out, "Password: "); err != nil {
			return err
		}
		again, err := secretQuestion(in, out, "Confirm password: ")
		if err != nil {
			return err
		}
		if r.password == "" {
			return errors.New("the password must not be empty")
		}
		if again != r.password {
			return errors.New("the passwords do not match")
		}
	}
	if !r.admin && !r.noAdmin && r.userType == "" {
		answer, err := question(in, out, "Make admin [no]: ")
		if err != nil {
			return err
		}
		switch strings.ToLower(answer) {
		case "y", "yes", "true":
			r.admin = true
		}
	}
	return nil
}

func question(in *bufio.Reader, out io.Writer, text string) (string, error) {
	fmt.Fprint(out, text)
	line, err := in.ReadString('\n')
	if err != nil && line == "" {
		return "", fmt.Errorf("read answer: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}

// secretQuestion does not show what is typed where the input is a terminal.
func secretQuestion(in *bufio.Reader, out io.Writer, text string) (string, error) {
	restore := hideTyping(os.Stdin)
	defer restore()
	answer, err := question(in, out, text)
	fmt.Fprintln(out)
	return answer, err
}

type apiError struct {
	Status  int
	Code    string `json:"errcode"`
	Message string `json:"error"`
}

func (e *apiError) Error() string {
	return fmt.Sprintf("the server refused: %d %s %s", e.Status, e.Code, e.Message)
}

func (r *registration) send(ctx context.Context) error {
	var nonce struct {
		Nonce string `json:"nonce"`
	}
	if err := r.call(ctx, http.MethodGet, nil, &nonce); err != nil {
		return err
	}
	body := map[string]any{
		"nonce": nonce.Nonce, "username": r.user, "password": r.password, "admin": r.admin,
		"mac": r.mac(nonce.Nonce), "inhibit_login": true,
	}
	if r.userType != "" {
		body["user_type"] = r.userType
	}
	return r.call(ctx, http.MethodPost, body, &struct{}{})
}

// mac proves that we know the secret. Synapse's API has SHA-1, whose weakness
// (collisions) does not touch HMAC.
func (r *registration) mac(nonce string) string {
	admin := "notadmin"
	if r.admin {
		admin = "admin"
	}
	parts := []string{nonce, r.user, r.password, admin}
	if r.userType != "" {
		parts = append(parts, r.userType)
	}
	h := hmac.New(sha1.New, []byte(r.secret))
	h.Write([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(h.Sum(nil))
}

func (r *registration) call(ctx context.Context, method string, body, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var src bytes.Buffer
	if body != nil {
		if err := json.MarshalWrite(&src, body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, r.url+"/_synapse/admin/v1/register", &src)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("reach the server: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		e := &apiError{Status: resp.StatusCode}
		if err := json.Unmarshal(answer, e); err != nil {
			e.Message = resp.Status // a proxy's page
		}
		return e
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	return nil
}
