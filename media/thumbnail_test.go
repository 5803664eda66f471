package media

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"math/rand/v2"
	"testing"

	"hearth/store/storetest"
)

// testImage has a red left half, a blue right half and a green top row.
func testImage(w, h int) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	draw.Draw(img, image.Rect(0, 0, w/2, h), image.NewUniform(color.RGBA{255, 0, 0, 255}), image.Point{}, draw.Src)
	draw.Draw(img, image.Rect(w/2, 0, w, h), image.NewUniform(color.RGBA{0, 0, 255, 255}), image.Point{}, draw.Src)
	draw.Draw(img, image.Rect(0, 0, w, h/8), image.NewUniform(color.RGBA{0, 255, 0, 255}), image.Point{}, draw.Src)
	return img
}

func encoded(t testing.TB, encode func(io.Writer) error) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := encode(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func pngOf(t testing.TB, img image.Image) []byte {
	return encoded(t, func(w io.Writer) error { return png.Encode(w, img) })
}

func jpegOf(t testing.TB, img image.Image) []byte {
	return encoded(t, func(w io.Writer) error { return jpeg.Encode(w, img, nil) })
}

// withExif adds an orientation to a JPEG, as a camera does.
func withExif(body []byte, orientation int) []byte {
	tiff := "Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00" + string(rune(orientation)) + "\x00\x00\x00\x00\x00\x00"
	segment := append([]byte{0xff, 0xe1}, byte((len(tiff)+2)>>8), byte(len(tiff)+2))
	return append(append(append([]byte{}, body[:2]...), append(segment, tiff...)...), body[2:]...)
}

func gifOf(t testing.TB, w, h, frames int) []byte {
	anim := &gif.GIF{}
	for i := range frames {
		p := image.NewPaletted(image.Rect(0, 0, w, h), color.Palette{color.Black, color.White, color.RGBA{255, 0, 0, 255}, color.Transparent})
		draw.Draw(p, image.Rect(0, 0, w, h), image.NewUniform(color.White), image.Point{}, draw.Src)
		draw.Draw(p, image.Rect(i*w/frames, 0, (i+1)*w/frames, h), image.NewUniform(color.Black), image.Point{}, draw.Src)
		anim.Image, anim.Delay = append(anim.Image, p), append(anim.Delay, 5)
	}
	return encoded(t, func(w io.Writer) error { return gif.EncodeAll(w, anim) })
}

// smallWebP is one pixel.
const smallWebP = "UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA=="

func webpOf(t testing.TB) []byte {
	b, err := base64.StdEncoding.DecodeString(smallWebP)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// animatedWebP wraps the same in an animation of two frames on a canvas of 40 by 40.
func animatedWebP(t testing.TB) []byte {
	still := webpOf(t)[12:]
	body := []byte("WEBPVP8X\x0a\x00\x00\x00\x02\x00\x00\x00\x27\x00\x00\x27\x00\x00ANIM\x06\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	for range 2 {
		body = append(body, "ANMF"...)
		body = binary.LittleEndian.AppendUint32(body, uint32(16+len(still)))
		body = append(body, make([]byte, 16)...)
		body = append(body, still...)
	}
	return append(binary.LittleEndian.AppendUint32([]byte("RIFF"), uint32(len(body))), body...)
}

func largeRepository(t testing.TB) *Repository {
	return repository(t, func(o *Options) { o.MaxUpload = 50 << 20 })
}

func thumbnail(t testing.TB, r *Repository, mediaID string, size Size) (image.Image, *File) {
	t.Helper()
	f, err := r.Thumbnail(t.Context(), local(mediaID), size)
	body := read(t, f, err)
	img, kind, err := image.Decode(bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	if f.Type != "image/"+kind || f.Length != int64(len(body)) {
		t.Errorf("%s of %d bytes, served as %s of %d", kind, len(body), f.Type, f.Length)
	}
	return img, f
}

// spec: client-server-api#thumbnails
func TestThumbnailSizes(t *testing.T) {
	for _, test := range []struct {
		w, h          int // of the original
		size          Size
		wantW, wantH  int
		wantsOriginal bool
	}{
		{1000, 500, Size{Width: 320, Height: 240}, 320, 160, false},
		{1000, 500, Size{Width: 300, Height: 100}, 320, 160, false},
		{500, 1000, Size{Width: 640, Height: 480}, 240, 480, false},
		{1000, 500, Size{Width: 32, Height: 32}, 32, 16, false},
		{1000, 500, Size{Width: 96, Height: 96, Crop: true}, 96, 96, false},
		{1000, 500, Size{Width: 90, Height: 90, Crop: true}, 96, 96, false},
		{1000, 500, Size{Width: 200, Height: 50, Crop: true}, 320, 160, false},
		{1000, 500, Size{Width: 50, Height: 200, Crop: true}, 160, 320, false},
		{1000, 500, Size{Width: 600, Height: 600, Crop: true}, 500, 500, false}, // not enlarged
		{100, 50, Size{Width: 320, Height: 240}, 0, 0, true},                    // smaller than wanted
		{100, 50, Size{Width: 100, Height: 50, Crop: true}, 0, 0, true},
		{300, 200, Size{Width: 310, Height: 100}, 0, 0, true},
		{5000, 4000, Size{Width: 3000, Height: 3000}, 0, 0, true}, // nothing smaller would do
		{10000, 1, Size{Width: 32, Height: 32}, 32, 1, false},
		{10000, 1, Size{Width: 32, Height: 32, Crop: true}, 1, 1, false},
		{40, 10000, Size{Width: 1 << 30, Height: 1, Crop: true}, 0, 0, true},
	} {
		plan := planThumbnail(&picture{format: formatPNG, width: test.w, height: test.h}, test.size)
		if plan.original != test.wantsOriginal || !plan.original && (plan.width != test.wantW || plan.height != test.wantH) {
			t.Errorf("%dx%d for %+v: got %+v", test.w, test.h, test.size, plan)
		}
		if !plan.cut.In(image.Rect(0, 0, test.w, test.h)) || plan.cut.Dx() < plan.width || plan.cut.Dy() < plan.height {
			t.Errorf("%dx%d for %+v: %+v enlarges", test.w, test.h, test.size, plan)
		}
	}
}

func TestThumbnailsNeverEnlarge(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		pic := &picture{format: formatPNG, width: 1 + rnd.IntN(3000), height: 1 + rnd.IntN(3000), orientation: rnd.IntN(9)}
		size := Size{Width: 1 + rnd.IntN(2000), Height: 1 + rnd.IntN(2000), Crop: rnd.IntN(2) == 0}
		plan := planThumbnail(pic, size)
		w, h := pic.uprightSize()
		if !plan.cut.In(image.Rect(0, 0, w, h)) || plan.cut.Dx() < plan.width || plan.cut.Dy() < plan.height || plan.width < 1 || plan.height < 1 {
			t.Fatalf("%+v for %+v: %+v", pic, size, plan)
		}
		if !plan.original && plan.width < size.Width && plan.height < size.Height && plan.width < w && plan.height < h {
			t.Fatalf("%+v for %+v: %+v is smaller than wanted", pic, size, plan)
		}
	}
}

func TestThumbnailOfEachFormat(t *testing.T) {
	r := largeRepository(t)
	img := testImage(800, 400)
	gray := image.NewGray16(img.Rect)
	draw.Draw(gray, img.Rect, img, image.Point{}, draw.Src)
	for _, test := range []struct {
		name, want string
		body       []byte
	}{
		{"png", "image/png", pngOf(t, img)},
		{"gray png of 16 bits", "image/png", pngOf(t, gray)},
		{"jpeg", "image/jpeg", jpegOf(t, img)},
		{"gif", "image/png", gifOf(t, 800, 400, 1)},
	} {
		t.Run(test.name, func(t *testing.T) {
			// What the uploader says of the type does not matter.
			mediaID := upload(t, r, "application/pdf", test.body)
			small, f := thumbnail(t, r, mediaID, Size{Width: 320, Height: 240})
			if f.Type != test.want || small.Bounds() != image.Rect(0, 0, 320, 160) {
				t.Errorf("%s %v", f.Type, small.Bounds())
			}
			files := len(onDisk(t, r))
			again, g := thumbnail(t, r, mediaID, Size{Width: 310, Height: 230})
			if g.ETag != f.ETag || again.Bounds() != small.Bounds() || len(onDisk(t, r)) != files {
				t.Error("made anew")
			}
		})
	}
}

func TestThumbnailShowsTheImage(t *testing.T) {
	r := largeRepository(t)
	mediaID := upload(t, r, "image/png", pngOf(t, testImage(800, 400)))
	small, _ := thumbnail(t, r, mediaID, Size{Width: 96, Height: 96})
	for p, want := range map[image.Point]color.RGBA{{10, 30}: {255, 0, 0, 255}, {80, 30}: {0, 0, 255, 255}, {40, 2}: {0, 255, 0, 255}} {
		if got := color.RGBAModel.Convert(small.At(p.X, p.Y)); got != want {
			t.Errorf("at %v: %v", p, got)
		}
	}
}

// Averages are exact for any factor: a chessboard becomes gray, an even surface stays as it is.
func TestShrinkAverages(t *testing.T) {
	for _, size := range [][4]int{{100, 100, 10, 10}, {100, 90, 33, 7}, {97, 31, 96, 30}, {5, 5, 1, 1}, {64, 64, 64, 64}, {1000, 17, 3, 16}} {
		src := image.NewRGBA(image.Rect(0, 0, size[0], size[1]))
		draw.Draw(src, src.Rect, image.NewUniform(color.RGBA{100, 50, 25, 200}), image.Point{}, draw.Src)
		dst := shrink(src, src.Rect, size[2], size[3])
		for i := 0; i < len(dst.Pix); i += 4 {
			if got := [4]byte(dst.Pix[i:]); got != [4]byte{100, 50, 25, 200} {
				t.Fatalf("%v: pixel %d is %v", size, i/4, got)
			}
		}
	}
	board := image.NewGray(image.Rect(0, 0, 64, 64))
	for i := range board.Pix {
		board.Pix[i] = byte((i + i/64) % 2 * 255)
	}
	for _, v := range shrink(board, board.Rect, 16, 32).Pix {
		if v != 128 && v != 255 {
			t.Fatalf("chessboard: %d", v)
		}
	}
	// What lies outside an image is transparent.
	if got := shrink(board, image.Rect(0, 0, 128, 64), 2, 1).Pix; !bytes.Equal(got, []byte{128, 128, 128, 255, 0, 0, 0, 0}) {
		t.Errorf("beyond the edge: %v", got)
	}
}

func TestPhotosAreTurnedUpright(t *testing.T) {
	r := largeRepository(t)
	upright := testImage(800, 400)
	corners := func(img image.Image) (c [4]color.RGBA) {
		b := img.Bounds()
		for i, p := range []image.Point{{b.Dx() / 4, b.Dy() / 16}, {b.Dx() / 4, b.Dy() * 3 / 4}, {b.Dx() * 3 / 4, b.Dy() / 16}, {b.Dx() * 3 / 4, b.Dy() * 3 / 4}} {
			c[i] = color.RGBAModel.Convert(img.At(p.X, p.Y)).(color.RGBA)
			for _, v := range []*uint8{&c[i].R, &c[i].G, &c[i].B} {
				*v = *v / 128 * 255 // JPEG is not exact
			}
		}
		return c
	}
	want := corners(upright)
	for orientation := 1; orientation <= 8; orientation++ {
		stored := asStored(upright, orientation)
		mediaID := upload(t, r, "image/jpeg", withExif(jpegOf(t, stored), orientation))
		for _, size := range []Size{{Width: 320, Height: 240}, {Width: 96, Height: 48, Crop: true}} {
			small, _ := thumbnail(t, r, mediaID, size)
			if b := small.Bounds(); b.Dx() != 2*b.Dy() {
				t.Errorf("orientation %d: size %v", orientation, b)
			}
			if got := corners(small); got != want {
				t.Errorf("orientation %d: got %v, want %v", orientation, got, want)
			}
		}
	}
}

// asStored is what a camera stores that was held so that orientation turns it upright.
func asStored(img *image.RGBA, orientation int) *image.RGBA {
	w, h := img.Rect.Dx(), img.Rect.Dy()
	if orientation >= 5 {
		w, h = h, w
	}
	out := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			// Exif 4.6.4: which side of the scene row 0 and column 0 are.
			p := [...]image.Point{1: {x, y}, 2: {w - 1 - x, y}, 3: {w - 1 - x, h - 1 - y}, 4: {x, h - 1 - y},
				5: {y, x}, 6: {h - 1 - y, x}, 7: {h - 1 - y, w - 1 - x}, 8: {y, w - 1 - x}}[orientation]
			out.Set(x, y, img.At(p.X, p.Y))
		}
	}
	return out
}

