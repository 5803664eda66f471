package media

import (
	"context"
	"errors"
	"fmt"
	"image"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"io/fs"
	"math"
	"net/http"
	"os"

	"hearth/matrix/errcode"
	"hearth/store"
)

// Size is what a client wants of a thumbnail: the least it would like to get.
// spec: client-server-api#thumbnails
type Size struct {
	Width, Height int
	Crop          bool // fill the size and cut what stands over; else fit in
	Animated      bool // animated, if the original is
}

// Thumbnails are made in steps of size, so that there are few of each file, whatever is asked for.
// The first five to scale to are the spec's. Pictures of users are cut to squares; what else is
// cut comes in a few aspects.
var (
	scaleSteps = []image.Point{{32, 32}, {96, 96}, {320, 240}, {640, 480}, {800, 600}, {1280, 960}, {1920, 1440}}
	cropSteps  = []image.Point{
		{32, 32}, {64, 64}, {96, 96}, {160, 160}, {320, 320}, {480, 480}, {640, 640}, {800, 800}, {1280, 1280}, {1920, 1920},
		{96, 48}, {320, 160}, {640, 320}, {1280, 640}, {1920, 960},
		{96, 72}, {320, 240}, {640, 480}, {1280, 960}, {1920, 1440},
		{48, 96}, {160, 320}, {320, 640}, {640, 1280}, {960, 1920},
		{72, 96}, {240, 320}, {480, 640}, {960, 1280}, {1440, 1920},
	}
)

const jpegQuality = 82

// Thumbnail opens a smaller form of an image. The original is returned where
// it is not larger than what was asked for, or nothing smaller would do.
// spec: client-server-api#get_matrixclientv1mediathumbnailservernamemediaid
func (r *Repository) Thumbnail(ctx context.Context, q Request, size Size) (*File, error) {
	if size.Width <= 0 || size.Height <= 0 {
		return nil, errcode.InvalidParam("width and height must be above zero")
	}
	m, err := r.find(ctx, q)
	if err != nil {
		return nil, err
	}
	original, err := r.open(m)
	if err != nil {
		return nil, err
	}
	pic, err := inspect(original.File, original.Length)
	if err != nil {
		original.Close()
		return nil, errcode.New(http.StatusBadRequest, "M_UNKNOWN", "this kind of file has no thumbnails")
	}
	plan := planThumbnail(pic, size)
	if plan.original {
		original.Type, original.Name = pic.contentType(), "thumbnail."+pic.format.extension()
		return original, nil
	}
	defer original.Close()
	if err := r.checkPixels(m, pic); err != nil {
		return nil, err
	}
	f, err := r.openThumbnail(ctx, q, m, original, pic, plan)
	if err != nil {
		return nil, err
	}
	return thumbnailFile(f, original, plan)
}

func thumbnailFile(f *os.File, original *File, plan thumbnailPlan) (*File, error) {
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open a thumbnail: %w", err)
	}
	t := *original
	t.File, t.Length = f, info.Size()
	t.Type, t.Name = plan.output.contentType(), "thumbnail."+plan.output.extension()
	t.ETag += "-" + plan.name()
	return &t, nil
}

// checkPixels refuses images that would take too much memory to decode.
// spec: client-server-api#content-repo-security-considerations
func (r *Repository) checkPixels(m store.MediaFile, pic *picture) error {
	if int64(pic.width)*int64(pic.height) <= r.o.MaxPixels && pic.memory() <= decodeMemory {
		return nil
	}
	if m.Origin != "" {
		return remoteTooLarge("the image")
	}
	return errcode.TooLarge("the image is too large to make a thumbnail of it")
}

// openThumbnail opens a thumbnail that was made before, or makes it.
func (r *Repository) openThumbnail(ctx context.Context, q Request, m store.MediaFile, original *File, pic *picture, plan thumbnailPlan) (*os.File, error) {
	f, err := r.files.openThumbnail(m.SHA256, plan.name())
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	memory := pic.memory()
	if plan.animated {
		memory = pic.allFrames()
	}
	release, err := r.admit(ctx, memory, q.ByServer)
	if err != nil {
		return nil, err
	}
	defer release()
	// Somebody else may have made it while we waited.
	f, err = r.files.openThumbnail(m.SHA256, plan.name())
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	encode, err := render(pic, original.File, original.Length, plan)
	if err != nil {
		return nil, errcode.New(http.StatusBadRequest, "M_UNKNOWN", "the image is damaged")
	}
	return r.files.keepThumbnail(m.SHA256, plan.name(), encode)
}

