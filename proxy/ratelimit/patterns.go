package ratelimit

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// sortedPatterns returns the patterns of weights, those without a wildcard first, then the longest.
func sortedPatterns(all map[string]int64) []string {
	return slices.SortedFunc(maps.Keys(all), func(a, b string) int {
		wild := func(p string) int {
			if strings.ContainsAny(p, "*?") {
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(wild(a), wild(b)), cmp.Compare(len(b), len(a)), cmp.Compare(a, b))
	})
}
