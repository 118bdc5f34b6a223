// Package schedules_test plays the schedules that broke simpler designs of budgets, or a model of this one, on the whole system: real proxy processes with clients and a provider, a real
// Redis, with a replica where the schedule needs one, and a broker that can hang. Each ends with the same count of everything.
package schedules_test

import (
	"testing"

	"github.com/rateguard/rateguard/tests/harness/faults"
)

func TestMain(m *testing.M) { faults.Main(m) }
