package spend

import rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"

// LaterRound folds the records that belong to a partition and not to a workspace: it returns the Round that counts after
// e, which is the one with the largest n, and of two with the same n the first in the log. Held is nil before the first. A
// reader that begins behind a Round knows it from there, and never hands out its number again.
func LaterRound(held, e *rateguardv1.Event) *rateguardv1.Event {
	if e.GetRound() != nil && e.GetRound().GetN() > held.GetRound().GetN() {
		return e
	}
	return held
}
