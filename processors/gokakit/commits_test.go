package gokakit_test

import (
	"testing"

	"github.com/IBM/sarama"
	"github.com/lovoo/goka"
	"github.com/lovoo/goka/codec"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/rateguard/rateguard/processors/gokakit"
)

// T1: the first input emits, and the emit fails; the second emits nothing and commits past the first.
func TestAFailedEmitIsProcessedAgain(t *testing.T) {
	contiguous := func(brokers []string, name, clientID string) (sarama.ConsumerGroup, error) {
		inner, err := goka.ConsumerGroupBuilderWithConfig(plainConfig())(brokers, name, clientID)
		if err != nil {
			return nil, err
		}
		return gokakit.NewConsumerGroup(inner, quiet), nil
	}
	for name, test := range map[string]struct {
		options []goka.ProcessorOption
		emits   int
	}{
		"plain goka loses it":        {nil, 0},
		"contiguous marks repeat it": {[]goka.ProcessorOption{goka.WithConsumerGroupBuilder(contiguous)}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			c := trapCluster(t)
			second := make(chan struct{}, 8)
			graph := goka.DefineGroup(trapGroup, goka.Output(trapOutput, new(codec.String)),
				goka.Input(trapInput, new(codec.String), func(ctx goka.Context, m any) {
					if m == "emit" {
						ctx.Emit(trapOutput, ctx.Key(), m)
						return
					}
					second <- struct{}{}
				}))
			write(t, c, trapInput, "k", "emit", "k", "silent")
			fault := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: trapOutput, Err: kerr.TopicAuthorizationFailed, Count: -1})
			_, ended, stop := runPlain(t, c, graph, test.options...)
			<-second
			if err := <-ended; err == nil {
				t.Fatal("the first run ended without an error")
			}
			stop()
			fault.Remove()
			before := committed(t, c)
			_, _, stop = runPlain(t, c, graph, test.options...)
			// A third input shows that the second run has passed the first two.
			write(t, c, trapInput, "k", "silent")
			<-second
			if test.emits > 0 {
				<-second // the repeated one
			}
			stop()
			if got := len(c.Read(t, trapOutput)); got != test.emits {
				t.Errorf("emits in the log: got %d, want %d (offset %d was committed before)", got, test.emits, before)
			}
		})
	}
}
