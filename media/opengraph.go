package media

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
	"golang.org/x/net/html/charset"

	"hearth/outgoing"
)

// Bounds of what is taken from a page.
const (
	maxPage          = 2 << 20
	maxProperties    = 64
	maxPropertyKey   = 64
	maxPropertyValue = 1000 // characters
)

// readOpenGraph collects the og: properties of a page, and where these are
// missing what else says the same. It reads tokens, never a tree, so that
// nesting costs nothing.
func readOpenGraph(r io.Reader, contentType string) (map[string]any, error) {
	text, err := charset.NewReader(outgoing.Limit(r, maxPage), contentType)
	if err != nil {
		return nil, fmt.Errorf("read page: %w", err)
	}
	z := html.NewTokenizer(text)
	z.SetMaxBuf(maxPage)
	p := page{properties: map[string]any{}, fallback: map[string]string{}}
	for {
		switch z.Next() {
		case html.ErrorToken:
			// A page that breaks off, or is too long, has said the most by then.
			return p.finish(), nil
		case html.StartTagToken, html.SelfClosingTagToken:
			p.tag(z)
		case html.TextToken:
			if p.inTitle {
				text := z.Text()
				p.title.Write(text[:min(len(text), maxPropertyValue*utf8.UTFMax)])
			}
		case html.EndTagToken:
			p.inTitle = false
		}
	}
}

type page struct {
	properties map[string]any
	fallback   map[string]string // what is used for properties that are missing
	inTitle    bool
	title      strings.Builder
}

func (p *page) tag(z *html.Tokenizer) {
	name, more := z.TagName()
	switch atom.Lookup(name) {
	case atom.Title:
		p.inTitle = p.title.Len() == 0
	case atom.Meta:
		p.meta(attributes(z, more))
	case atom.Link:
		if a := attributes(z, more); strings.EqualFold(a["rel"], "image_src") {
			p.fall("og:image", a["href"])
		}
	}
}

func attributes(z *html.Tokenizer, more bool) map[string]string {
	a := map[string]string{}
	for more {
		var k, v []byte
		k, v, more = z.TagAttr()
		if _, known := a[string(k)]; !known && len(a) < 16 {
			a[string(k)] = string(v)
		}
	}
	return a
}

func (p *page) meta(a map[string]string) {
	content := a["content"]
	key := strings.ToLower(strings.TrimSpace(a["property"]))
	if key == "" {
		key = strings.ToLower(strings.TrimSpace(a["name"]))
	}
	switch {
	case content == "":
	case strings.HasPrefix(key, "og:"):
		// The first is the one that the page means most.
		if _, known := p.properties[key]; !known && len(key) <= maxPropertyKey && len(p.properties) < maxProperties {
			p.properties[key] = shorten(content)
		}
	case key == "twitter:title" || key == "twitter:description" || key == "twitter:image":
		p.fall("og:"+key[len("twitter:"):], content)
	case key == "description":
		p.fall("og:description", content)
	case a["itemprop"] == "image":
		p.fall("og:image", content)
	}
}

func (p *page) fall(key, value string) {
	if p.fallback[key] == "" {
		p.fallback[key] = shorten(value)
	}
}

func (p *page) finish() map[string]any {
	p.fall("og:title", p.title.String())
	for k, v := range p.fallback {
		if _, known := p.properties[k]; !known && v != "" {
			p.properties[k] = v
		}
	}
	return p.properties
}

// shorten tidies white space and bounds a text.
func shorten(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "\uFFFD")), " ")
	if utf8.RuneCountInString(s) <= maxPropertyValue {
		return s
	}
	runes := []rune(s)
	return string(runes[:maxPropertyValue-1]) + "…"
}
