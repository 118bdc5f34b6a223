package gokakit_test

import (
	"fmt"
	"testing"

	"github.com/lovoo/goka"
	"github.com/lovoo/goka/storage"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/rateguard/rateguard/processors/internal/kafkatest"
	"github.com/rateguard/rateguard/topics"
)

// T2 and T3: goka writes its store before the table's topic. The write to the topic fails,
// the process starts again with the store it has, and reads the same input once more.
func TestAPhantomIsNotCountedTwiceAndNotLost(t *testing.T) {
	// The value is offset + 1 of the last applied input, times 1000, plus the count.
	once := func(ctx goka.Context, n int64) int64 {
		if ctx.Offset() < n/1000 {
			return n
		}
		return (ctx.Offset()+1)*1000 + n%1000 + 1
	}
	for name, test := range map[string]struct {
		each   func(ctx goka.Context, n int64)
		keep   bool // the store of the failed run
		local  int64
		logged int
	}{
		"plain goka counts it twice": {
			func(ctx goka.Context, n int64) { ctx.SetValue(n + 1) }, true, 2, 1,
		},
		"returning on a repeat loses it": {
			func(ctx goka.Context, n int64) {
				if next := once(ctx, n); next != n {
					ctx.SetValue(next)
				}
			}, true, 1001, 0,
		},
		"setting it again on a repeat is right": {
			func(ctx goka.Context, n int64) { ctx.SetValue(once(ctx, n)) }, true, 1001, 1,
		},
		"a fresh store is right": {
			func(ctx goka.Context, n int64) { ctx.SetValue(n + 1) }, false, 1, 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := trapCluster(t)
			builder := func() storage.Builder { return storage.MemoryBuilder() }
			if test.keep {
				kept := storage.DefaultBuilder(t.TempDir())
				builder = func() storage.Builder { return kept }
			}
			write(t, c, trapInput, "k", "v")
			fault := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: trapTable, Err: kerr.TopicAuthorizationFailed, Count: -1})
			_, ended, stop := runPlain(t, c, counter(test.each), goka.WithStorageBuilder(builder()))
			if err := <-ended; err == nil {
				t.Fatal("the first run ended without an error")
			}
			stop()
			fault.Remove()
			p, _, stop := runPlain(t, c, counter(test.each), goka.WithStorageBuilder(builder()))
			kafkatest.Wait(t, patience, "the repeat to be committed", func() error {
				if got := committed(t, c); got != 1 {
					return fmt.Errorf("committed %d", got)
				}
				return nil
			})
			got, err := p.Get("k")
			if err != nil || got != test.local {
				t.Errorf("value: got %v, %v, want %d", got, err, test.local)
			}
			stop()
			if got := len(c.Read(t, trapTable)); got != test.logged {
				t.Errorf("table records: got %d, want %d", got, test.logged)
			}
		})
	}
}

// The same with the kit: the table refuses writes for a while, under load.
func TestFailedTableWritesNeitherLoseNorDouble(t *testing.T) {
	c := kafkatest.Start(t)
	r, _, _ := runKit(t, c, tally())
	kafkatest.Wait(t, patience, "readiness", r.Ready)
	c.Produce(t, topics.Costs, some("ws_1", 100)...)
	waitCount(t, r, "ws_1", 100)
	fault := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topics.SpendTable.Name, Err: kerr.TopicAuthorizationFailed, Count: 3})
	c.Produce(t, topics.Costs, some("ws_1", 100)...)
	if err := fault.Wait(t.Context(), 3); err != nil {
		t.Fatalf("waiting for the faults: %v", err)
	}
	waitCount(t, r, "ws_1", 200)
	// And it stays right: each input is one table record, or more after a repeat. The store shows a step before its record is
	// written.
	kafkatest.Wait(t, patience, "a table record for each input", func() error {
		if n := len(c.Read(t, topics.SpendTable.Name)); n < 200 {
			return fmt.Errorf("%d table records", n)
		}
		return nil
	})
}
