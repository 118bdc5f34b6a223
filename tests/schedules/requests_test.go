package schedules_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/tests/harness"
	"github.com/rateguard/rateguard/topics"
)

// Schedule (k): what the provider has stored of a conversation is input that the gateway cannot see. It reserves the model's whole context window, 19.2 million nano-USD here, and
// is charged what was used.
func TestAStoredConversationReservesItsContextWindow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.proxy()
	seen := request{method: http.MethodPost, path: "/v1/responses", body: `{"model":"gpt-4o-mini","max_output_tokens":50,"input":"hi"}`}
	stored := seen
	stored.body = `{"model":"gpt-4o-mini","max_output_tokens":50,"input":"hi","previous_response_id":"resp_1"}`
	w.setBudget(9)
	w.send(p.URL, stored).want(http.StatusPaymentRequired)
	w.serve(p.URL, 1, seen)
	w.setBudget(11)
	w.serve(p.URL, 1, stored)
	open := w.begin(p.URL, stored.taking(3*time.Second))
	w.send(p.URL, stored).want(http.StatusTooManyRequests) // only the open one is in its way
	open.want(http.StatusOK)
	w.serve(p.URL, 1, stored)
	w.fill()
	w.check(books{})
}

// Schedule (m): requests of one workspace that begin and end all at once append crosswise: each counts once.
func TestManyRequestsAtOnceCountOnceEach(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.proxy()
	w.setBudget(40)
	var all []*pending
	for i := range 120 {
		all = append(all, w.send(p.URL, []request{call, chat, free}[i%3]))
	}
	for _, a := range all {
		a.wait()
	}
	w.fill()
	w.check(books{})
}

// Schedule (o), and (t) once more: all that a workspace has in the log is sent again, by a tool that knows nothing of it. It changes nothing.
func TestTheLogIsSentOnceMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.proxy()
	w.setBudget(10)
	w.serve(p.URL, 2, chat)
	open := w.begin(p.URL, call.taking(3*time.Second))
	w.serve(p.URL, 2, call)
	w.awaitShipped()
	w.sendAgain(topics.Costs.Name)
	open.want(http.StatusOK)
	w.system.AwaitBalance(t, w.tenant, budget)
	w.sendAgain(topics.Costs.Name, topics.Requests.Name)
	w.serve(p.URL, 1, call) // behind all that
	w.fill()
	w.check(books{})
}

// sendAgain appends the workspace's records of topics once more, as they are.
func (w *world) sendAgain(names ...string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	var again []*kgo.Record
	err := w.system.ReadLog(ctx, func(r *kgo.Record) {
		if string(r.Key) == w.tenant.ID {
			again = append(again, &kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers})
		}
	}, names...)
	if err != nil {
		w.t.Fatal(err)
	}
	if len(again) == 0 {
		w.t.Fatal("the log has nothing of the workspace")
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(w.system.Config().Kafka.Seeds()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		w.t.Fatalf("connecting to Kafka: %v", err)
	}
	defer client.Close()
	if err := client.ProduceSync(ctx, again...).FirstErr(); err != nil {
		w.t.Fatalf("sending %d records again: %v", len(again), err)
	}
}

// Schedule (y): a price changes while a request is under way: it costs what it was when it began, and its bound held.
func TestAPriceChangesUnderARequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.proxy()
	w.setBudget(10)
	open := w.begin(p.URL, chat.taking(80*time.Second))
	from := time.Now().UTC().Add(62 * time.Second) // none may begin earlier than a minute from now
	_, err := w.system.Admin.PutPrice(t.Context(), "openai", "gpt-4o-mini", []adminclient.PriceOverride{{
		EffectiveFrom: from, Rates: adminclient.Rates{PerMillion: map[string]string{"input_tokens": "100", "output_tokens": "100"}},
	}})
	if err != nil {
		t.Fatalf("setting a price: %v", err)
	}
	<-time.After(time.Until(from))
	dear := chat
	dear.fault = "500" // nothing is billed at that price
	for _, base := range w.bases() {
		harness.Eventually(t, 20*time.Second, func() error {
			if got := w.ask(base, dear); got.status != http.StatusPaymentRequired {
				return fmt.Errorf("%s answers %d %s, and not that there is no room at the new price", base, got.status, got.code)
			}
			return nil
		})
	}
	open.want(http.StatusOK)
	w.fill()
	w.check(books{})
}
