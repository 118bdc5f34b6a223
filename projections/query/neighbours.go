package query

import (
	"fmt"
	"strings"

	"github.com/rateguard/rateguard/schemas/limit"
)

// neighbours says who else used the limit, and how.
func neighbours(e *Explanation, k *Check) []string {
	u := e.UsedBy
	if u.Incomplete {
		return []string{"Who else used it is not known: the log of its window is too large to be read here."}
	}
	when := "In the " + near(u.To.Sub(u.From).Microseconds()) + " before"
	switch {
	case k.Algorithm == limit.FixedWindow && u.From.Equal(k.DecidedAt.Truncate(k.window())):
		when = "Since its window began " + near(u.To.Sub(u.From).Microseconds()) + " before"
	case k.lookBack() == maxLookBack && k.window() > maxLookBack:
		when = "In the last " + near(maxLookBack.Microseconds()) + " of its window"
	}
	var out []string
	if u.Requests == 0 {
		out = append(out, when+", it admitted no other request that stands in the log; those that still run do not yet.")
	} else {
		out = append(out, when+", it admitted "+u.amount(u.Unit)+u.list(e.Request.KeyID, u.counts)+".")
	}
	if u.Denied > 0 {
		out = append(out, "In that time it refused "+plural(u.Denied, "more request")+u.list(e.Request.KeyID, func(x *Use) int64 { return x.Denied })+".")
	}
	switch p := u.Peak; u.Pattern {
	case burst:
		out = append(out, fmt.Sprintf("Burst: %s of %s came within %s.", digits(p.Units), u.total(), up(max(1, p.To.Sub(p.From).Microseconds()))))
	case steady:
		out = append(out, fmt.Sprintf("Steady: at most %s of %s came within %s.", digits(p.Units), u.total(), up((k.lookBack()/10).Microseconds())))
	}
	return out
}

// total names all that was taken, as the part of a sentence.
func (u *UsedBy) total() string {
	if u.Unit == limit.UnitTokens {
		return digits(u.Units) + " tokens"
	}
	if u.Units != u.Requests {
		return digits(u.Units)
	}
	return digits(u.Requests) + " requests"
}

// amount says how much a use is.
func (u *Use) amount(unit string) string {
	switch {
	case unit == limit.UnitTokens:
		return plural(u.Units, "token") + " in " + plural(u.Requests, "request")
	case u.Units != u.Requests:
		return plural(u.Requests, "request") + " that count as " + digits(u.Units)
	}
	return plural(u.Requests, "request")
}

// counts is the number by which users of the limit are compared in words.
func (u *UsedBy) counts(x *Use) int64 {
	if u.Unit == limit.UnitTokens {
		return x.Units
	}
	return x.Requests
}

// list lists who made up a sum, largest users first; own is the key of the request, and part what each has of the sum.
func (u *UsedBy) list(own string, part func(*Use) int64) string {
	var parts []string
	for i := range u.Data {
		if n := part(&u.Data[i].Use); n > 0 {
			parts = append(parts, digits(n)+u.Data[i].who(u.By, own))
		}
	}
	if u.Others != nil && part(&u.Others.Use) > 0 {
		kind := "other key"
		if u.By == byRouteModel {
			kind = "other kind"
		}
		parts = append(parts, digits(part(&u.Others.Use))+" of "+plural(u.Others.Users, kind))
	}
	switch {
	case len(parts) == 0:
		return ""
	case u.By == byRouteModel:
		return " of this key, by route and model: " + strings.Join(parts, ", ")
	}
	return ": " + strings.Join(parts, ", ")
}

// who names a user as part of a list.
func (x *User) who(by, own string) string {
	if by == byRouteModel && x.Route == "" {
		return " of a flood, counted without a route"
	}
	if by == byRouteModel {
		to := " to " + name(x.Route)
		if x.Model != "" {
			to += " " + name(x.Model)
		}
		return to
	}
	if x.Key == own {
		return " of this request's key " + name(x.Key)
	}
	return " of key " + name(x.Key)
}
