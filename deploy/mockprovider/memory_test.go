package mockprovider_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rateguard/rateguard/deploy/mockprovider"
)

// ended waits until n requests ended: a record is complete only after its client has the answer.
func ended(t *testing.T, p *mockprovider.Provider, n int) []mockprovider.Record {
	t.Helper()
	return waitFor(t, p, func(records []mockprovider.Record) bool {
		if len(records) != n {
			return false
		}
		for _, r := range records {
			if !r.Ended {
				return false
			}
		}
		return true
	})
}

func arrived(t *testing.T, p *mockprovider.Provider, n int) []mockprovider.Record {
	t.Helper()
	return waitFor(t, p, func(records []mockprovider.Record) bool { return len(records) == n })
}

func waitFor(t *testing.T, p *mockprovider.Provider, ok func([]mockprovider.Record) bool) []mockprovider.Record {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		records := p.Served()
		if ok(records) {
			return records
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waited too long, records are %+v", records)
		case <-tick.C:
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	p, url := start(t, mockprovider.Config{Keep: 3})
	for range 5 {
		post(t, url+"/v1/chat/completions", chatBody)
	}
	var seqs []uint64
	for _, r := range ended(t, p, 3) {
		seqs = append(seqs, r.Seq)
	}
	if diff := cmp.Diff([]uint64{3, 4, 5}, seqs); diff != "" {
		t.Errorf("kept records differ (-want +got):\n%s", diff)
	}
	var got struct {
		Data      []mockprovider.Record `json:"data"`
		Forgotten int                   `json:"forgotten"`
	}
	a := post(t, url+"/__mock/served?after=4", "")
	if err := json.Unmarshal([]byte(a.body), &got); err != nil {
		t.Fatal(err)
	}
	if got.Forgotten != 2 || len(got.Data) != 1 || got.Data[0].Seq != 5 {
		t.Errorf("got %s", a.body)
	}
}

func TestJournalOutlivesTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "served.jsonl")
	first := journal(t, path)
	p, url := start(t, mockprovider.Config{Journal: first, Keep: -1})
	post(t, url+"/v1/chat/completions", chatBody, "X-Request-Id", "ours-1")
	post(t, url+"/v1/chat/completions", with(chatBody, `"stream":true`), "X-Mock-Fault", "cut")
	want := ended(t, p, 2)
	if want[0].RequestID != "ours-1" {
		t.Errorf("request id is %q", want[0].RequestID)
	}
	// A line that a crash cut off must not hide those before it, nor those after.
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"seq":3,"id":"torn`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	p, url = start(t, mockprovider.Config{Journal: journal(t, path), Keep: -1})
	if diff := cmp.Diff(want, p.Served()); diff != "" {
		t.Errorf("records after the restart differ (-want +got):\n%s", diff)
	}
	post(t, url+"/v1/chat/completions", chatBody)
	if got := ended(t, p, 3); got[2].Seq != 3 {
		t.Errorf("the next is number %d, want 3", got[2].Seq)
	}
	again := journal(t, path)
	if n := len(again.Records()); n != 3 {
		t.Errorf("%d records in the file, want 3", n)
	}
}

func journal(t *testing.T, path string) *mockprovider.Journal {
	t.Helper()
	j, err := mockprovider.OpenJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func TestServeEndsHangingAnswersWithItsContext(t *testing.T) {
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := mockprovider.New(mockprovider.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- p.Serve(ctx, l) }()
	got := make(chan answer, 1)
	go func() {
		got <- post(t, "http://"+l.Addr().String()+"/v1/chat/completions", chatBody, "X-Mock-Fault", "hang")
	}()
	arrived(t, p, 1)
	cancel()
	if err := <-served; err != nil {
		t.Errorf("serving ended with %v", err)
	}
	if a := <-got; a.cut == nil {
		t.Errorf("the hanging client got %d", a.status)
	}
	if a := post(t, "http://"+l.Addr().String()+"/__mock/healthz", ""); a.cut == nil {
		t.Errorf("still answers: %d %s", a.status, http.StatusText(a.status))
	}
}
