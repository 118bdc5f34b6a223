package price

import (
	"fmt"
	"testing"
)

// It looks inside because nothing outside shows how much is remembered.
func TestCacheIsBoundedAndKeepsWhatIsAskedFor(t *testing.T) {
	c := newCache()
	want := &model{id: "wanted"}
	c.put("p", "wanted", found{model: want})
	for i := range 10 * cacheHalf {
		c.put("p", fmt.Sprint("junk-", i), found{})
		if got, ok := c.get("p", "wanted"); !ok || got.model != want {
			t.Fatalf("after %d other names the wanted one is forgotten", i)
		}
		if n := len(c.young) + len(c.old); n > 2*cacheHalf {
			t.Fatalf("%d names are remembered, want at most %d", n, 2*cacheHalf)
		}
	}
	if _, ok := c.get("p", "junk-0"); ok {
		t.Error("a name that nobody asked for again is still there")
	}
}
