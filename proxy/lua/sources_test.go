package lua

import "strings"

// SourcesWithClock are the scripts of limits with a clock that a test sets: the keys clock:s and clock:us.
func SourcesWithClock() (admit, adjust string) {
	clock := func(s string) string {
		return strings.Replace(bucketsSource+budgetsSource+s, "redis.call('TIME')", "redis.call('MGET', 'clock:s', 'clock:us')", 1)
	}
	return clock(admitSource), clock(adjustSource)
}

// AppendKeys appends the keys of a take.
func (t *Take) AppendKeys(keys []string) []string { return t.appendKeys(keys) }

// AppendArgs appends the arguments of a take that was admitted at the instant.
func (t *Take) AppendArgs(args []any, at any) []any { return t.appendArgs(args, at) }
