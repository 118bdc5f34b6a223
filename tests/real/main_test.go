// Package real_test holds what only real servers and foreign programs can show: the official
// Python and Node SDKs, the README as a newcomer follows it, and the death of an Apache Kafka
// broker under load.
package real_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/rateguard/rateguard/tests/harness"
)

func TestMain(m *testing.M) {
	if err := os.Setenv("RATEGUARD_TEST_STORES", "real"); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	harness.Main(m, removeVenv)
}
