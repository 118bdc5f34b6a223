package gokakit_test

import (
	"errors"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/lovoo/goka"

	"github.com/rateguard/rateguard/processors/gokakit"
	"github.com/rateguard/rateguard/processors/internal/kafkatest"
	"github.com/rateguard/rateguard/topics/broker"
)

// T6: what goka leaves unsafe, the kit sets.
func TestUnsafeDefaultsAreSet(t *testing.T) {
	ours, err := gokakit.Settings{Kafka: broker.Config{Brokers: "localhost:1"}, Instance: "one", Session: 3 * time.Second}.Sarama()
	if err != nil {
		t.Fatalf("configuring: %v", err)
	}
	plain := goka.DefaultConfig()
	for name, test := range map[string]struct{ plain, ours, want any }{
		"acknowledgement": {plain.Producer.RequiredAcks, ours.Producer.RequiredAcks, sarama.WaitForAll},
		"idempotence":     {plain.Producer.Idempotent, ours.Producer.Idempotent, true},
		"in flight":       {plain.Net.MaxOpenRequests, ours.Net.MaxOpenRequests, 1},
		"first offset":    {plain.Consumer.Offsets.Initial, ours.Consumer.Offsets.Initial, sarama.OffsetOldest},
		"protocol":        {plain.Version, ours.Version, sarama.V2_8_0_0},
		"membership":      {plain.Consumer.Group.InstanceId, ours.Consumer.Group.InstanceId, "one"},
		"retries":         {plain.Producer.Retry.Max, ours.Producer.Retry.Max, 100},
		"session":         {plain.Consumer.Group.Session.Timeout, ours.Consumer.Group.Session.Timeout, 3 * time.Second},
	} {
		if test.ours != test.want {
			t.Errorf("%s: got %v, want %v", name, test.ours, test.want)
		}
		if test.plain == test.want {
			t.Errorf("%s: goka's default is %v already, the trap is gone", name, test.plain)
		}
	}
}

// T6: a group that starts on a topic with records skips them.
func TestAGroupStartsAtTheBeginning(t *testing.T) {
	for name, test := range map[string]struct {
		config *sarama.Config
		skips  bool
	}{
		"plain goka starts at the end": {goka.DefaultConfig(), true},
		"oldest starts at the start":   {plainConfig(), false},
	} {
		t.Run(name, func(t *testing.T) {
			c := trapCluster(t)
			write(t, c, trapInput, "k", "1", "k", "2")
			seen := make(chan int64, 1)
			_, _, stop := runPlain(t, c, counter(func(ctx goka.Context, _ int64) {
				select {
				case seen <- ctx.Offset():
				default: // the first one tells
				}
			}), goka.WithConsumerGroupBuilder(goka.ConsumerGroupBuilderWithConfig(test.config)))
			var first int64
			kafkatest.Wait(t, patience, "an input", func() error {
				write(t, c, trapInput, "k", "3") // again and again: the end at which the group starts may be behind one
				select {
				case first = <-seen:
					return nil
				default:
					return errors.New("none is seen")
				}
			})
			stop()
			if skips := first >= 2; skips != test.skips {
				t.Errorf("the first input seen is that of offset %d", first)
			}
		})
	}
}

// T12: with Flush.Frequency 0 the tail waits until 64 KiB have come together.
func TestTheTailIsFlushed(t *testing.T) {
	never := goka.DefaultConfig()
	never.Producer.Flush.Frequency = 0
	c := trapCluster(t)
	ours, err := gokakit.Settings{Kafka: c.Kafka, Session: time.Second}.Sarama()
	if err != nil {
		t.Fatalf("configuring: %v", err)
	}
	for name, test := range map[string]struct {
		config *sarama.Config
		acked  bool
	}{
		"no frequency": {never, false},
		"the kit's":    {ours, true},
	} {
		t.Run(name, func(t *testing.T) {
			producer, err := sarama.NewAsyncProducer(c.ListenAddrs(), test.config)
			if err != nil {
				t.Fatalf("connecting: %v", err)
			}
			defer producer.AsyncClose() // Close waits for the tail, for ever
			producer.Input() <- &sarama.ProducerMessage{Topic: trapOutput, Value: sarama.StringEncoder("tail")}
			acked := false
			select {
			case <-producer.Successes():
				acked = true
			case err := <-producer.Errors():
				t.Fatalf("producing: %v", err)
			case <-time.After(2 * time.Second):
			}
			if acked != test.acked {
				t.Errorf("acknowledged: got %v, want %v", acked, test.acked)
			}
		})
	}
}
