package call

import "strings"

// MaxCanonical is the longest key that has a canonical form.
const MaxCanonical = 24

// Canonical returns a key of a body in lower case without underscores and dashes, nil for one that is longer than MaxCanonical: there are
// servers whose keys match without regard to case.
func Canonical(key string, room *[MaxCanonical]byte) []byte {
	if len(key) > MaxCanonical {
		return nil
	}
	n := 0
	// The two letters outside ASCII that fold into it.
	if strings.ContainsAny(key, "\u017f\u212a") {
		key = strings.NewReplacer("\u017f", "s", "\u212a", "k").Replace(key)
	}
	for i := range len(key) {
		ch := key[i]
		if ch == '_' || ch == '-' {
			continue
		}
		if ch >= 'A' && ch <= 'Z' {
			ch += 'a' - 'A'
		}
		room[n] = ch
		n++
	}
	return room[:n]
}
