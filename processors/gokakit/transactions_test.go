package gokakit_test

import (
	"errors"
	"testing"
	"time"

	"github.com/lovoo/goka"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/processors/gokakit"
	"github.com/rateguard/rateguard/processors/internal/kafkatest"
)

// T4: a table whose last record is a transaction's marker is never read to its end.
func TestTablesAreNotWrittenInTransactions(t *testing.T) {
	one := []byte("1")
	for name, test := range map[string]struct {
		transactional bool
		recovers      bool
	}{
		"plain records are recovered":  {false, true},
		"a marker at the end hangs it": {true, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := trapCluster(t)
			record := &kgo.Record{Topic: trapTable, Key: []byte("k"), Value: one}
			opts := []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)}
			if test.transactional {
				opts = append(opts, kgo.TransactionalID("trap"))
			}
			client, err := kgo.NewClient(opts...)
			if err != nil {
				t.Fatalf("connecting: %v", err)
			}
			defer client.Close()
			if test.transactional {
				if err := client.BeginTransaction(); err != nil {
					t.Fatalf("beginning: %v", err)
				}
			}
			if err := client.ProduceSync(t.Context(), record).FirstErr(); err != nil {
				t.Fatalf("writing: %v", err)
			}
			if test.transactional {
				if err := client.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
					t.Fatalf("committing: %v", err)
				}
			}
			p, _, _ := runPlain(t, c, counter(func(goka.Context, int64) {}))
			poll(t, 4*time.Second, p.Recovered)
			if got := p.Recovered(); got != test.recovers {
				t.Errorf("recovered: got %v, want %v", got, test.recovers)
			}
		})
	}
	c, err := gokakit.Settings{Kafka: kafkatest.Start(t).Kafka, Session: time.Second}.Sarama()
	if err != nil || c.Producer.Transaction.ID != "" {
		t.Error(errors.Join(err, errors.New("the kit writes tables in transactions")))
	}
}

// poll returns when condition holds or the time is over.
func poll(t *testing.T, within time.Duration, condition func() bool) {
	t.Helper()
	look, end := time.NewTicker(10*time.Millisecond), time.NewTimer(within)
	defer look.Stop()
	defer end.Stop()
	for !condition() {
		select {
		case <-end.C:
			return
		case <-look.C:
		}
	}
}
