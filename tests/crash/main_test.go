package crash_test

import (
	"testing"

	"github.com/rateguard/rateguard/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
