package explore_test

import "testing"

// without is a configuration that lacks a rule.
func without(f faults, r rules) config {
	c := both("", f)
	c.rules = r
	return c
}

// withoutOf is one with a lease that lacks a rule.
func withoutOf(f faults, r rules) config {
	c := leased("", 1, f)
	c.rules = r
	return c
}

// far is how many rules at the end of the list need so many states that the race detector is spared them.
const far = 4

// lacking is a configuration with the rule that it lacks.
type lacking struct {
	rule string
	config
}

// needed are the rules of the protocol, each with a configuration that breaks without it.
func needed() []lacking {
	return []lacking{
		{"the fence of a producer that is closed", without(faults{crash: 1}, rules{edits: map[string]string{
			"redis.call('HSET', KEYS[1], 'f' .. ARGV[1], '1')\n": "",
		}})},
		{"the outcome kept until the log has shown it", without(faults{}, rules{edits: map[string]string{
			"redis.call('HSET', key, 'e' .. id, string.format('s %.0f', cost) .. string.sub(v, 4), unpack(moved(key, pairs, cost, -1)))": "redis.call('HSET', key, unpack(moved(key, pairs, cost, -1)))\nredis.call('HDEL', key, 'e' .. id)\nredis.call('HINCRBY', key, 'n', -1)",
		}})},
		{"the reconciler", without(faults{}, rules{noReconciler: true})},
		{"the mark of a closing", without(faults{zombie: 1}, rules{noMarks: true})},
		{"rounds", without(faults{wipe: 1}, rules{noRounds: true})},
		{"waiting for seals", without(faults{wipe: 1}, rules{deafKeeper: true})},
		{"the gate behind a seal", without(faults{wipe: 1}, rules{openGate: true})},
		{"installing an epoch once", without(faults{wipe: 2, again: 1}, rules{installsTwice: true})},
		{"the server's identity in the script", without(faults{failover: 1}, rules{edits: map[string]string{
			" or state[8] ~= identity": "", "state[3] == server() and ": "",
		}})},
		{"a start in the log before the first grant", joining(without(faults{wipe: 1}, rules{noStarted: true}))},
		{"a round announced before it stands in its partition", joining(without(faults{failover: 1}, rules{partitionFirst: true}))},
		{"nothing opened from a lease behind its end", withoutOf(faults{}, rules{endsUnderWay: true})},
		{"telling Redis what was taken from a lease", withoutOf(faults{}, rules{noTaken: true})},
		{"telling Redis that it was taken from the lease", withoutOf(faults{}, rules{noShrink: true})},
		{"charging the rest of a lease without the folder", withoutOf(faults{lose: 1}, rules{freesRest: true})},
		{"the gate in front of leases", withoutOf(faults{wipe: 1}, rules{oldLeases: true, oldTaken: true})},
		{"that a step is for the budgets and the place that it was read for", lonely(withoutOf(faults{wipe: 1}, rules{edits: map[string]string{
			"state[1] ~= ARGV[1] or stands < from or stands >= tonumber(ARGV[3]) or ARGV[4] == '1' and stands ~= from": "false",
		}}))},
		// The last ones need the most states.
		{"the word that a producer is being closed, before its fence", without(faults{crash: 1, wipe: 1}, rules{noAnnouncedFence: true})},
		{"taking what surfaces late off what a closing charged for a lease", lonely(withoutOf(faults{zombie: 1, crash: 1}, rules{noUncharge: true}))},
		{"leaving that in the charge until it has ended", lonely(withoutOf(faults{zombie: 1, lose: 1}, rules{unchargesAtOnce: true}))},
		{"cancelling until a server answers whose budgets may be used", without(faults{failover: 1, late: 1}, rules{takesAnyAnswer: true})},
	}
}

// TestEachRuleIsNeeded takes each rule of the protocol away, and expects a counterexample. A rule without one would be superfluous, or not explored.
func TestEachRuleIsNeeded(t *testing.T) {
	cases := needed()
	if raced {
		cases = cases[:len(cases)-far]
	}
	for _, c := range cases {
		t.Run(c.rule, func(t *testing.T) {
			t.Parallel()
			o := broad(newWorld(c.config), 3_000_000)
			if o.violation == "" {
				t.Fatalf("without %s nothing goes wrong: %s", c.rule, o)
			}
			t.Logf("without %s: %s", c.rule, o)
		})
	}
}
