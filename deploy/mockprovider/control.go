package mockprovider

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// served is the answer of GET /__mock/served.
type served struct {
	Data []Record `json:"data"`
	// Forgotten is how many older records the memory no longer holds.
	Forgotten uint64 `json:"forgotten"`
}

// serveControl answers what tests and people ask the mock about itself.
func (p *Provider) serveControl(w http.ResponseWriter, r *http.Request, what string) {
	switch r.Method + " " + what {
	case "GET healthz":
		w.WriteHeader(http.StatusOK)
	case "GET served":
		p.serveServed(w, r)
	case "DELETE served":
		if err := p.ledger.forget(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	default:
		http.NotFound(w, r)
	}
}

// serveServed lists the records; ?after=SEQ leaves out old ones, ?request_id= and ?id= select.
func (p *Provider) serveServed(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	var after uint64
	if s := q.Get("after"); s != "" {
		var err error
		if after, err = strconv.ParseUint(s, 10, 64); err != nil {
			http.Error(w, "after: "+err.Error(), http.StatusBadRequest)
			return
		}
	}
	answer := served{Data: []Record{}, Forgotten: p.ledger.lost()}
	for _, rec := range p.ledger.all() {
		if rec.Seq <= after || !matches(q.Get("request_id"), rec.RequestID) || !matches(q.Get("id"), rec.ID) {
			continue
		}
		answer.Data = append(answer.Data, rec)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // the reader left
}

func matches(want, have string) bool { return want == "" || want == have }
