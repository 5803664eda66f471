package media

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// files is a folder of files named after their SHA-256, with their thumbnails beside:
//
//	content/ab/cd/ef…            the file
//	thumbnails/ab/cd/ef…/96x96-crop.png
//	tmp/                         what is being written
//
// A file appears in its place whole and on disk, or not at all.
type files struct{ dir string }

func openFiles(dir string) (files, error) {
	f := files{dir}
	for _, sub := range []string{"content", "thumbnails", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o750); err != nil {
			return f, fmt.Errorf("prepare the media folder: %w", err)
		}
	}
	// What a crash left half written is of no use.
	left, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil {
		return f, fmt.Errorf("prepare the media folder: %w", err)
	}
	for _, e := range left {
		if err := os.Remove(filepath.Join(dir, "tmp", e.Name())); err != nil {
			return f, fmt.Errorf("prepare the media folder: %w", err)
		}
	}
	return f, nil
}

func (f files) content(sha string) string {
	return filepath.Join(f.dir, "content", sha[:2], sha[2:4], sha[4:])
}

func (f files) thumbnails(sha string) string {
	return filepath.Join(f.dir, "thumbnails", sha[:2], sha[2:4], sha[4:])
}

// draft is a file that is being written.
type draft struct {
	files  files
	tmp    *os.File
	length int64
	sha    string
}

// errTooLong is what write returns for a source of more bytes than allowed.
var errTooLong = errors.New("more bytes than allowed")

// write copies a source of at most so many bytes to a temporary file. The
// caller keeps or discards it.
func (f files) write(src io.Reader, most int64) (*draft, error) {
	tmp, err := os.CreateTemp(filepath.Join(f.dir, "tmp"), "")
	if err != nil {
		return nil, fmt.Errorf("write a media file: %w", err)
	}
	d := &draft{files: f, tmp: tmp}
	hash := sha256.New()
	from := &source{Reader: src}
	d.length, err = io.Copy(io.MultiWriter(tmp, hash), io.LimitReader(from, most+1))
	switch {
	case err != nil && from.err != nil:
		err = from.err
	case err != nil:
		err = fmt.Errorf("write a media file: %w", err)
	case d.length > most:
		err = errTooLong
	}
	if err != nil {
		d.discard()
		return nil, err
	}
	d.sha = hex.EncodeToString(hash.Sum(nil))
	return d, nil
}

// source remembers an error of its reader, which is not one of our disk.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// keep puts the file in its place and returns when it is on disk.
func (d *draft) keep() error {
	defer d.discard()
	target := d.files.content(d.sha)
	if _, err := os.Stat(target); err == nil {
		return nil // the same bytes
	}
	if err := d.tmp.Sync(); err != nil {
		return fmt.Errorf("write a media file: %w", err)
	}
	if err := moveDurably(d.tmp.Name(), target); err != nil {
		return fmt.Errorf("write a media file: %w", err)
	}
	return nil
}

// discard removes the temporary file, if it was not moved to its place.
func (d *draft) discard() {
	if d.tmp == nil {
		return
	}
	d.tmp.Close()
	// It has gone already when it was kept; what remains otherwise is removed at the next start.
	_ = os.Remove(d.tmp.Name())
	d.tmp = nil
}

// moveDurably renames a file and syncs the folders whose entries are new.
func moveDurably(from, to string) error {
	dir := filepath.Dir(to)
	_, err := os.Stat(dir)
	fresh := errors.Is(err, fs.ErrNotExist)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	if err := syncDir(dir); err != nil || !fresh {
		return err
	}
	parent := filepath.Dir(dir)
	if err := syncDir(parent); err != nil {
		return err
	}
	return syncDir(filepath.Dir(parent))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (f files) open(sha string) (*os.File, error) { return os.Open(f.content(sha)) }

// remove deletes a file and its thumbnails.
func (f files) remove(sha string) error {
	err := os.Remove(f.content(sha))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(f.thumbnails(sha)))
}

func (f files) openThumbnail(sha, name string) (*os.File, error) {
	return os.Open(filepath.Join(f.thumbnails(sha), name))
}

// keepThumbnail stores what write produces. It is a cache: a crash may lose it.
func (f files) keepThumbnail(sha, name string, write func(io.Writer) error) (*os.File, error) {
	tmp, err := os.CreateTemp(filepath.Join(f.dir, "tmp"), "")
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*os.File, error) {
		tmp.Close()
		_ = os.Remove(tmp.Name()) // the first error counts
		return nil, fmt.Errorf("write a thumbnail: %w", err)
	}
	if err := write(tmp); err != nil {
		return fail(err)
	}
	dir := f.thumbnails(sha)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fail(err)
	}
	if err := os.Rename(tmp.Name(), filepath.Join(dir, name)); err != nil {
		return fail(err)
	}
	if _, err := tmp.Seek(0, io.SeekStart); err != nil {
		return fail(err)
	}
	return tmp, nil
}
