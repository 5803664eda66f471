// Package media is the content repository: files that users upload, their
// thumbnails, files of other servers, and previews of URLs.
//
// The bytes lie on disk under their SHA-256, so equal files are kept once; the
// database knows what they are. Files are streamed: nothing here holds a whole
// one in memory. It must not know HTTP requests or responses, which are of
// api/media, nor other homeservers: Remote is told by whoever wires it.
//
// Start at Repository: Upload, Download, Thumbnail, Preview.
// spec: client-server-api#content-repository
package media

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/semaphore"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
)

// Options of a repository. Zero values mean what the comment says.
type Options struct {
	Server        id.Server
	Dir           string
	MaxUpload     int64 // bytes; 0: 50 MiB
	MaxPixels     int64 // larger images get no thumbnails; 0: 32 Mi
	Authenticated bool  // new media is for those who are logged in only (the freeze of the old endpoints)

	PendingLifetime time.Duration // of a media id without a file; 0: a day
	MaxPending      int           // of such ids for each user; 0: five
	Quotas          []Quota

	LocalLifetime  time.Duration // since the last download; 0: for ever
	RemoteLifetime time.Duration // the same for copies of other servers' files

	Previews PreviewOptions

	// Remote fetches a file from the server that has it; nil: we do not federate.
	Remote func(ctx context.Context, server id.Server, mediaID string, timeout time.Duration) (*RemoteFile, error)
}

// Quota bounds how many bytes a user may upload in a span of time.
type Quota struct {
	Period time.Duration
	Size   int64
}

// RemoteFile is a file that another server sends.
type RemoteFile struct {
	Body io.ReadCloser
	Type string // as its Content-Type says
	Name string // as its Content-Disposition says
}

// Meta is what an uploader says of a file.
type Meta struct {
	Type string
	Name string
}

// Repository keeps files. Any goroutine may use it.
type Repository struct {
	o     Options
	store *store.Store
	files files

	// stored is held for reading from the moment a file is put in its place
	// until its row is written, and for writing while files without rows are
	// removed, so that neither misses the other.
	stored sync.RWMutex

	mu       sync.Mutex
	waiting  map[string]*waiters   // by pending media id
	fetching map[fileKey]*fetching // what other servers are being asked for
	accessed map[fileKey]int64     // when files were asked for, not yet written
	decoding *semaphore.Weighted   // bytes of images in memory
	slots    chan struct{}         // images being decoded
	// serverSlots are those of them that other servers wait for.
	serverSlots chan struct{}
	previews    *previews
}

type fileKey struct {
	origin id.Server
	id     string
}

const (
	defaultMaxUpload = 50 << 20
	defaultMaxPixels = 32 << 20
	// decodeSlots and decodeMemory bound what thumbnails cost at any moment.
	decodeSlots  = 2
	serverSlots  = 1 // of these, for other servers
	decodeMemory = 320 << 20
)

// New makes a repository on a folder, which is made if need be.
func New(s *store.Store, o Options) (*Repository, error) {
	if o.MaxUpload == 0 {
		o.MaxUpload = defaultMaxUpload
	}
	if o.MaxPixels == 0 {
		o.MaxPixels = defaultMaxPixels
	}
	if o.PendingLifetime == 0 {
		o.PendingLifetime = 24 * time.Hour
	}
	if o.MaxPending == 0 {
		o.MaxPending = 5
	}
	f, err := openFiles(o.Dir)
	if err != nil {
		return nil, err
	}
	r := &Repository{
		o: o, store: s, files: f,
		waiting:  map[string]*waiters{},
		fetching: map[fileKey]*fetching{},
		accessed: map[fileKey]int64{},
		decoding: semaphore.NewWeighted(decodeMemory),
		slots:    make(chan struct{}, decodeSlots),

		serverSlots: make(chan struct{}, serverSlots),
	}
	if r.previews, err = newPreviews(o.Previews); err != nil {
		return nil, err
	}
	return r, nil
}

// MaxUpload is the largest file that may be uploaded, in bytes.
func (r *Repository) MaxUpload() int64 { return r.o.MaxUpload }

// URI is the mxc:// URI of one of our files.
// spec: client-server-api#matrix-content-mxc-uris
func (r *Repository) URI(mediaID string) string {
	return "mxc://" + string(r.o.Server) + "/" + mediaID
}

// newMediaID is impossible to guess: whoever knows it may see the file.
func newMediaID() string { return rand.Text() }

// ValidID says whether a media id has none but the characters it may have.
// Anything else could be a path.
// spec: client-server-api#content-repo-security-considerations
func ValidID(s string) bool {
	if s == "" || len(s) > 255 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// clean bounds what an uploader or another server says of a file. What is no
// content type becomes the one that promises nothing.
func (m Meta) clean() Meta {
	if len(m.Type) > 255 || !printable(m.Type) {
		m.Type = ""
	}
	if _, _, err := mime.ParseMediaType(m.Type); err != nil {
		m.Type = "application/octet-stream"
	}
	m.Name = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f || c == utf8.RuneError {
			return -1
		}
		return c
	}, m.Name)
	for len(m.Name) > 255 {
		_, n := utf8.DecodeLastRuneInString(m.Name)
		m.Name = m.Name[:len(m.Name)-n]
	}
	return m
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func notFound() error { return errcode.NotFound("there is no such file") }

func tooLarge(most int64) error {
	return errcode.TooLarge("the file is larger than %d bytes", most)
}

func remoteTooLarge(what string) error {
	return errcode.New(http.StatusBadGateway, "M_TOO_LARGE", "%s is too large", what)
}

func wrap(err error, format string, a ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(a, err)...)
}

func now() int64 { return time.Now().UnixMilli() }
