package chaos_test

import (
	"testing"

	"github.com/rateguard/rateguard/tests/harness/faults"
)

func TestMain(m *testing.M) { faults.Main(m) }
