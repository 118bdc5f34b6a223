package clickhouse

import (
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	chproto "github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"
)

// hello is the first query of clickhouse-go. It reads the answer at its own protocol revision,
// then speaks at the one that it is told: 0, the plain form that the engine writes.
const hello = "SELECT displayName(), version(), revision(), timezone()"

// handler speaks ClickHouse's HTTP interface over the engine.
type handler struct {
	pool           *pool
	user, password string
	version, zone  string
}

// ServeHTTP answers /ping and queries at any other path.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/ping" {
		_, _ = w.Write([]byte("Ok.\n"))
		return
	}
	if !h.known(r) {
		denied := &queryError{text: "Code: 516. DB::Exception: Authentication failed: wrong user or password. (AUTHENTICATION_FAILED)"}
		(&answer{w: w}).fail(denied)
		return
	}
	q, err := parseRequest(r)
	a := newAnswer(w, r, q)
	if err != nil {
		a.fail(err)
		return
	}
	if id := q.reserved["query_id"]; id != "" {
		w.Header().Set("X-ClickHouse-Query-Id", id)
	}
	if strings.TrimSpace(q.sql) == hello {
		err = h.greet(a, q)
	} else {
		err = h.execute(r, a, q)
	}
	if err == nil {
		err = a.end()
	}
	if err != nil {
		a.fail(err)
	}
}

// known checks the password: the port is open to every user of the machine.
func (h *handler) known(r *http.Request) bool {
	user, password, ok := r.BasicAuth()
	if !ok {
		user, password = r.Header.Get("X-ClickHouse-User"), r.Header.Get("X-ClickHouse-Key")
	}
	if user == "" {
		user, password = r.URL.Query().Get("user"), r.URL.Query().Get("password")
	}
	return subtle.ConstantTimeCompare([]byte(user+"\x00"+password), []byte(h.user+"\x00"+h.password)) == 1
}

func (h *handler) execute(r *http.Request, a *answer, q request) error {
	s, err := h.pool.take(r.Context(), q.settingsOfSession(), q.database)
	if err != nil {
		return err
	}
	defer h.pool.give(s)
	s.spoiled = q.changesSession()
	begin := time.Now()
	sink := func(b []byte) error {
		_, err := a.Write(b)
		return err
	}
	var st stats
	switch {
	case q.rows != nil:
		st, err = s.insert(q.sql, q.rowsFormat, q.params, q.rows)
	case q.streams():
		st, err = s.stream(q.sql, q.format, q.params, func(b []byte) error {
			if err := r.Context().Err(); err != nil {
				return err
			}
			return sink(b)
		})
	default:
		st, err = s.run(q.sql, q.format, q.params, sink)
	}
	if err != nil {
		return err
	}
	if !a.begun {
		a.summary(st, time.Since(begin))
	}
	return nil
}

// settingsOfSession leaves out what only the transport needs.
func (q request) settingsOfSession() map[string]string {
	settings := make(map[string]string, len(q.settings))
	for name, value := range q.settings {
		if name != "network_compression_method" && name != "network_zstd_compression_level" {
			settings[name] = value
		}
	}
	return settings
}

func (a *answer) summary(st stats, took time.Duration) {
	raw, err := json.Marshal(map[string]string{
		"read_rows": strconv.FormatUint(st.readRows, 10), "read_bytes": strconv.FormatUint(st.readBytes, 10),
		"written_rows": strconv.FormatUint(st.writtenRows, 10), "written_bytes": strconv.FormatUint(st.writtenBytes, 10),
		"elapsed_ns": strconv.FormatInt(took.Nanoseconds(), 10),
	})
	if err == nil {
		a.w.Header().Set("X-ClickHouse-Summary", string(raw))
	}
}

// greet answers the hello in the revision that the driver names.
func (h *handler) greet(a *answer, q request) error {
	revision, err := strconv.ParseUint(q.reserved["client_protocol_version"], 10, 32)
	if err != nil {
		revision = 0
	}
	block := proto.NewBlock()
	for _, c := range []struct{ name, kind string }{
		{"displayName()", "String"}, {"version()", "String"}, {"revision()", "UInt32"}, {"timezone()", "String"},
	} {
		if err := block.AddColumn(c.name, column.Type(c.kind)); err != nil {
			return fmt.Errorf("building the hello: %w", err)
		}
	}
	if err := block.Append("rateguard", h.version, uint32(0), h.zone); err != nil {
		return fmt.Errorf("building the hello: %w", err)
	}
	var buf chproto.Buffer
	if err := block.Encode(&buf, revision); err != nil {
		return fmt.Errorf("encoding the hello: %w", err)
	}
	_, err = a.Write(buf.Buf)
	return err
}
