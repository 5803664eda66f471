package media

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store/storetest"
)

const (
	alice = id.User("@alice:localhost")
	bob   = id.User("@bob:localhost")
)

func repository(t testing.TB, change ...func(*Options)) *Repository {
	o := Options{Server: storetest.Server, Dir: t.TempDir(), MaxUpload: 1000, Authenticated: true}
	for _, c := range change {
		c(&o)
	}
	r, err := New(storetest.Open(t, nil), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func upload(t testing.TB, r *Repository, kind string, body []byte) string {
	t.Helper()
	mediaID, err := r.Upload(t.Context(), alice, Meta{Type: kind, Name: "file"}, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return mediaID
}

func local(mediaID string) Request {
	return Request{Server: storetest.Server, ID: mediaID, LoggedIn: true}
}

func read(t testing.TB, f *File, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func wantCode(t testing.TB, err error, status int, code string) {
	t.Helper()
	e, ok := errors.AsType[*errcode.Error](err)
	if !ok || e.Status != status || e.Code != code {
		t.Errorf("got %v, want %d %s", err, status, code)
	}
}

// onDisk lists the files in the media folder.
func onDisk(t testing.TB, r *Repository) (names []string) {
	err := filepath.WalkDir(r.o.Dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			names = append(names, strings.TrimPrefix(path, r.o.Dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestUploadAndDownload(t *testing.T) {
	r := repository(t)
	mediaID, err := r.Upload(t.Context(), alice, Meta{"image/png", "höhe\r\n.png"}, strings.NewReader("hello"))
	if err != nil || !ValidID(mediaID) {
		t.Fatal(mediaID, err)
	}
	f, err := r.Download(t.Context(), local(mediaID))
	if got := read(t, f, err); got != "hello" || f.Type != "image/png" || f.Name != "höhe.png" || f.Length != 5 || !f.LoggedIn {
		t.Errorf("%q %+v", got, f)
	}
	empty := upload(t, r, "", nil)
	f, err = r.Download(t.Context(), local(empty))
	if got := read(t, f, err); got != "" || f.Type != "application/octet-stream" {
		t.Errorf("empty file: %q %+v", got, f)
	}
}

func TestEqualFilesAreKeptOnce(t *testing.T) {
	r := repository(t)
	a, b := upload(t, r, "text/plain", []byte("same")), upload(t, r, "text/html", []byte("same"))
	if n := len(onDisk(t, r)); n != 1 {
		t.Errorf("%d files on disk", n)
	}
	if err := r.Delete(t.Context(), storetest.Server, a); err != nil {
		t.Fatal(err)
	}
	_, err := r.Download(t.Context(), local(a))
	wantCode(t, err, 404, "M_NOT_FOUND")
	f, err := r.Download(t.Context(), local(b))
	if got := read(t, f, err); got != "same" || f.Type != "text/html" {
		t.Errorf("the other file: %q %q", got, f.Type)
	}
	if err := r.Delete(t.Context(), storetest.Server, b); err != nil {
		t.Fatal(err)
	}
	if left := onDisk(t, r); len(left) != 0 {
		t.Errorf("left on disk: %v", left)
	}
}

// spec: client-server-api#content-repo-security-considerations
func TestSizeLimit(t *testing.T) {
	r := repository(t)
	upload(t, r, "", make([]byte, 1000))
	_, err := r.Upload(t.Context(), alice, Meta{}, bytes.NewReader(make([]byte, 1001)))
	wantCode(t, err, 413, "M_TOO_LARGE")
	broken := io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(io.ErrUnexpectedEOF))
	if _, err := r.Upload(t.Context(), alice, Meta{}, broken); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("upload that broke off: %v", err)
	}
	if n := len(onDisk(t, r)); n != 1 {
		t.Errorf("%d files on disk", n)
	}
}

func TestWhatACrashLeftIsRemoved(t *testing.T) {
	r := repository(t)
	if err := os.WriteFile(filepath.Join(r.o.Dir, "tmp", "123"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(r.store, r.o); err != nil {
		t.Fatal(err)
	}
	if left := onDisk(t, r); len(left) != 0 {
		t.Errorf("left on disk: %v", left)
	}
}

// CVE-2021-41281 of Synapse.
func TestMediaIDsAreNoPaths(t *testing.T) {
	r := repository(t, func(o *Options) {
		o.Remote = func(context.Context, id.Server, string, time.Duration) (*RemoteFile, error) {
			return nil, errors.New("asked for it")
		}
	})
	for _, bad := range []string{"", ".", "..", "../../etc/passwd", "a/b", "a.b", "a%2fb", "a\x00b", "ä", strings.Repeat("a", 256)} {
		for _, server := range []id.Server{storetest.Server, "remote.example"} {
			_, err := r.Download(t.Context(), Request{Server: server, ID: bad, LoggedIn: true})
			wantCode(t, err, 404, "M_NOT_FOUND")
		}
	}
}

// spec: client-server-api#content-repo-client-behaviour
func TestFreezeOfTheOldEndpoints(t *testing.T) {
	r := repository(t)
	fresh := upload(t, r, "text/plain", []byte("new"))
	r.o.Authenticated = false
	old := upload(t, r, "text/plain", []byte("old"))
	r.o.Authenticated = true
	f, err := r.Download(t.Context(), Request{Server: storetest.Server, ID: old})
	read(t, f, err)
	_, err = r.Download(t.Context(), Request{Server: storetest.Server, ID: fresh})
	wantCode(t, err, 404, "M_NOT_FOUND")
}

// spec: client-server-api#post_matrixmediav1create
func TestMediaIDBeforeItsFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := repository(t)
		mediaID, expires, err := r.Create(t.Context(), alice)
		if err != nil || expires != time.Now().Add(24*time.Hour).UnixMilli() {
			t.Fatal(expires, err)
		}
		start := time.Now()
		q := local(mediaID)
		q.Timeout = 5 * time.Second
		_, err = r.Download(t.Context(), q)
		wantCode(t, err, 504, "M_NOT_YET_UPLOADED")
		if waited := time.Since(start); waited != q.Timeout {
			t.Errorf("waited %s", waited)
		}
		start, q.Timeout = time.Now(), 24*time.Hour
		_, err = r.Download(t.Context(), q)
		wantCode(t, err, 504, "M_NOT_YET_UPLOADED")
		if waited := time.Since(start); waited != maxWait {
			t.Errorf("waited %s", waited)
		}

		err = r.UploadTo(t.Context(), bob, storetest.Server, mediaID, Meta{}, strings.NewReader("x"))
		wantCode(t, err, 403, "M_FORBIDDEN")
		err = r.UploadTo(t.Context(), alice, storetest.Server, "unknown", Meta{}, strings.NewReader("x"))
		wantCode(t, err, 404, "M_NOT_FOUND")
		err = r.UploadTo(t.Context(), alice, "remote.example", mediaID, Meta{}, strings.NewReader("x"))
		wantCode(t, err, 404, "M_NOT_FOUND")
		if err = r.UploadTo(t.Context(), alice, storetest.Server, mediaID, Meta{Type: "text/plain"}, strings.NewReader("hello")); err != nil {
			t.Fatal(err)
		}
		f, err := r.Download(t.Context(), q)
		if got := read(t, f, err); got != "hello" || f.Type != "text/plain" {
			t.Errorf("%q %q", got, f.Type)
		}
		err = r.UploadTo(t.Context(), alice, storetest.Server, mediaID, Meta{}, strings.NewReader("other"))
		wantCode(t, err, 409, "M_CANNOT_OVERWRITE_MEDIA")
		if len(r.waiting) != 0 {
			t.Errorf("still waiting: %v", r.waiting)
		}
	})
}

func TestDownloadWaitsForTheUpload(t *testing.T) {
	r := repository(t)
	mediaID, _, err := r.Create(t.Context(), alice)
	if err != nil {
		t.Fatal(err)
	}
	q := local(mediaID)
	q.Timeout = time.Minute
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			f, err := r.Download(t.Context(), q)
			if err != nil {
				t.Error(err)
				return
			}
			f.Close()
		})
	}
	if err := r.UploadTo(t.Context(), alice, storetest.Server, mediaID, Meta{}, strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	all.Wait()
}

func TestPendingMediaIDsAreFewAndExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := repository(t)
		var first string
		for i := range 5 {
			mediaID, _, err := r.Create(t.Context(), alice)
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				first = mediaID
				time.Sleep(time.Hour)
			}
		}
		_, _, err := r.Create(t.Context(), alice)
		wantCode(t, err, 429, "M_LIMIT_EXCEEDED")
		if e, _ := errors.AsType[*errcode.Error](err); e.Extra["retry_after_ms"] != (23 * time.Hour).Milliseconds() {
			t.Errorf("come back after %v", e.Extra)
		}
		if _, _, err := r.Create(t.Context(), bob); err != nil {
			t.Errorf("bob pays for alice: %v", err)
		}
		time.Sleep(23 * time.Hour)
		_, err = r.Download(t.Context(), local(first))
		wantCode(t, err, 404, "M_NOT_FOUND")
		err = r.UploadTo(t.Context(), alice, storetest.Server, first, Meta{}, strings.NewReader("late"))
		wantCode(t, err, 404, "M_NOT_FOUND")
		if _, _, err := r.Create(t.Context(), alice); err != nil {
			t.Errorf("one has expired: %v", err)
		}
		if err := r.Clean(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, err = r.Find(t.Context(), storetest.Server, first)
		wantCode(t, err, 404, "M_NOT_FOUND")
	})
}

func TestQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := repository(t, func(o *Options) { o.Quotas = []Quota{{time.Hour, 10}} })
		upload(t, r, "", make([]byte, 6))
		_, err := r.Upload(t.Context(), alice, Meta{}, bytes.NewReader(make([]byte, 5)))
		wantCode(t, err, 403, "M_FORBIDDEN")
		upload(t, r, "", make([]byte, 4))
		_, err = r.Upload(t.Context(), alice, Meta{}, strings.NewReader(""))
		wantCode(t, err, 403, "M_FORBIDDEN")
		time.Sleep(time.Hour + time.Millisecond)
		upload(t, r, "", make([]byte, 5))
	})
}

func TestRemoteFilesAreFetchedOnce(t *testing.T) {
	var asked int
	arrived, answer := make(chan struct{}), make(chan struct{})
	r := repository(t, func(o *Options) {
		o.Remote = func(_ context.Context, server id.Server, mediaID string, _ time.Duration) (*RemoteFile, error) {
			asked++ // one at a time, or the race detector sees it
			close(arrived)
			<-answer
			return &RemoteFile{io.NopCloser(strings.NewReader(string(server) + "/" + mediaID)), "image/gif", "a.gif"}, nil
		}
	})
	q := Request{Server: "remote.example", ID: "abc", LoggedIn: true}
	q.NoRemote = true
	_, err := r.Download(t.Context(), q)
	wantCode(t, err, 404, "M_NOT_FOUND")
	q.NoRemote, q.LoggedIn = false, false
	_, err = r.Download(t.Context(), q)
	wantCode(t, err, 404, "M_NOT_FOUND")
	q.LoggedIn = true
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			f, err := r.Download(t.Context(), q)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if b, _ := io.ReadAll(f); string(b) != "remote.example/abc" || f.Type != "image/gif" || f.Name != "a.gif" {
				t.Errorf("%q %+v", b, f)
			}
		})
	}
	<-arrived
	close(answer)
	all.Wait()
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}

