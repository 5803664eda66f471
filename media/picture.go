package media

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"

	"golang.org/x/image/webp"
)

// format is a kind of image that is decoded here. Nothing else is: every
// decoder is a risk.
type format int

const (
	formatJPEG format = iota
	formatPNG
	formatGIF
	formatWebP
)

func (f format) contentType() string {
	return [...]string{"image/jpeg", "image/png", "image/gif", "image/webp"}[f]
}

func (f format) extension() string { return [...]string{"jpg", "png", "gif", "webp"}[f] }

// picture is what is known of an image before it is decoded.
type picture struct {
	format        format
	width, height int // as stored
	model         color.Model
	animated      bool
	frames        int // of a GIF, as far as they were counted
	progressive   bool
	orientation   int        // 1 to 8, as Exif has it; 0: not told
	first         *webpFrame // of an animated WebP
}

// webpFrame is one frame of an animated WebP.
type webpFrame struct {
	width, height int
	alpha         bool // it has an alpha channel of its own
	chunks        *io.SectionReader
}

var errNoPicture = errors.New("not an image of a known kind")

// inspect reads the head of a file; whatever its content type claims, the
// bytes decide.
func inspect(src io.ReaderAt, length int64) (*picture, error) {
	var magic [12]byte
	if n, err := src.ReadAt(magic[:], 0); n < len(magic) {
		if err == io.EOF {
			err = errNoPicture
		}
		return nil, err
	}
	p := &picture{}
	var config image.Config
	var err error
	whole := func() *bufio.Reader { return bufio.NewReader(io.NewSectionReader(src, 0, length)) }
	switch m := string(magic[:]); {
	case m[:3] == "\xff\xd8\xff":
		p.format = formatJPEG
		if config, err = jpeg.DecodeConfig(whole()); err == nil {
			p.readJPEG(whole())
		}
	case m[:8] == "\x89PNG\r\n\x1a\n":
		p.format = formatPNG
		if config, err = png.DecodeConfig(whole()); err == nil {
			p.animated = hasPNGAnimation(whole())
		}
	case m[:6] == "GIF87a" || m[:6] == "GIF89a":
		p.format = formatGIF
		if config, err = gif.DecodeConfig(whole()); err == nil {
			p.frames = countGIFFrames(whole(), maxFrames+1)
			p.animated = p.frames > 1
		}
	case m[:4] == "RIFF" && m[8:] == "WEBP":
		p.format = formatWebP
		config, err = p.readWebP(src, length)
	default:
		return nil, errNoPicture
	}
	if err != nil {
		return nil, err
	}
	if config.Width <= 0 || config.Height <= 0 {
		return nil, errNoPicture
	}
	p.width, p.height, p.model = config.Width, config.Height, config.ColorModel
	return p, nil
}

func (p *picture) contentType() string { return p.format.contentType() }

// uprightSize is the size as the image is looked at.
func (p *picture) uprightSize() (w, h int) {
	if p.orientation >= 5 {
		return p.height, p.width
	}
	return p.width, p.height
}

// stored is where a part of the image as looked at lies in the image as stored.
func (p *picture) stored(r image.Rectangle) image.Rectangle {
	if p.orientation >= 5 {
		return image.Rect(r.Min.Y, r.Min.X, r.Max.Y, r.Max.X)
	}
	return r
}

func (p *picture) thumbnailFormat() format {
	if p.format == formatJPEG || p.format == formatWebP && p.model == color.YCbCrModel {
		return formatJPEG
	}
	return formatPNG
}

// memory estimates from above what decoding takes, in bytes.
func (p *picture) memory() int64 {
	pixels := int64(p.width) * int64(p.height)
	switch p.format {
	case formatJPEG:
		if p.progressive {
			return pixels * 15 // all coefficients are kept
		}
		return pixels * 4
	case formatPNG:
		if p.model == color.NRGBA64Model || p.model == color.RGBA64Model {
			return pixels * 8
		}
		return pixels * 5
	case formatGIF:
		return pixels * 2
	}
	return pixels * 8
}

// decode decodes the image; of an animated one, the first frame.
func (p *picture) decode(src io.ReaderAt, length int64) (image.Image, error) {
	whole := bufio.NewReader(io.NewSectionReader(src, 0, length))
	switch p.format {
	case formatJPEG:
		return jpeg.Decode(whole)
	case formatPNG:
		return png.Decode(whole)
	case formatGIF:
		return gif.Decode(whole)
	}
	if p.first != nil {
		return webp.Decode(p.first.file())
	}
	return webp.Decode(whole)
}