// spec: client-server-api#get_matrixclientv1mediathumbnailservernamemediaid animated
func TestAnimatedThumbnails(t *testing.T) {
	r := largeRepository(t)
	frames := func(size Size, body []byte) (n int, kind string) {
		f, err := r.Thumbnail(t.Context(), local(upload(t, r, "image/gif", body)), size)
		b := read(t, f, err)
		if f.Type != "image/gif" {
			return 1, f.Type
		}
		g, err := gif.DecodeAll(bytes.NewReader([]byte(b)))
		if err != nil {
			t.Fatal(err)
		}
		return len(g.Image), f.Type
	}
	moving, still := gifOf(t, 400, 200, 4), gifOf(t, 400, 200, 1)
	for _, test := range []struct {
		name string
		size Size
		body []byte
		n    int
		kind string
	}{
		{"wanted", Size{Width: 96, Height: 96, Animated: true}, moving, 4, "image/gif"},
		{"not wanted", Size{Width: 96, Height: 96}, moving, 1, "image/png"},
		{"not wanted, and no smaller than the original", Size{Width: 500, Height: 500}, moving, 1, "image/png"},
		{"wanted, and no smaller than the original", Size{Width: 500, Height: 500, Animated: true}, moving, 4, "image/gif"},
		{"of what does not move", Size{Width: 96, Height: 96, Animated: true}, still, 1, "image/png"},
		{"too many frames to scale", Size{Width: 32, Height: 32, Animated: true}, gifOf(t, 130, 130, 125), 125, "image/gif"},
	} {
		if n, kind := frames(test.size, test.body); n != test.n || kind != test.kind {
			t.Errorf("%s: %d frames, %s", test.name, n, kind)
		}
	}
}

