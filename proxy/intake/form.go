package intake

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"strconv"
	"strings"

	"github.com/rateguard/rateguard/proxy/call"
)

// multipartBoundary returns the boundary of a multipart body; ok is false for other bodies.
func multipartBoundary(contentType string) (boundary string, ok bool) {
	mediaType, params, err := mime.ParseMediaType(contentType)
	if err != nil || !strings.HasPrefix(mediaType, "multipart/") {
		return "", false
	}
	return params["boundary"], params["boundary"] != ""
}

// maxField is the longest form field that is looked at.
const maxField = 4 << 10

// form reads the watched fields of a multipart body. The whole body is parsed, and what parsers could read in two ways is refused: a
// field that is found by its text alone could as well stand inside a file.
func form(c *call.Call, boundary string) error {
	seen := map[int]bool{}
	parts := multipart.NewReader(bytes.NewReader(c.Body), boundary)
	for {
		part, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			c.Context.Stream = c.Asked.Stream
			return nil
		}
		if err != nil {
			return badForm("The form cannot be read.", "")
		}
		name := part.FormName()
		if name == "" || len(part.Header["Content-Disposition"]) != 1 || namedTwice(part.Header.Get("Content-Disposition")) {
			return badForm("A part of the form has no name.", "")
		}
		i := canonical(name)
		if i < 0 {
			continue
		}
		if seen[i] {
			return badForm("A field of the form is given twice.", clip(name, 64))
		}
		seen[i] = true
		if part.Header.Get("Content-Transfer-Encoding") != "" { // RFC 7578, 4.7: not to be used, and parsers differ in whether they decode it
			return badForm("A field of the form is encoded.", clip(name, 64))
		}
		value, err := io.ReadAll(io.LimitReader(part, maxField))
		if err != nil {
			return badForm("The form cannot be read.", "")
		}
		if err := formField(c, i, string(value)); err != nil {
			return err
		}
	}
}

// namedTwice reports whether a part has a name in the extended notation, which RFC 7578, 4.2 forbids and some parsers prefer.
func namedTwice(disposition string) bool {
	lower := strings.ToLower(disposition)
	return strings.Count(lower, "name*") > strings.Count(lower, "filename*")
}

func badForm(message, param string) error {
	return &call.Error{Code: call.InvalidRequest, Message: message, Param: param}
}

func formField(c *call.Call, i int, value string) error {
	switch i {
	case watched["model"]:
		if c.Asked.Model != "" {
			return nil // the path names it, and decides
		}
		c.Asked.Model = value
		return checkModel(&c.Asked.Model)
	case watched["stream"]:
		c.Asked.Stream = strings.EqualFold(value, "true") || value == "1"
	case watched["n"]:
		n, err := strconv.ParseInt(value, 10, 32)
		if err != nil || n < 0 {
			return badForm(`The field "n" must be a whole number that is not negative.`, "n")
		}
		c.Asked.Declared.N = max(1, n)
	case watched["user"]:
		tag(c.Context, "user", value)
	}
	return nil
}
