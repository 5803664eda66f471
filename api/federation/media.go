package federation

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"time"

	"hearth/api/httpx"
	mediaapi "hearth/api/media"
	"hearth/matrix/errcode"
	"hearth/media"
)

type getContentRequest struct {
	ID        string `path:"mediaId"`
	TimeoutMS *int64 `query:"timeout_ms"`
}

// request is for a file of our own: other servers get nothing else here.
func (a *API) mediaRequest(mediaID string, timeoutMS *int64) (media.Request, error) {
	const usual = 20 * time.Second
	q := media.Request{Server: a.ServerName, ID: mediaID, LoggedIn: true, NoRemote: true, ByServer: true, Timeout: usual}
	if timeoutMS != nil {
		if *timeoutMS < 0 {
			return q, errcode.InvalidParam("timeout_ms is not below 0")
		}
		q.Timeout = time.Duration(min(*timeoutMS, time.Hour.Milliseconds())) * time.Millisecond
	}
	return q, nil
}

func (a *API) getContent(ctx context.Context, w http.ResponseWriter, _ httpx.Caller, r getContentRequest) error {
	q, err := a.mediaRequest(r.ID, r.TimeoutMS)
	if err != nil {
		return err
	}
	f, err := a.Media.Download(ctx, q)
	if err != nil {
		return err
	}
	defer f.Close()
	return writeFile(w, f)
}

type getContentThumbnailRequest struct {
	ID        string `path:"mediaId"`
	TimeoutMS *int64 `query:"timeout_ms"`
	Width     *int   `query:"width"`
	Height    *int   `query:"height"`
	Method    string `query:"method"`
	Animated  bool   `query:"animated"`
}

func (a *API) getContentThumbnail(ctx context.Context, w http.ResponseWriter, _ httpx.Caller, r getContentThumbnailRequest) error {
	q, err := a.mediaRequest(r.ID, r.TimeoutMS)
	if err != nil {
		return err
	}
	size := media.Size{Animated: r.Animated, Crop: r.Method == "crop"}
	switch {
	case r.Width == nil || r.Height == nil:
		return errcode.MissingParam("width and height are needed")
	case *r.Width < 1 || *r.Height < 1:
		return errcode.InvalidParam("width and height are above 0")
	case r.Method != "" && r.Method != "crop" && r.Method != "scale":
		return errcode.InvalidParam("method must be crop or scale")
	}
	size.Width, size.Height = *r.Width, *r.Height
	f, err := a.Media.Thumbnail(ctx, q, size)
	if err != nil {
		return err
	}
	defer f.Close()
	return writeFile(w, f)
}

// writeFile writes a file as the second of two parts; the first is for what may be
// said of it one day. The order of headers should say nothing, but Synapse (1.163)
// takes the first header of the second part for the type, and then knows no name; so
// the parts are not multipart.Writer's, which sorts the headers.
// spec: server-server-api#get_matrixfederationv1mediadownloadmediaid
func writeFile(w http.ResponseWriter, f *media.File) error {
	boundary := rand.Text()
	w.Header().Set("Content-Type", "multipart/mixed; boundary="+boundary)
	_, err := fmt.Fprintf(w, "--%[1]s\r\nContent-Type: application/json\r\n\r\n{}\r\n"+
		"--%[1]s\r\nContent-Type: %[2]s\r\nContent-Disposition: %[3]s\r\n\r\n",
		boundary, f.Type, mediaapi.Disposition(f.Type, f.Name))
	if err == nil {
		_, err = io.Copy(w, f)
	}
	if err == nil {
		_, err = fmt.Fprintf(w, "\r\n--%s--\r\n", boundary)
	}
	if err != nil {
		return fmt.Errorf("write parts of a file: %w", err)
	}
	return nil
}
