package media

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
	"unicode/utf8"

	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/media"
)

type uploadResponse struct {
	URI string `json:"content_uri"`
}

func (a *API) uploadContent(w http.ResponseWriter, r *http.Request, c httpx.Caller) error {
	meta, err := a.announced(r)
	if err != nil {
		return err
	}
	mediaID, err := a.Repository.Upload(r.Context(), c.User, meta, bodyOf(w, r))
	if err != nil {
		return uploadError(err)
	}
	return httpx.WriteJSON(w, uploadResponse{a.Repository.URI(mediaID)})
}

func (a *API) uploadContentToMXC(w http.ResponseWriter, r *http.Request, c httpx.Caller) error {
	meta, err := a.announced(r)
	if err != nil {
		return err
	}
	server, err := id.ParseServer(r.PathValue("serverName"))
	if err != nil {
		return errcode.InvalidParam("%s", err)
	}
	err = a.Repository.UploadTo(r.Context(), c.User, server, r.PathValue("mediaId"), meta, bodyOf(w, r))
	if err != nil {
		return uploadError(err)
	}
	return httpx.WriteJSON(w, struct{}{})
}

type createResponse struct {
	URI     string `json:"content_uri"`
	Expires int64  `json:"unused_expires_at"`
}

func (a *API) createContent(ctx context.Context, c httpx.Caller, _ struct{}) (createResponse, error) {
	mediaID, expires, err := a.Repository.Create(ctx, c.User)
	return createResponse{a.Repository.URI(mediaID), expires}, err
}

// announced reads what the client says of the file before it sends it.
func (a *API) announced(r *http.Request) (media.Meta, error) {
	if r.ContentLength > a.Repository.MaxUpload() {
		return media.Meta{}, errcode.TooLarge("the file is larger than %d bytes", a.Repository.MaxUpload())
	}
	name := r.URL.Query().Get("filename")
	if !utf8.ValidString(name) {
		return media.Meta{}, errcode.InvalidParam("filename is not UTF-8")
	}
	return media.Meta{Type: r.Header.Get("Content-Type"), Name: name}, nil
}

// stallTime is how long an upload may pause.
const stallTime = time.Minute

// bodyOf lets an upload take as long as it needs while it gets on.
func bodyOf(w http.ResponseWriter, r *http.Request) io.Reader {
	return &body{r.Body, http.NewResponseController(w)}
}

type body struct {
	io.Reader
	connection *http.ResponseController
}

func (b *body) Read(p []byte) (int, error) {
	// A recorder in tests has no deadlines, and a connection that lost its own
	// fails in the read.
	_ = b.connection.SetReadDeadline(time.Now().Add(stallTime))
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		// A deadline that stayed would end the next request.
		_ = b.connection.SetReadDeadline(time.Time{})
	}
	return n, err
}

func uploadError(err error) error {
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return errcode.New(http.StatusRequestTimeout, "M_UNKNOWN", "the file did not arrive in time")
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errcode.New(http.StatusBadRequest, "M_UNKNOWN", "the file broke off")
	}
	return err
}