func TestWebP(t *testing.T) {
	r := largeRepository(t)
	if f, err := r.Thumbnail(t.Context(), local(upload(t, r, "image/webp", webpOf(t))), Size{Width: 32, Height: 32}); err != nil || f.Type != "image/webp" {
		t.Errorf("small: %v %v", f, err)
	}
	moving := upload(t, r, "image/webp", animatedWebP(t))
	f, err := r.Thumbnail(t.Context(), local(moving), Size{Width: 32, Height: 32, Animated: true})
	if read(t, f, err); f.Type != "image/webp" {
		t.Errorf("animated: %s", f.Type)
	}
	if img, f := thumbnail(t, r, moving, Size{Width: 32, Height: 32}); f.Type != "image/png" || img.Bounds().Dx() != 32 {
		t.Errorf("first frame: %s %v", f.Type, img.Bounds())
	}
}

func TestWhatHasNoThumbnail(t *testing.T) {
	r := largeRepository(t)
	size := Size{Width: 32, Height: 32}
	for name, body := range map[string][]byte{
		"text": []byte("not an image at all"), "nothing": nil, "a lie": []byte("\x89PNG\r\n\x1a\nnothing follows"),
		"damaged": pngOf(t, testImage(100, 100))[:200],
		"svg":     []byte(`<svg xmlns="http://www.w3.org/2000/svg" width="100" height="100"></svg>`),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.Thumbnail(t.Context(), local(upload(t, r, "image/png", body)), size)
			wantCode(t, err, 400, "M_UNKNOWN")
		})
	}
	mediaID := upload(t, r, "image/png", pngOf(t, testImage(100, 100)))
	for _, size := range []Size{{}, {Width: -1, Height: 32}, {Width: 32}} {
		_, err := r.Thumbnail(t.Context(), local(mediaID), size)
		wantCode(t, err, 400, "M_INVALID_PARAM")
	}
}

