package postgres

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"unicode/utf8"
)

// maxText bounds a text that may be part of an index, whose entries are at most 2700 bytes.
const maxText = 400

// Whole reports whether a text that Text returned is sure to be what it was given.
func Whole(s string) bool {
	return len(s) < maxText-utf8.UTFMax && !strings.ContainsRune(s, utf8.RuneError)
}

// Text returns s as the store can take it: PostgreSQL has no NUL in text and bounds what it indexes, and what clients
// send (the name of a model) may have both. A long text is cut and gets its hash, so that two long ones stay two.
func Text(s string) string {
	if strings.IndexByte(s, 0) >= 0 {
		s = strings.ReplaceAll(s, "\x00", string(utf8.RuneError))
	}
	if len(s) <= maxText {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	cut := s[:maxText-2*len(sum)-1]
	for !utf8.ValidString(cut) {
		cut = cut[:len(cut)-1]
	}
	return cut + "~" + hex.EncodeToString(sum[:])
}
