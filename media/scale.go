package media

import (
	"image"
	"image/draw"
)

// bandRows is how many rows of an image are converted at once.
const bandRows = 16

// shrink makes the part cut of an image w by h pixels large, neither more than
// it has. Each new pixel is the average of the area it covers, which needs no
// memory beyond a few rows and lets no detail flicker.
func shrink(src image.Image, cut image.Rectangle, w, h int) *image.RGBA {
	dst := image.NewRGBA(image.Rect(0, 0, w, h))
	band := image.NewRGBA(image.Rect(0, 0, cut.Dx(), min(bandRows, cut.Dy())))
	covered := cut.In(src.Bounds())
	columns := spans(cut.Dx(), w)
	rows := &rowSum{
		dst: dst, row: make([]float32, 4*w), height: cut.Dy(),
		inverse: float32(w) * float32(h) / (float32(cut.Dx()) * float32(cut.Dy())),
	}
	for y := 0; y < cut.Dy(); y += bandRows {
		if !covered {
			clear(band.Pix)
		}
		n := min(bandRows, cut.Dy()-y)
		draw.Draw(band, image.Rect(0, 0, cut.Dx(), n), src, image.Pt(cut.Min.X, cut.Min.Y+y), draw.Src)
		for i := range n {
			rows.add(y+i, columns, band.Pix[i*band.Stride:])
		}
	}
	return dst
}

// span is what one new pixel covers in a row of old ones.
type span struct {
	first, last         int // of the old pixels, last included
	firstPart, lastPart float32
}

func spans(old, new int) []span {
	all := make([]span, new)
	for i := range all {
		from, to := i*old, (i+1)*old // in units of 1/new of an old pixel
		s := span{first: from / new, last: (to - 1) / new}
		s.firstPart = float32((s.first+1)*new-from) / float32(new)
		s.lastPart = float32(to-s.last*new) / float32(new)
		if s.first == s.last {
			s.firstPart, s.lastPart = float32(to-from)/float32(new), 0
		}
		all[i] = s
	}
	return all
}

// rowSum adds up rows of old pixels until a row of new ones is full.
type rowSum struct {
	dst     *image.RGBA
	row     []float32 // of the new row that is being filled, four for each pixel
	height  int       // of the old image
	inverse float32   // of how many old pixels a new one covers
}

// add takes the next old row. A new row covers height/h old ones, and an old
// row may be shared by two new ones.
func (s *rowSum) add(y int, columns []span, pix []byte) {
	h := s.dst.Rect.Dy()
	row := y * h / s.height
	end := (row + 1) * s.height // in units of 1/h of an old row
	part := float32(1)
	if (y+1)*h > (row+1)*s.height {
		part = float32(end-y*h) / float32(h)
	}
	s.accumulate(columns, pix, part)
	if (y+1)*h < end {
		return
	}
	s.finish(row)
	if part < 1 {
		s.accumulate(columns, pix, 1-part)
	}
}

func (s *rowSum) accumulate(columns []span, pix []byte, part float32) {
	for x := range columns {
		c := &columns[x]
		p := pix[4*c.first : 4*c.last+4]
		var r, g, b, a uint32
		for i := 4; i+7 < len(p); i += 4 {
			q := p[i : i+4 : i+4]
			r += uint32(q[0])
			g += uint32(q[1])
			b += uint32(q[2])
			a += uint32(q[3])
		}
		q, z := p[:4:4], p[len(p)-4:]
		f, l := c.firstPart*part, c.lastPart*part
		sum := s.row[4*x : 4*x+4 : 4*x+4]
		sum[0] += float32(r)*part + float32(q[0])*f + float32(z[0])*l
		sum[1] += float32(g)*part + float32(q[1])*f + float32(z[1])*l
		sum[2] += float32(b)*part + float32(q[2])*f + float32(z[2])*l
		sum[3] += float32(a)*part + float32(q[3])*f + float32(z[3])*l
	}
}

func (s *rowSum) finish(row int) {
	out := s.dst.Pix[row*s.dst.Stride:][:len(s.row)]
	for i, v := range s.row {
		out[i] = uint8(min(255, v*s.inverse+0.5))
		s.row[i] = 0
	}
}

// upright turns an image as its Exif orientation says.
func upright(src *image.RGBA, orientation int) *image.RGBA {
	if orientation <= 1 {
		return src
	}
	w, h := src.Rect.Dx(), src.Rect.Dy()
	if orientation >= 5 {
		w, h = h, w
	}
	dst := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			var sx, sy int
			switch orientation {
			case 2:
				sx, sy = w-1-x, y
			case 3:
				sx, sy = w-1-x, h-1-y
			case 4:
				sx, sy = x, h-1-y
			case 5:
				sx, sy = y, x
			case 6:
				sx, sy = y, w-1-x
			case 7:
				sx, sy = h-1-y, w-1-x
			case 8:
				sx, sy = h-1-y, x
			}
			copy(dst.Pix[y*dst.Stride+4*x:][:4], src.Pix[sy*src.Stride+4*sx:][:4])
		}
	}
	return dst
}
