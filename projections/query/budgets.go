package query

import (
	"fmt"
	"time"
)

// softly is the enforcement that refuses nothing.
const softly = "soft"

// spent says that no end of an open request could have made room: what was spent already left too little.
func (k *Check) spent() bool { return k.Kind == kindBudget && k.Used+k.Cost > k.Limit }

// fullBudget says what stood in the way of a request that a budget refused.
func (k *Check) fullBudget() string {
	text := fmt.Sprintf("%s of it were spent and %s reserved when the request came; it needed up to %s.", usd(k.Used), usd(k.Reserved), usd(k.Cost))
	if !k.spent() {
		text += " Only what was reserved stood in its way: what open requests and leases do not use comes back when they end."
	}
	return text + " " + k.reset()
}

// reservedOf says what an admitted request reserved and left. What was taken from a lease was reserved before, and all that is known of the budget is what
// Redis showed when it granted the lease.
func (k *Check) reservedOf() string {
	if k.DecidedBy == byLease {
		return "It took up to " + usd(k.Cost) + " from a lease of it; when Redis granted that, the lease included, " + k.restOfBudget() + ". " + k.reset()
	}
	return "It reserved up to " + usd(k.Cost) + "; with that " + k.restOfBudget() + ". " + k.reset()
}

// restOfBudget says what was spent, reserved and left after the decision.
func (k *Check) restOfBudget() string {
	text := fmt.Sprintf("%s of it were spent and %s reserved", usd(k.Used), usd(k.Reserved))
	if over := k.Used + k.Reserved - k.Limit; over > 0 {
		text += fmt.Sprintf(", %s above its limit", usd(over))
		if k.Enforcement == softly {
			text += ", which a soft budget counts and does not refuse"
		}
		return text
	}
	return text + ", and " + usd(k.Remaining) + " remained"
}

// reset says when a budget begins again.
func (k *Check) reset() string {
	switch {
	case k.ResetAfterUS > 0 && !k.DecidedAt.IsZero():
		at := k.DecidedAt.Add(time.Duration(k.ResetAfterUS) * time.Microsecond)
		return "It is reset at " + at.UTC().Format("2006-01-02 15:04:05 UTC") + "."
	case k.ResetAfterUS > 0:
		return fmt.Sprintf("It is reset %s later.", up(k.ResetAfterUS))
	case k.PeriodStart.IsZero():
		return "It has no periods and is never reset."
	}
	return "Its period has ended."
}
