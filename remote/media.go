package remote

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/outgoing"
)

// File is a file of another server. The caller closes Body and bounds what it
// reads of it.
type File struct {
	ContentType string // empty: the server did not say
	Disposition string // the Content-Disposition header
	Body        io.ReadCloser
}

// Thumbnail says which thumbnail is wanted.
type Thumbnail struct {
	Width, Height int
	Method        string // crop or scale; empty: scale
	Animated      bool
}

const (
	// maxFile bounds what is read of a file whatever the caller thinks.
	maxFile = 4 << 30
	// maxMetadata bounds the first part of an answer with a file.
	maxMetadata = 64 << 10
)

// MediaDownload fetches a file. wait is how long the server may wait for a file
// that is not uploaded yet.
// spec: server-server-api#get_matrixfederationv1mediadownloadmediaid
func (c *Client) MediaDownload(ctx context.Context, from id.Server, mediaID string, wait time.Duration) (*File, error) {
	q := url.Values{"timeout_ms": {strconv.FormatInt(wait.Milliseconds(), 10)}}
	return c.file(ctx, from, "download", mediaID, wait, q)
}

// MediaThumbnail fetches a thumbnail that the other server makes.
// spec: server-server-api#get_matrixfederationv1mediathumbnailmediaid
func (c *Client) MediaThumbnail(ctx context.Context, from id.Server, mediaID string, t Thumbnail, wait time.Duration) (*File, error) {
	q := url.Values{
		"timeout_ms": {strconv.FormatInt(wait.Milliseconds(), 10)},
		"width":      {strconv.Itoa(t.Width)}, "height": {strconv.Itoa(t.Height)},
	}
	if t.Method != "" {
		q.Set("method", t.Method)
	}
	if t.Animated {
		q.Set("animated", "true")
	}
	return c.file(ctx, from, "thumbnail", mediaID, wait, q)
}

func (c *Client) file(ctx context.Context, from id.Server, what, mediaID string, wait time.Duration, q url.Values) (*File, error) {
	within := wait + usualTime
	resp, err := c.send(ctx, from, &request{
		method: http.MethodGet, path: fedPath("v1/media/"+what, mediaID), query: q, limit: maxFile, within: within, stream: true, pause: shownPause,
	})
	if unrecognized(err) || isBare(err) {
		return c.openFile(ctx, from, what, mediaID, within, q)
	}
	if err != nil {
		return nil, err
	}
	f, err := c.readFile(ctx, from, resp)
	if err != nil {
		closeBody(resp)
	}
	return f, err
}

// openFile fetches a file from a server that is older than Matrix 1.11, where
// everybody may have it.
// spec: client-server-api#get_matrixmediav3downloadservernamemediaid
func (c *Client) openFile(ctx context.Context, from id.Server, what, mediaID string, within time.Duration, q url.Values) (*File, error) {
	q.Set("allow_remote", "false")
	path := "/_matrix/media/v3/" + what + "/" + url.PathEscape(string(from)) + "/" + url.PathEscape(mediaID)
	resp, err := c.send(ctx, from, &request{method: http.MethodGet, path: path, query: q, limit: maxFile, within: within, stream: true, pause: shownPause, open: true})
	if err != nil {
		return nil, err
	}
	return &File{resp.Header.Get("Content-Type"), resp.Header.Get("Content-Disposition"), resp.Body}, nil
}

// readFile reads an answer of two parts: metadata, and the file or where it is.
func (c *Client) readFile(ctx context.Context, from id.Server, resp *http.Response) (*File, error) {
	kind, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/mixed" || params["boundary"] == "" {
		return nil, badAnswer(from, errors.New("the file does not come as multipart/mixed"))
	}
	parts := multipart.NewReader(bufio.NewReader(resp.Body), params["boundary"])
	metadata, err := parts.NextRawPart()
	if err != nil {
		return nil, badAnswer(from, fmt.Errorf("metadata: %w", err))
	}
	if _, err := io.Copy(io.Discard, outgoing.Limit(metadata, maxMetadata)); err != nil {
		return nil, badAnswer(from, fmt.Errorf("metadata: %w", err))
	}
	part, err := parts.NextRawPart()
	if err != nil {
		return nil, badAnswer(from, fmt.Errorf("file: %w", err))
	}
	if location := part.Header.Get("Location"); location != "" {
		f, err := c.fetchLocation(ctx, from, location)
		if err == nil {
			closeBody(resp)
		}
		return f, err
	}
	body := struct {
		io.Reader
		io.Closer
	}{part, resp.Body}
	return &File{part.Header.Get("Content-Type"), part.Header.Get("Content-Disposition"), body}, nil
}

// fetchLocation fetches a file from where the other server keeps its files. That
// is for the other server to choose, so the rules for redirects apply.
func (c *Client) fetchLocation(ctx context.Context, from id.Server, location string) (*File, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(usualTime, func() { cancel(errLate) })
	resp, err := c.files.Get(ctx, location, nil)
	if err != nil {
		timer.Stop()
		cancel(nil)
		return nil, &Error{Server: from, Err: err}
	}
	body := &answerBody{ctx: ctx, body: resp.Body, limited: outgoing.Limit(resp.Body, maxFile), timer: timer, cancel: cancel, stream: true, patience: streamPatience}
	if resp.StatusCode != http.StatusOK {
		err := body.Close()
		return nil, &Error{Server: from, Status: resp.StatusCode, Err: errors.Join(errcode.New(http.StatusBadGateway, "M_UNKNOWN", "the place where %s keeps its files answered %d", from, resp.StatusCode), err)}
	}
	return &File{resp.Header.Get("Content-Type"), resp.Header.Get("Content-Disposition"), body}, nil
}
