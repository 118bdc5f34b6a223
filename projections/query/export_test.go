package query

import "time"

// Pattern tells what use looks like of which each was taken so many seconds before the end of u; slots are 1 s wide.
func Pattern(agos []int64, each Use, u *UsedBy) (*Peak, string) {
	var all []slot
	for _, ago := range agos {
		if n := len(all); n == 0 || all[n-1].ago != ago {
			at := u.To.Add(-time.Duration(ago) * time.Second)
			all = append(all, slot{ago: ago, first: at, last: at})
		}
		all[len(all)-1].add(each)
		u.add(each)
	}
	return pattern(all, u)
}
