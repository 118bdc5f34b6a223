//go:build race

package explore_test

// The race detector makes everything here ten times slower, and has nothing to look at: one goroutine explores.
const (
	raced = true
	most  = 10_000
	near  = 2_000
	ways  = 20
	often = 1_000
	calls = 300
)