// readJPEG looks for what jpeg.DecodeConfig does not tell: Exif's orientation
// and whether the image is progressive. A file that is odd here may still decode.
func (p *picture) readJPEG(r *bufio.Reader) {
	if _, err := r.Discard(2); err != nil {
		return
	}
	for {
		var head [4]byte
		if _, err := io.ReadFull(r, head[:]); err != nil || head[0] != 0xff {
			return
		}
		size := int(binary.BigEndian.Uint16(head[2:])) - 2
		switch marker := head[1]; {
		case size < 0 || marker == 0xda: // start of scan
			return
		case marker == 0xc2:
			p.progressive = true
		case marker == 0xe1 && p.orientation == 0:
			segment := make([]byte, size)
			if _, err := io.ReadFull(r, segment); err != nil {
				return
			}
			p.orientation = exifOrientation(segment)
			continue
		}
		if _, err := r.Discard(size); err != nil {
			return
		}
	}
}

// exifOrientation finds tag 0x0112 in the first directory of an APP1 segment; 0: there is none.
func exifOrientation(b []byte) int {
	if len(b) < 14 || string(b[:6]) != "Exif\x00\x00" {
		return 0
	}
	b = b[6:]
	var order binary.ByteOrder
	switch string(b[:4]) {
	case "II*\x00":
		order = binary.LittleEndian
	case "MM\x00*":
		order = binary.BigEndian
	default:
		return 0
	}
	at := int64(order.Uint32(b[4:]))
	if at+2 > int64(len(b)) {
		return 0
	}
	entries := b[at+2:]
	for n := int(order.Uint16(b[at:])); n > 0 && len(entries) >= 12; n, entries = n-1, entries[12:] {
		const orientation, short = 0x0112, 3
		if order.Uint16(entries) == orientation && order.Uint16(entries[2:]) == short {
			if v := order.Uint16(entries[8:]); v >= 1 && v <= 8 {
				return int(v)
			}
			return 0
		}
	}
	return 0
}

// hasPNGAnimation says whether an APNG's control chunk comes before the image.
func hasPNGAnimation(r *bufio.Reader) bool {
	if _, err := r.Discard(8); err != nil {
		return false
	}
	for {
		var head [8]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return false
		}
		switch string(head[4:]) {
		case "acTL":
			return true
		case "IDAT", "IEND":
			return false
		}
		size := int64(binary.BigEndian.Uint32(head[:4])) + 4 // and its checksum
		if _, err := io.CopyN(io.Discard, r, size); err != nil {
			return false
		}
	}
}

// readWebP reads the head of a WebP file and finds the first frame of an animation.
func (p *picture) readWebP(src io.ReaderAt, length int64) (image.Config, error) {
	config, err := webp.DecodeConfig(bufio.NewReader(io.NewSectionReader(src, 0, length)))
	var head [10]byte
	var chunk [8]byte
	for at := int64(12); at+8 <= length; {
		if _, e := src.ReadAt(chunk[:], at); e != nil {
			return config, fmt.Errorf("read WebP: %w", e)
		}
		size := int64(binary.LittleEndian.Uint32(chunk[4:]))
		body := at + 8
		if size > length-body {
			return config, err
		}
		switch string(chunk[:4]) {
		case "VP8X":
			if _, e := src.ReadAt(head[:], body); e != nil || size < 10 {
				return config, errNoPicture
			}
			if p.animated = head[0]&2 != 0; !p.animated {
				return config, err
			}
			config = image.Config{ColorModel: color.NRGBAModel, Width: 1 + uint24(head[4:]), Height: 1 + uint24(head[7:])}
		case "ANMF":
			const frameHead = 16
			var place [frameHead]byte
			if _, e := src.ReadAt(place[:], body); e != nil || !p.animated || size < frameHead {
				return config, errNoPicture
			}
			p.first = &webpFrame{
				width: 1 + uint24(place[6:]), height: 1 + uint24(place[9:]),
				chunks: io.NewSectionReader(src, body+frameHead, size-frameHead),
			}
			var name [4]byte
			_, e := p.first.chunks.ReadAt(name[:], 0)
			p.first.alpha = e == nil && string(name[:]) == "ALPH"
			return config, nil
		case "VP8 ", "VP8L":
			return config, err
		}
		at = body + size + size&1
	}
	return config, errNoPicture
}

func uint24(b []byte) int { return int(b[0]) | int(b[1])<<8 | int(b[2])<<16 }

func appendUint24(b []byte, n int) []byte { return append(b, byte(n), byte(n>>8), byte(n>>16)) }

// file is the frame as a file of its own.
func (f *webpFrame) file() io.Reader {
	var head []byte
	if f.alpha {
		head = append(head, "VP8X\x0a\x00\x00\x00\x10\x00\x00\x00"...)
		head = appendUint24(head, f.width-1)
		head = appendUint24(head, f.height-1)
	}
	file := append([]byte("RIFF"), 0, 0, 0, 0)
	binary.LittleEndian.PutUint32(file[4:], uint32(4+int64(len(head))+f.chunks.Size()))
	file = append(append(file, "WEBP"...), head...)
	return bufio.NewReader(io.MultiReader(bytes.NewReader(file), io.NewSectionReader(f.chunks, 0, f.chunks.Size())))
}
