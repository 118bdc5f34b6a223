package query

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/rateguard/rateguard/schemas/limit"
)

// describe names a limit and what it allows to whom, and ends with a full stop.
func (k *Check) describe() string {
	if k.Kind == kindBudget {
		return strings.TrimLeft(k.Enforcement+" budget ", " ") + name(k.ID) + ": " + usd(k.Limit) + " for " + k.whom() + "."
	}
	text := "limit " + name(k.ID) + ": " + strconv.FormatInt(k.Limit, 10)
	if k.Unit != "" {
		text += " " + k.Unit
	}
	if k.WindowUS > 0 {
		text += " per " + per(k.window())
	}
	return text + " for " + k.whom() + "."
}

// whom says whose bucket it is.
func (k *Check) whom() string {
	switch {
	case k.Subject != "":
		return k.Scope + " " + name(k.Subject) + " (" + k.Scope + " scope)"
	case k.Scope == limit.ScopeWorkspace:
		return "the whole workspace (workspace scope)"
	case k.Scope == "":
		return "what it matches"
	}
	return "all that it matches together (" + k.Scope + " scope)"
}

// full says how full a limit was that refused.
func (k *Check) full() string {
	switch {
	case k.Kind == kindBudget:
		return k.fullBudget()
	case k.DecidedBy == byProxy:
		return fmt.Sprintf("Of this proxy's share of it %d were used and %d remained when the request came; it asked for %d.", k.Used, k.Remaining, k.Cost)
	case k.Algorithm == limit.LeakyBucket:
		return fmt.Sprintf("It lets one out after the other, %d waited when the request came, and no more may; it asked for %d.", k.Used, k.Cost)
	case k.room() != k.Limit:
		return fmt.Sprintf("%d of the %d that it holds at once were used when the request came; it asked for %d.", k.Used, k.room(), k.Cost)
	}
	return fmt.Sprintf("%d of %d were used when the request came; it asked for %d.", k.Used, k.Limit, k.Cost)
}

// rest says what a limit has left.
func (k *Check) rest() string {
	switch {
	case k.Kind == kindBudget:
		return k.restOfBudget()
	case k.DecidedBy == byProxy:
		return fmt.Sprintf("of this proxy's share of it %d remained", k.Remaining)
	case k.Algorithm == limit.LeakyBucket:
		return fmt.Sprintf("%d more could wait", k.Remaining)
	case k.Limit < k.room():
		return fmt.Sprintf("at least %d of the %d that it holds at once remained", k.Remaining, k.room()) // what remains is recorded up to the limit
	}
	return fmt.Sprintf("%d of %d remained", k.Remaining, k.room())
}

// took says what an admitted request took and left.
func (k *Check) took() string {
	if k.Kind == kindBudget {
		return k.reservedOf()
	}
	text := "It took " + strconv.FormatInt(k.Cost, 10) + ", and " + k.rest() + "."
	if k.DelayUS > 0 {
		text += " It was held for " + up(k.DelayUS) + " until its turn."
	}
	return text
}
