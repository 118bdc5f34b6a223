//go:build !race

package explore_test

// How many states of a configuration are explored at most, how many of a large one, how many ways are gone at random, how many states are compared with those
// that are alike, and how many calls run on a real server too.
const (
	raced = false
	most  = 1_000_000
	near  = 40_000
	ways  = 400
	often = 20_000
	calls = 2_000
)
