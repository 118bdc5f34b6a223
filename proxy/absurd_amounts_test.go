package proxy_test

import (
	"net"
	"testing"

	"github.com/rateguard/rateguard/schemas/money"
)

// A client may declare any number of tokens and an upstream may report any. The stores take no amount above
// money.MaxCall, so none may get into the log: the ledger would refuse a cost that another store counts.
func TestAbsurdAmountsDoNotReachTheLog(t *testing.T) {
	absurd := `{"model":"gpt-4o-mini","max_tokens":1000000000,"n":1000000,"messages":[{"role":"user","content":"hi"}]}`
	for name, tc := range map[string]struct {
		upstream func(t *testing.T) string
		body     string
		kind     string
		bounded  bool
	}{
		"declared, and the outcome is unknown": {
			func(t *testing.T) string { return rawUpstream(t, func(net.Conn, string) {}) }, absurd, "expired", false,
		},
		"declared, and answered": {
			func(t *testing.T) string { return upstreamFunc(t, answerJSON(chatAnswer)) }, absurd, "settled", false,
		},
		"reported": {
			func(t *testing.T) string {
				return upstreamFunc(t, answerJSON(`{"choices":[],"usage":{"prompt_tokens":90000000000000,"completion_tokens":5}}`))
			}, chatBody, "settled", true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigConfig{upstream: tc.upstream(t)})
			r.post(t, "/v1/chat/completions", tc.body)
			o, kind := r.log.outcome(t)
			if kind != tc.kind || (o.BoundNanoUsd != nil) != tc.bounded {
				t.Errorf("got %s with bound %v, want %s, bounded %v", kind, o.BoundNanoUsd, tc.kind, tc.bounded)
			}
			row := r.log.row(t)
			for what, nano := range map[string]*int64{"bound": o.BoundNanoUsd, "cost": o.CostNanoUsd, "row": row.CostNanoUsd} {
				if nano != nil && money.Nano(*nano) > money.MaxCall {
					t.Errorf("%s of %s USD, above %s", what, money.Nano(*nano), money.MaxCall)
				}
			}
			if (o.CostNanoUsd == nil) != (row.CostNanoUsd == nil) || o.GetCostNanoUsd() != row.GetCostNanoUsd() {
				t.Errorf("end says %v, row %v", o.CostNanoUsd, row.CostNanoUsd)
			}
		})
	}
}