// A few bytes may claim to be a huge image.
func TestDecompressionBombs(t *testing.T) {
	r := largeRepository(t)
	bomb := pngOf(t, image.NewGray(image.Rect(0, 0, 8, 8)))
	binary.BigEndian.PutUint32(bomb[16:], 40_000)
	binary.BigEndian.PutUint32(bomb[20:], 40_000)
	binary.BigEndian.PutUint32(bomb[29:], pngChecksum(bomb[12:29]))
	_, err := r.Thumbnail(t.Context(), local(upload(t, r, "image/png", bomb)), Size{Width: 32, Height: 32})
	wantCode(t, err, 413, "M_TOO_LARGE")
}

// Whatever sizes are asked for, few thumbnails are made of one file, and each of them once.
func TestThumbnailsOfOneFileAreFew(t *testing.T) {
	names := map[string]bool{}
	pic := &picture{format: formatPNG, width: 3000, height: 2500}
	for w := 1; w < 2000; w += 7 {
		for h := 1; h < 2000; h += 7 {
			for _, crop := range []bool{false, true} {
				if plan := planThumbnail(pic, Size{Width: w, Height: h, Crop: crop}); !plan.original {
					names[plan.name()] = true
				}
			}
		}
	}
	if len(names) > 40 {
		t.Errorf("there are %d different thumbnails", len(names))
	}
	r := largeRepository(t)
	mediaID := upload(t, r, "image/png", pngOf(t, testImage(200, 200)))
	for i := range 40 {
		f, err := r.Thumbnail(t.Context(), local(mediaID), Size{Width: 50 + i, Height: 100, Crop: true})
		read(t, f, err)
	}
	if n := len(onDisk(t, r)); n > 5 {
		t.Errorf("%d files on disk", n)
	}
	if err := r.Delete(t.Context(), storetest.Server, mediaID); err != nil {
		t.Fatal(err)
	}
	if left := onDisk(t, r); len(left) != 0 {
		t.Errorf("left on disk: %v", left)
	}
}

