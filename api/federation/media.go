package federation

import (
	"context"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
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
	q := media.Request{Server: a.ServerName, ID: mediaID, LoggedIn: true, NoRemote: true, Timeout: usual}
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
// said of it one day.
// spec: server-server-api#get_matrixfederationv1mediadownloadmediaid
func writeFile(w http.ResponseWriter, f *media.File) error {
	parts := multipart.NewWriter(w)
	w.Header().Set("Content-Type", "multipart/mixed; boundary="+parts.Boundary())
	if err := writePart(parts, textproto.MIMEHeader{"Content-Type": {"application/json"}}, nil); err != nil {
		return err
	}
	header := textproto.MIMEHeader{"Content-Type": {f.Type}, "Content-Disposition": {mediaapi.Disposition(f.Type, f.Name)}}
	if err := writePart(parts, header, f); err != nil {
		return err
	}
	return parts.Close()
}

// writePart writes a part; without a file it is an empty object.
func writePart(parts *multipart.Writer, header textproto.MIMEHeader, f *media.File) error {
	part, err := parts.CreatePart(header)
	if err == nil {
		if f == nil {
			_, err = io.WriteString(part, "{}")
		} else {
			_, err = io.Copy(part, f)
		}
	}
	if err != nil {
		return fmt.Errorf("write part of a file: %w", err)
	}
	return nil
}