// Those who wait while a file is fetched for somebody else need not each find out anew
// that it is not to be had, unless that one had less patience or went away.
func TestRemoteFailuresAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		r := repository(t, func(o *Options) {
			o.Remote = func(ctx context.Context, _ id.Server, _ string, timeout time.Duration) (*RemoteFile, error) {
				asked++
				select {
				case <-time.After(timeout):
					return nil, errcode.New(504, "M_NOT_YET_UPLOADED", "wait")
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
		})
		download := func(ctx context.Context, timeout, within time.Duration) {
			start := time.Now()
			_, err := r.Download(ctx, Request{Server: "remote.example", ID: "abc", LoggedIn: true, Timeout: timeout})
			if took := time.Since(start); took > within {
				t.Errorf("waited for %v: %v", took, err)
			}
			if ctx.Err() == nil {
				wantCode(t, err, 504, "M_NOT_YET_UPLOADED")
			}
		}
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() { download(t.Context(), 20*time.Second, 20*time.Second) })
		}
		all.Wait()
		if asked != 1 {
			t.Errorf("asked %d times", asked)
		}
		leaving, leave := context.WithCancel(t.Context())
		asked = 0
		all.Go(func() { download(leaving, 20*time.Second, time.Second) })
		synctest.Wait()
		all.Go(func() { download(t.Context(), 20*time.Second, 21*time.Second) })
		time.Sleep(time.Second)
		leave()
		all.Wait()
		all.Go(func() { download(t.Context(), 5*time.Second, 5*time.Second) })
		synctest.Wait()
		all.Go(func() { download(t.Context(), 20*time.Second, 25*time.Second) })
		all.Wait()
		if asked != 4 {
			t.Errorf("asked %d times for those with more patience", asked)
		}
	})
}