// However much other servers want, a user here gets a thumbnail.
func TestOtherServersLeaveAPlaceForDecoding(t *testing.T) {
	r := largeRepository(t)
	release, err := r.admit(t.Context(), 1, true)
	if err != nil {
		t.Fatal(err)
	}
	body := pngOf(t, testImage(200, 200))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.admit(ended, 1, true); !errors.Is(err, context.Canceled) {
		t.Errorf("another server does not wait: %v", err)
	}
	q := local(upload(t, r, "image/png", body))
	f, err := r.Thumbnail(t.Context(), q, Size{Width: 32, Height: 32})
	read(t, f, err)
	release()
	q.ByServer = true
	f, err = r.Thumbnail(t.Context(), q, Size{Width: 96, Height: 96})
	read(t, f, err)
}

func pngChecksum(b []byte) uint32 {
	crc := ^uint32(0)
	for _, c := range b {
		crc ^= uint32(c)
		for range 8 {
			crc = crc>>1 ^ 0xedb88320&-(crc&1)
		}
	}
	return ^crc
}

func FuzzThumbnail(f *testing.F) {
	f.Add(pngOf(f, testImage(60, 40)))
	f.Add(withExif(jpegOf(f, testImage(60, 40)), 6))
	f.Add(gifOf(f, 60, 40, 3))
	f.Add(webpOf(f))
	f.Add(animatedWebP(f))
	f.Fuzz(func(t *testing.T, body []byte) {
		src, length := bytes.NewReader(body), int64(len(body))
		pic, err := inspect(src, length)
		if err != nil || pic.width*pic.height > 1<<20 {
			return
		}
		for _, size := range []Size{{Width: 20, Height: 30}, {Width: 30, Height: 20, Crop: true, Animated: true}} {
			plan := planThumbnail(pic, size)
			if plan.original {
				continue
			}
			if write, err := render(pic, src, length, plan); err == nil {
				_ = write(io.Discard)
			}
		}
	})
}

func BenchmarkThumbnail(b *testing.B) {
	photo := image.NewRGBA(image.Rect(0, 0, 4000, 3000)) // 12 megapixels
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range photo.Pix {
		photo.Pix[i] = byte(i/4000) + byte(rnd.IntN(16))
	}
	for i := 3; i < len(photo.Pix); i += 4 {
		photo.Pix[i] = 255
	}
	for name, body := range map[string][]byte{"jpeg": jpegOf(b, photo), "png": pngOf(b, photo)} {
		for _, size := range []Size{{Width: 96, Height: 96, Crop: true}, {Width: 800, Height: 600}} {
			b.Run(fmt.Sprintf("%s-%d", name, size.Width), func(b *testing.B) {
				src, length := bytes.NewReader(body), int64(len(body))
				pic, err := inspect(src, length)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportAllocs()
				for b.Loop() {
					write, err := render(pic, src, length, planThumbnail(pic, size))
					if err != nil {
						b.Fatal(err)
					}
					if err := write(io.Discard); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
