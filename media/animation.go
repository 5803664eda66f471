package media

import (
	"bufio"
	"errors"
	"image"
	"image/color"
	"image/draw"
	"image/gif"
	"io"
)

// Animations of more than maxFrames, or that need more than animationMemory
// bytes, are shown as they are.
const (
	maxFrames       = 120
	animationMemory = 64 << 20
)

// scalable says whether an animated thumbnail can be made of an image. There
// is no encoder for animated formats other than GIF.
func (p *picture) scalable() bool {
	return p.format == formatGIF && p.frames <= maxFrames && p.allFrames() <= animationMemory
}

// allFrames estimates what decoding a whole GIF takes, in bytes.
func (p *picture) allFrames() int64 {
	const canvases = 8 // two, of four bytes for each pixel
	return int64(p.width) * int64(p.height) * int64(p.frames+canvases)
}

// countGIFFrames counts the images in a GIF up to a number, without decoding them.
func countGIFFrames(r *bufio.Reader, most int) (n int) {
	var head [13]byte
	if _, err := io.ReadFull(r, head[:]); err != nil || !skipColors(r, head[10]) {
		return 0
	}
	for n < most {
		kind, err := r.ReadByte()
		if err != nil {
			return n
		}
		switch kind {
		case 0x21: // extension: a label, then blocks
			if _, err := r.Discard(1); err != nil {
				return n
			}
		case 0x2c: // image: its place, its colors, the size of codes, then blocks
			var place [9]byte
			if _, err := io.ReadFull(r, place[:]); err != nil || !skipColors(r, place[8]) {
				return n
			}
			if _, err := r.Discard(1); err != nil {
				return n
			}
			n++
		default:
			return n
		}
		if !skipBlocks(r) {
			return n
		}
	}
	return n
}

func skipColors(r *bufio.Reader, flags byte) bool {
	if flags&0x80 == 0 {
		return true
	}
	_, err := r.Discard(3 << (flags&7 + 1))
	return err == nil
}

func skipBlocks(r *bufio.Reader) bool {
	for {
		n, err := r.ReadByte()
		if err != nil || n == 0 {
			return err == nil
		}
		if _, err := r.Discard(int(n)); err != nil {
			return false
		}
	}
}

// scaleGIF makes an animated thumbnail. Frames of a GIF may be parts that are
// drawn over the ones before, so each is composed before it is scaled.
func scaleGIF(r io.Reader, plan thumbnailPlan) (*gif.GIF, error) {
	anim, err := gif.DecodeAll(bufio.NewReader(r))
	if err != nil {
		return nil, err
	}
	if len(anim.Image) == 0 {
		return nil, errors.New("a GIF without images")
	}
	bounds := image.Rect(0, 0, anim.Config.Width, anim.Config.Height)
	canvas := image.NewRGBA(bounds)
	var before *image.RGBA
	out := &gif.GIF{Delay: anim.Delay, LoopCount: anim.LoopCount, Config: image.Config{Width: plan.width, Height: plan.height}}
	for i, frame := range anim.Image {
		disposal := anim.Disposal[i]
		if disposal == gif.DisposalPrevious {
			if before == nil {
				before = image.NewRGBA(bounds)
			}
			copy(before.Pix, canvas.Pix)
		}
		draw.Draw(canvas, frame.Bounds(), frame, frame.Bounds().Min, draw.Over)
		small := shrink(canvas, plan.cut, plan.width, plan.height)
		anim.Image[i] = nil // frees the original frame
		out.Image = append(out.Image, paletted(small, frame.Palette))
		// Each frame is whole, so none of the ones before may shine through.
		out.Disposal = append(out.Disposal, gif.DisposalBackground)
		switch disposal {
		case gif.DisposalBackground:
			draw.Draw(canvas, frame.Bounds(), image.Transparent, image.Point{}, draw.Src)
		case gif.DisposalPrevious:
			copy(canvas.Pix, before.Pix)
		}
	}
	return out, nil
}

// paletted gives an image the colors of a frame's palette, and one that is
// transparent if there is none.
func paletted(src *image.RGBA, colors color.Palette) *image.Paletted {
	clearIndex := -1
	for i, c := range colors {
		if _, _, _, a := c.RGBA(); a == 0 {
			clearIndex = i
		}
	}
	palette := append(color.Palette(nil), colors...)
	if clearIndex < 0 && !src.Opaque() {
		if len(palette) == 256 {
			palette = palette[:255]
		}
		clearIndex = len(palette)
		palette = append(palette, color.RGBA{})
	}
	dst := image.NewPaletted(src.Rect, palette)
	known := map[uint32]uint8{} // neighbouring pixels are often the same
	for y := range src.Rect.Dy() {
		for x := range src.Rect.Dx() {
			p := src.Pix[y*src.Stride+4*x:][:4:4]
			if p[3] < 0x80 && clearIndex >= 0 {
				dst.Pix[y*dst.Stride+x] = uint8(clearIndex)
				continue
			}
			// Coarse steps keep the table small; nobody sees them in a thumbnail.
			key := uint32(p[0]>>2)<<16 | uint32(p[1]>>2)<<8 | uint32(p[2]>>2)
			index, ok := known[key]
			if !ok {
				index = uint8(palette.Index(color.RGBA{p[0], p[1], p[2], 0xff}))
				known[key] = index
			}
			dst.Pix[y*dst.Stride+x] = index
		}
	}
	return dst
}
