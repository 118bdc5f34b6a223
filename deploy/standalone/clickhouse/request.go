package clickhouse

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// maxStatement bounds a statement with the rows written into it; streamed rows have no bound.
const maxStatement = 256 << 20

// request is one call of the HTTP interface.
type request struct {
	sql      string
	database string
	// format is what a result without a FORMAT clause has.
	format   string
	params   []param
	settings map[string]string
	// reserved are the URL parameters that are not settings.
	reserved map[string]string
	// rows follow the statement as the body of an INSERT in rowsFormat; nil when there are none.
	rows       io.Reader
	rowsFormat string
}

// reservedNames are the URL parameters with a meaning of their own.
var reservedNames = []string{
	"query", "database", "default_format", "compress", "decompress", "enable_http_compression", "user", "password", "quota_key", "query_id",
	"client_protocol_version", "wait_end_of_query", "buffer_size", "session_id", "session_timeout", "session_check", "stacktrace", "role", "profile",
	"http_zlib_compression_level", "http_response_buffer_size", "http_wait_end_of_query",
}

// dataClause is the end of an INSERT whose rows follow in the body.
var (
	formatClause = regexp.MustCompile(`(?is)\s+FORMAT\s+([A-Za-z][A-Za-z0-9]*)\s*;?\s*$`)
	valuesClause = regexp.MustCompile(`(?is)\s+VALUES\s*;?\s*$`)
	insertStart  = regexp.MustCompile(`(?is)^\s*INSERT\s`)
	leading      = regexp.MustCompile(`(?s)^(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/)*`)
)

func parseRequest(r *http.Request) (request, error) {
	q := request{database: defaultDatabase, format: "TabSeparated", settings: map[string]string{}, reserved: map[string]string{}}
	for name, values := range r.URL.Query() {
		value := values[len(values)-1]
		switch {
		case slices.Contains(reservedNames, name):
			q.reserved[name] = value
		case strings.HasPrefix(name, "param_"):
			q.params = append(q.params, param{name: strings.TrimPrefix(name, "param_"), value: value})
		default:
			q.settings[name] = value
		}
	}
	if q.reserved["session_id"] != "" {
		return q, &queryError{text: "Code: 48. DB::Exception: Sessions are not supported by the embedded engine. (NOT_IMPLEMENTED)"}
	}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/form-data") {
		return q, &queryError{text: "Code: 48. DB::Exception: External tables are not supported by the embedded engine. (NOT_IMPLEMENTED)"}
	}
	for _, v := range []string{r.Header.Get("X-ClickHouse-Database"), q.reserved["database"]} {
		if v != "" {
			q.database = v
		}
	}
	for _, v := range []string{r.Header.Get("X-ClickHouse-Format"), q.reserved["default_format"]} {
		if v != "" {
			q.format = v
		}
	}
	return q, q.readStatement(r)
}

// readStatement takes the statement from the URL, the body or both.
func (q *request) readStatement(r *http.Request) error {
	body, err := requestBody(r, q.reserved["decompress"] == "1")
	if err != nil {
		return err
	}
	q.sql = q.reserved["query"]
	if insertStart.MatchString(strip(q.sql)) && q.splitInsert() {
		q.rows = body
		return nil
	}
	rest, err := io.ReadAll(io.LimitReader(body, maxStatement+1))
	if err != nil {
		return fmt.Errorf("reading the statement: %w", err)
	}
	if len(rest) > maxStatement {
		return errors.New("the statement is too large: send the rows of an INSERT as the body and the statement in the URL")
	}
	if q.sql != "" && len(rest) > 0 {
		q.sql += "\n"
	}
	q.sql += string(rest)
	if strings.TrimSpace(q.sql) == "" {
		return &queryError{text: "Code: 62. DB::Exception: Syntax error: empty query. (SYNTAX_ERROR)"}
	}
	return nil
}

// splitInsert takes the format off an INSERT whose rows are in the body.
func (q *request) splitInsert() bool {
	if m := formatClause.FindStringSubmatchIndex(q.sql); m != nil {
		q.rowsFormat = q.sql[m[2]:m[3]]
		q.sql = q.sql[:m[0]]
		return true
	}
	if m := valuesClause.FindStringIndex(q.sql); m != nil {
		q.rowsFormat, q.sql = "Values", q.sql[:m[0]]
		return true
	}
	return false
}

// strip removes comments and space before a statement.
func strip(sql string) string { return sql[len(leading.FindString(sql)):] }

// firstWord returns the statement's verb in capitals.
func firstWord(sql string) string {
	sql = strip(sql)
	end := strings.IndexFunc(sql, func(r rune) bool { return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') })
	if end < 0 {
		end = len(sql)
	}
	return strings.ToUpper(sql[:end])
}

// streams reports whether the result may be sent block by block.
func (q request) streams() bool {
	if q.format != "Native" || formatClause.MatchString(q.sql) {
		return false
	}
	verb := firstWord(q.sql)
	return verb == "SELECT" || verb == "WITH"
}

// changesSession reports whether the statement leaves its mark on the session.
func (q request) changesSession() bool {
	switch firstWord(q.sql) {
	case "SET", "USE":
		return true
	case "CREATE", "DROP":
		return strings.Contains(strings.ToUpper(q.sql), "TEMPORARY")
	default:
		return false
	}
}