func TestRemoteFailures(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer *RemoteFile
		err    error
		status int
		code   string
	}{
		{"too large", &RemoteFile{Body: io.NopCloser(bytes.NewReader(make([]byte, 1001)))}, nil, 502, "M_TOO_LARGE"},
		{"broken off", &RemoteFile{Body: io.NopCloser(iotest.ErrReader(io.ErrUnexpectedEOF))}, nil, 502, "M_UNKNOWN"},
		{"no answer", nil, errors.New("connection refused"), 502, "M_UNKNOWN"},
		{"not there", nil, errcode.NotFound("no such media"), 404, "M_NOT_FOUND"},
		{"later", nil, errcode.New(504, "M_NOT_YET_UPLOADED", "wait"), 504, "M_NOT_YET_UPLOADED"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := repository(t, func(o *Options) {
				o.Remote = func(context.Context, id.Server, string, time.Duration) (*RemoteFile, error) {
					return test.answer, test.err
				}
			})
			_, err := r.Download(t.Context(), Request{Server: "remote.example", ID: "abc", LoggedIn: true})
			wantCode(t, err, test.status, test.code)
			if left := onDisk(t, r); len(left) != 0 {
				t.Errorf("left on disk: %v", left)
			}
		})
	}
	r := repository(t)
	_, err := r.Download(t.Context(), Request{Server: "remote.example", ID: "abc", LoggedIn: true})
	wantCode(t, err, 404, "M_NOT_FOUND")
}

func TestQuarantine(t *testing.T) {
	r := repository(t)
	mediaID := upload(t, r, "text/plain", []byte("bad"))
	if err := r.SetQuarantine(t.Context(), storetest.Server, mediaID, "@admin:localhost"); err != nil {
		t.Fatal(err)
	}
	_, err := r.Download(t.Context(), local(mediaID))
	wantCode(t, err, 404, "M_NOT_FOUND")
	if err := r.SetQuarantine(t.Context(), storetest.Server, mediaID, ""); err != nil {
		t.Fatal(err)
	}
	f, err := r.Download(t.Context(), local(mediaID))
	read(t, f, err)
}

func TestUnusedFilesAreRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := repository(t, func(o *Options) {
			o.LocalLifetime, o.RemoteLifetime = 90*24*time.Hour, 24*time.Hour
			o.Remote = func(context.Context, id.Server, string, time.Duration) (*RemoteFile, error) {
				return &RemoteFile{Body: io.NopCloser(strings.NewReader("remote"))}, nil
			}
		})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		used, unused := upload(t, r, "", []byte("used")), upload(t, r, "", []byte("unused"))
		f, err := r.Download(t.Context(), Request{Server: "remote.example", ID: "abc", LoggedIn: true})
		read(t, f, err)
		for range 100 {
			time.Sleep(24 * time.Hour)
			f, err := r.Download(t.Context(), local(used))
			read(t, f, err)
		}
		_, err = r.Download(t.Context(), local(unused))
		wantCode(t, err, 404, "M_NOT_FOUND")
		_, err = r.Find(t.Context(), "remote.example", "abc")
		wantCode(t, err, 404, "M_NOT_FOUND")
		if files := onDisk(t, r); len(files) != 1 {
			t.Errorf("on disk: %v", files)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func BenchmarkUpload(b *testing.B) {
	for _, size := range []int{10 << 10, 10 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			r := repository(b, func(o *Options) { o.MaxUpload = 50 << 20 })
			body := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				copy(body, fmt.Sprint(i)) // a new file each time
				upload(b, r, "", body)
			}
		})
	}
}
