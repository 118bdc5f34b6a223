package traffic_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rateguard/rateguard/deploy/mockprovider"
	"github.com/rateguard/rateguard/deploy/traffic"
)

func TestEveryKindIsAnsweredByTheMockProvider(t *testing.T) {
	mock := mockprovider.New(mockprovider.Config{Keep: -1})
	s := httptest.NewServer(mock)
	t.Cleanup(s.Close)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	run := traffic.New(traffic.Config{URL: s.URL, Key: "demo", Rate: 2000, Duration: 400 * time.Millisecond, Seed: 1})
	run.Run(ctx)
	sum := run.Summary()
	if sum.Running != 0 || sum.Sent == 0 || sum.Sent != sum.OK+sum.Refused+sum.Failed {
		t.Fatalf("summary does not add up: %+v", sum)
	}
	for _, row := range sum.Rows {
		wantFailed := int64(0)
		if row.Name == "upstream answers 500" || row.Name == "upstream cuts a stream" {
			wantFailed = row.Sent
		}
		if row.Failed != wantFailed || row.Sent == 0 {
			t.Errorf("%s: %d sent, %d failed, want %d (last error %s)", row.Name, row.Sent, row.Failed, wantFailed, sum.LastError)
		}
	}
	if served := int64(len(mock.Served())); served != sum.Sent {
		t.Errorf("the mock served %d, %d were sent", served, sum.Sent)
	}
}

func TestCostsAreAddedExactly(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Rateguard-Cost-Usd", "0.000000001") }))
	t.Cleanup(s.Close)
	run := traffic.New(traffic.Config{URL: s.URL, Key: "demo", Rate: 1000, Duration: 50 * time.Millisecond})
	run.Run(t.Context())
	if sum := run.Summary(); int64(sum.Cost) != sum.Sent {
		t.Errorf("cost is %s after %d requests of 0.000000001", sum.Cost, sum.Sent)
	}
}

func TestRateIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		run := traffic.New(traffic.Config{URL: "http://127.0.0.1:0", Rate: 10, Duration: 10*time.Second - time.Millisecond})
		run.Run(t.Context())
		if sum := run.Summary(); sum.Sent != 100 {
			t.Errorf("sent %d in 10 s, want 100", sum.Sent)
		}
	})
}