// admit waits until an image of so many bytes may be decoded. Other servers wait for each other,
// so that they leave a place to those who are here.
func (r *Repository) admit(ctx context.Context, memory int64, byServer bool) (release func(), err error) {
	places := []chan struct{}{r.slots}
	if byServer {
		places = []chan struct{}{r.serverSlots, r.slots}
	}
	var taken []chan struct{}
	leave := func() {
		for _, place := range taken {
			<-place
		}
	}
	for _, place := range places {
		select {
		case place <- struct{}{}:
			taken = append(taken, place)
		case <-ctx.Done():
			leave()
			return nil, ctx.Err()
		}
	}
	memory = min(memory, decodeMemory)
	if err := r.decoding.Acquire(ctx, memory); err != nil {
		leave()
		return nil, err
	}
	return func() {
		r.decoding.Release(memory)
		leave()
	}, nil
}

// thumbnailPlan is what will be made of an image.
type thumbnailPlan struct {
	original      bool
	width, height int             // of the thumbnail, as it is looked at
	cut           image.Rectangle // of the original, as it is looked at
	animated      bool
	output        format
}

func (p thumbnailPlan) name() string {
	method := "scale"
	if p.animated {
		method = "animated"
	}
	return fmt.Sprintf("%dx%d-%dx%d-%s.%s", p.width, p.height, p.cut.Dx(), p.cut.Dy(), method, p.output.extension())
}

// planThumbnail never makes anything larger than the original, nor smaller than
// what was asked for unless the original is.
func planThumbnail(pic *picture, size Size) thumbnailPlan {
	w, h := pic.uprightSize()
	animated := pic.animated && size.Animated
	plan := thumbnailPlan{width: w, height: h, cut: image.Rect(0, 0, w, h), output: pic.thumbnailFormat()}
	enough := w <= size.Width && h <= size.Height
	if !enough && size.Crop {
		enough = plan.crop(size)
	} else if !enough {
		enough = plan.scale(size)
	}
	switch {
	case enough:
		// An animation is not shown to those who did not ask for one.
		plan.original = !pic.animated || animated
	case animated && pic.scalable():
		plan.animated, plan.output = true, formatGIF
	case animated:
		plan.original = true
	}
	return plan
}

// scale keeps the aspect and fits in the step that the wanted size fits in.
func (p *thumbnailPlan) scale(size Size) (enough bool) {
	for _, step := range scaleSteps {
		if step.X < size.Width || step.Y < size.Height {
			continue
		}
		f := min(float64(step.X)/float64(p.width), float64(step.Y)/float64(p.height))
		if f >= 1 {
			return true
		}
		p.width, p.height = scaled(p.width, f), scaled(p.height, f)
		return false
	}
	return true // nothing smaller would do
}

// crop takes the middle of the image in the aspect of the smallest step that the wanted size fits in.
func (p *thumbnailPlan) crop(size Size) (enough bool) {
	var step image.Point
	for _, c := range cropSteps {
		if c.X >= size.Width && c.Y >= size.Height && (step == image.Point{} || c.X*c.Y < step.X*step.Y) {
			step = c
		}
	}
	if step == (image.Point{}) {
		return true // nothing smaller would do
	}
	// The part of the original in that aspect, and no larger than it.
	tw, th := float64(step.X), float64(step.Y)
	whole := min(float64(p.width)/tw, float64(p.height)/th)
	cw, ch := scaled(p.width, tw*whole/float64(p.width)), scaled(p.height, th*whole/float64(p.height))
	x, y := (p.width-cw)/2, (p.height-ch)/2
	p.cut = image.Rect(x, y, x+cw, y+ch)
	f := min(1, 1/whole)
	p.width, p.height = scaled(cw, f), scaled(ch, f)
	return false
}

func scaled(n int, f float64) int { return max(1, int(math.Round(float64(n)*f))) }

// render decodes an image and makes its thumbnail, which the returned function writes.
func render(pic *picture, src io.ReaderAt, length int64, plan thumbnailPlan) (func(io.Writer) error, error) {
	if plan.animated {
		anim, err := scaleGIF(io.NewSectionReader(src, 0, length), plan)
		return func(w io.Writer) error { return gif.EncodeAll(w, anim) }, err
	}
	img, err := pic.decode(src, length)
	if err != nil {
		return nil, err
	}
	// Cameras store the image as the sensor saw it and note how to turn it.
	cut, w, h := pic.stored(plan.cut), plan.width, plan.height
	if pic.orientation >= 5 {
		w, h = h, w
	}
	small := upright(shrink(img, cut, w, h), pic.orientation)
	return func(w io.Writer) error {
		if plan.output == formatJPEG {
			return jpeg.Encode(w, small, &jpeg.Options{Quality: jpegQuality})
		}
		return png.Encode(w, small)
	}, nil
}
