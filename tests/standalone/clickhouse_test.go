package standalone_test

import (
	"errors"
	"fmt"
	"math"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"

	"github.com/rateguard/rateguard/deploy/standalone/clickhouse"
)

// engineOf starts one embedded engine for a test.
func engineOf(t *testing.T) *clickhouse.Server {
	t.Helper()
	s, err := clickhouse.Start(t.Context(), clickhouse.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatalf("starting the engine: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing the engine: %v", err)
		}
	})
	return s
}

// dial returns a client of the driver that production uses.
func dial(t *testing.T, s *clickhouse.Server, change ...func(*ch.Options)) driver.Conn {
	t.Helper()
	options, err := ch.ParseDSN(s.URL())
	if err != nil {
		t.Fatalf("parsing the URL: %v", err)
	}
	for _, c := range change {
		c(options)
	}
	conn, err := ch.Open(options)
	if err != nil {
		t.Fatalf("opening: %v", err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return conn
}

func exec(t *testing.T, c driver.Conn, sql string, args ...any) {
	t.Helper()
	if err := c.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func count(t *testing.T, c driver.Conn, table string) uint64 {
	t.Helper()
	var n uint64
	if err := c.QueryRow(t.Context(), "SELECT count() FROM "+table).Scan(&n); err != nil {
		t.Fatalf("counting %s: %v", table, err)
	}
	return n
}

// wide is a row with the types that the product's tables use.
type wide struct {
	I8   int8              `ch:"i8"`
	I64  int64             `ch:"i64"`
	U64  uint64            `ch:"u64"`
	F    float64           `ch:"f"`
	B    bool              `ch:"b"`
	S    string            `ch:"s"`
	LC   string            `ch:"lc"`
	FS   string            `ch:"fs"`
	N    *string           `ch:"n"`
	NI   *int64            `ch:"ni"`
	LN   *string           `ch:"ln"`
	D    time.Time         `ch:"d"`
	DT   time.Time         `ch:"dt"`
	DT64 time.Time         `ch:"dt64"`
	U    uuid.UUID         `ch:"u"`
	A    []string          `ch:"a"`
	M    map[string]uint64 `ch:"m"`
	E    string            `ch:"e"`
	IP   net.IP            `ch:"ip"`
}

const wideTable = `CREATE TABLE wide (
 i8 Int8, i64 Int64, u64 UInt64, f Float64, b Bool, s String, lc LowCardinality(String), fs FixedString(4), n Nullable(String), ni Nullable(Int64),
 ln LowCardinality(Nullable(String)), d Date, dt DateTime('UTC'), dt64 DateTime64(6, 'UTC'), u UUID, a Array(String), m Map(String, UInt64),
 e Enum8('open' = 1, 'closed' = 2), ip IPv6) ENGINE = MergeTree ORDER BY i64`

func TestTypesGoInAndComeBack(t *testing.T) {
	c := dial(t, engineOf(t))
	exec(t, c, wideTable)
	text, number := "x\x00y", int64(-5)
	want := []wide{
		{
			I8: math.MinInt8, I64: math.MinInt64, U64: math.MaxUint64, F: math.Inf(1), B: true, S: "quote ' \\ \n NUL \x00 ü __exception__\r\n", LC: "gpt", FS: "abcd",
			N: &text, NI: &number, LN: &text, D: time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC), DT: time.Date(2026, 11, 23, 22, 50, 1, 0, time.UTC),
			DT64: time.Date(2026, 11, 23, 22, 50, 1, 123456000, time.UTC), U: uuid.MustParse("01938a4e-0000-7000-8000-000000000001"),
			A: []string{"", "b"}, M: map[string]uint64{"k": 1}, E: "closed", IP: net.ParseIP("2001:db8::1"),
		},
		{
			I64: math.MaxInt64, FS: "\x00\x00\x00\x00", D: time.Unix(0, 0).UTC(), DT: time.Unix(0, 0).UTC(), DT64: time.Unix(0, 0).UTC(), A: []string{},
			M: map[string]uint64{}, E: "open", IP: net.ParseIP("::1"),
		},
	}
	b, err := c.PrepareBatch(t.Context(), "INSERT INTO wide")
	if err != nil {
		t.Fatal(err)
	}
	for i := range want {
		if err := b.AppendStruct(&want[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Send(); err != nil {
		t.Fatal(err)
	}
	var got []wide
	if err := c.Select(t.Context(), &got, "SELECT * FROM wide ORDER BY i64"); err != nil {
		t.Fatal(err)
	}
	if g, w := show(got), show(want); g != w {
		t.Errorf("got:\n%s\nwant:\n%s", g, w)
	}
}

func show(rows []wide) string {
	var b strings.Builder
	for _, r := range rows {
		var n, ln string
		var ni int64
		if r.N != nil {
			n = *r.N
		}
		if r.LN != nil {
			ln = *r.LN
		}
		if r.NI != nil {
			ni = *r.NI
		}
		r.D, r.DT, r.DT64 = r.D.UTC(), r.DT.UTC(), r.DT64.UTC()
		fmt.Fprintf(&b, "%d %d %d %v %t %q %q %q %t%q %t%d %t%q %s %s %s %s %q %v %s %s\n", r.I8, r.I64, r.U64, r.F, r.B, r.S, r.LC, r.FS, r.N == nil, n,
			r.NI == nil, ni, r.LN == nil, ln, r.D.Format(time.DateOnly), r.DT, r.DT64, r.U, r.A, r.M, r.E, r.IP)
	}
	return b.String()
}

func TestParametersAreBoundAndNotPasted(t *testing.T) {
	c := dial(t, engineOf(t))
	evil := `'; DROP TABLE x -- \`
	for name, value := range map[string]string{"plain": "a", "quotes": `it's "so"`, "injection": evil, "unicode": "ü€", "empty": ""} {
		t.Run(name, func(t *testing.T) {
			var got string
			if err := c.QueryRow(t.Context(), "SELECT ?", value).Scan(&got); err != nil {
				t.Fatal(err)
			}
			if got != value {
				t.Errorf("positional: got %q, want %q", got, value)
			}
			if strings.Contains(value, `\`) {
				return // the server form takes escapes, as a real server does
			}
			if err := c.QueryRow(t.Context(), "SELECT {v:String}", ch.Named("v", value)).Scan(&got); err != nil {
				t.Fatal(err)
			}
			if got != value {
				t.Errorf("named: got %q, want %q", got, value)
			}
		})
	}
	var sum int64
	ctx := ch.Context(t.Context(), ch.WithParameters(ch.Parameters{"a": "40", "b": "2"}))
	if err := c.QueryRow(ctx, "SELECT {a:Int64} + {b:Int64}").Scan(&sum); err != nil || sum != 42 {
		t.Errorf("got %d, %v; want 42", sum, err)
	}
}

func TestSettingsLastOneRequest(t *testing.T) {
	c := dial(t, engineOf(t), func(o *ch.Options) { o.MaxOpenConns = 1 })
	threads := func(ctx ...ch.QueryOption) uint64 {
		t.Helper()
		var n uint64
		if err := c.QueryRow(ch.Context(t.Context(), ctx...), "SELECT toUInt64(getSetting('max_block_size'))").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := threads()
	if got := threads(ch.WithSettings(ch.Settings{"max_block_size": 1234})); got != 1234 {
		t.Errorf("with the setting: got %d, want 1234", got)
	}
	if got := threads(); got != before {
		t.Errorf("after it: got %d, want %d", got, before)
	}
	exec(t, c, "SET max_block_size = 77")
	if got := threads(); got != before {
		t.Errorf("after SET in a request of its own: got %d, want %d", got, before)
	}
	err := c.Exec(ch.Context(t.Context(), ch.WithSettings(ch.Settings{"no_such_setting": 1})), "SELECT 1")
	wantCode(t, err, 115)
	if got := threads(); got != before {
		t.Errorf("after a bad setting: got %d, want %d", got, before)
	}
}

func wantCode(t *testing.T, err error, code int32) {
	t.Helper()
	var e *ch.Exception
	if !errors.As(err, &e) {
		t.Errorf("got %v, want an exception with code %d", err, code)
		return
	}
	if e.Code != code {
		t.Errorf("got code %d (%s), want %d", e.Code, e.Message, code)
	}
}

func TestErrorsHaveClickHousesCodes(t *testing.T) {
	s := engineOf(t)
	for _, compression := range []ch.CompressionMethod{ch.CompressionNone, ch.CompressionLZ4} {
		c := dial(t, s, func(o *ch.Options) { o.Compression = &ch.Compression{Method: compression} })
		for name, test := range map[string]struct {
			sql  string
			code int32
		}{
			"syntax":           {"SELEKT 1", 62},
			"unknown table":    {"SELECT * FROM nowhere", 60},
			"unknown column":   {"SELECT nothing FROM system.one", 47},
			"unknown function": {"SELECT nonsense(1)", 46},
			"bad cast":         {"SELECT toInt8('x')", 6},
			"two statements":   {"SELECT 1; SELECT 2", 62},
			"too long":         {"SELECT sleepEachRow(1) FROM numbers(3) SETTINGS max_execution_time=1, max_block_size=1", 159},
			"too much memory":  {"SELECT groupArray(number) FROM numbers(10000000) SETTINGS max_memory_usage=1000000", 241},
		} {
			t.Run(name+" "+compression.String(), func(t *testing.T) {
				rows, err := c.Query(t.Context(), test.sql)
				if err == nil {
					for rows.Next() {
						continue
					}
					err = errors.Join(rows.Err(), rows.Close())
				}
				wantCode(t, err, test.code)
			})
		}
		var one uint8
		if err := c.QueryRow(t.Context(), "SELECT 1").Scan(&one); err != nil {
			t.Errorf("after the errors: %v", err)
		}
	}
}

func TestAnErrorInTheMiddleOfAResultIsSeen(t *testing.T) {
	s := engineOf(t)
	for _, compression := range []ch.CompressionMethod{ch.CompressionNone, ch.CompressionLZ4, ch.CompressionZSTD} {
		t.Run(compression.String(), func(t *testing.T) {
			c := dial(t, s, func(o *ch.Options) { o.Compression = &ch.Compression{Method: compression} })
			rows, err := c.Query(t.Context(), "SELECT throwIf(number = 900000, 'too far') FROM numbers(1000000) SETTINGS max_block_size=1000, max_threads=1")
			n := 0
			if err == nil {
				for rows.Next() {
					n++
				}
				err = errors.Join(rows.Err(), rows.Close())
			}
			wantCode(t, err, 395)
			if n == 0 {
				t.Error("no rows before the error: the result was not streamed")
			}
		})
	}
}

func TestCompressionsCarryRowsBothWays(t *testing.T) {
	s := engineOf(t)
	for i, compression := range []ch.CompressionMethod{ch.CompressionNone, ch.CompressionLZ4, ch.CompressionZSTD, ch.CompressionGZIP} {
		t.Run(compression.String(), func(t *testing.T) {
			c := dial(t, s, func(o *ch.Options) { o.Compression = &ch.Compression{Method: compression, Level: 3} })
			table := fmt.Sprintf("c%d", i)
			exec(t, c, "CREATE TABLE "+table+" (n Int64, s String) ENGINE = MergeTree ORDER BY n")
			insert(t, c, table, 0, 100_000)
			rows, err := c.Query(t.Context(), "SELECT n, s FROM "+table+" ORDER BY n")
			if err != nil {
				t.Fatal(err)
			}
			next := int64(0)
			for rows.Next() {
				var n int64
				var text string
				if err := rows.Scan(&n, &text); err != nil {
					t.Fatal(err)
				}
				if n != next || text != fmt.Sprint("row ", n) {
					t.Fatalf("row %d: got %d %q", next, n, text)
				}
				next++
			}
			if err := errors.Join(rows.Err(), rows.Close()); err != nil {
				t.Fatal(err)
			}
			if next != 100_000 {
				t.Errorf("got %d rows, want 100000", next)
			}
		})
	}
}

func insert(t *testing.T, c driver.Conn, table string, from, to int, options ...ch.QueryOption) {
	t.Helper()
	b, err := c.PrepareBatch(ch.Context(t.Context(), options...), "INSERT INTO "+table+" (n, s)")
	if err != nil {
		t.Fatal(err)
	}
	for n := from; n < to; n++ {
		if err := b.Append(int64(n), fmt.Sprint("row ", n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Send(); err != nil {
		t.Fatal(err)
	}
}

func TestABadInsertLeavesNoRow(t *testing.T) {
	c := dial(t, engineOf(t))
	exec(t, c, "CREATE TABLE strict (n Int64, CONSTRAINT small CHECK n < 10) ENGINE = MergeTree ORDER BY n")
	b, err := c.PrepareBatch(t.Context(), "INSERT INTO strict")
	if err != nil {
		t.Fatal(err)
	}
	for n := range 20 {
		if err := b.Append(int64(n)); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, b.Send(), 469)
	if n := count(t, c, "strict"); n != 0 {
		t.Errorf("%d rows of a refused insert are there", n)
	}
	if _, err := c.PrepareBatch(t.Context(), "INSERT INTO missing"); err == nil {
		t.Error("a batch for a missing table was prepared")
	}
}

func TestEmptyResults(t *testing.T) {
	c := dial(t, engineOf(t))
	rows, err := c.Query(t.Context(), "SELECT number FROM numbers(0)")
	if err != nil {
		t.Fatal(err)
	}
	if rows.Next() {
		t.Error("an empty result has a row")
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		t.Error(err)
	}
	var n uint64
	if err := c.QueryRow(t.Context(), "SELECT number FROM numbers(0)").Scan(&n); err == nil {
		t.Error("a row was scanned from an empty result")
	}
	var none []struct{ Number uint64 }
	if err := c.Select(t.Context(), &none, "SELECT number AS Number FROM numbers(0)"); err != nil || len(none) != 0 {
		t.Errorf("got %v, %v", none, err)
	}
}

func TestQueriesRunBesideOneAnother(t *testing.T) {
	c := dial(t, engineOf(t), func(o *ch.Options) { o.MaxOpenConns = 24 })
	exec(t, c, "CREATE TABLE busy (n Int64, s String) ENGINE = MergeTree ORDER BY n")
	var wg sync.WaitGroup
	for w := range 24 {
		wg.Go(func() {
			for i := range 5 {
				b, err := c.PrepareBatch(ch.Context(t.Context(), ch.WithSettings(ch.Settings{"insert_deduplication_token": fmt.Sprint(w, i)})), "INSERT INTO busy")
				if err == nil {
					err = errors.Join(b.Append(int64(w), "x"), b.Send())
				}
				if err != nil {
					t.Errorf("inserting: %v", err)
					return
				}
				var got int64
				if err := c.QueryRow(t.Context(), "SELECT toInt64(?)", w*100+i).Scan(&got); err != nil || got != int64(w*100+i) {
					t.Errorf("got %d, %v; want %d", got, err, w*100+i)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := count(t, c, "busy"); n != 24*5 {
		t.Errorf("got %d rows, want %d", n, 24*5)
	}
}

func TestADeduplicationTokenMakesAnInsertCountOnce(t *testing.T) {
	c := dial(t, engineOf(t))
	exec(t, c, "CREATE TABLE rows_in (n Int64, s String) ENGINE = MergeTree ORDER BY n SETTINGS non_replicated_deduplication_window = 100")
	exec(t, c, "CREATE TABLE sums (k Int64, c UInt64) ENGINE = SummingMergeTree ORDER BY k SETTINGS non_replicated_deduplication_window = 100")
	exec(t, c, "CREATE MATERIALIZED VIEW to_sums TO sums AS SELECT n % 10 AS k, count() AS c FROM rows_in GROUP BY k")
	with := func(token string) ch.QueryOption {
		return ch.WithSettings(ch.Settings{
			"async_insert": 0, "insert_deduplicate": 1, "insert_deduplication_token": token, "deduplicate_blocks_in_dependent_materialized_views": 1,
		})
	}
	for _, token := range []string{"a", "a", "b", "b", "a"} {
		insert(t, c, "rows_in", 0, 100, with(token)) // the same rows: only the token tells them apart
	}
	if n := count(t, c, "rows_in"); n != 200 {
		t.Errorf("got %d rows, want 200", n)
	}
	var sum uint64
	if err := c.QueryRow(t.Context(), "SELECT sum(c) FROM sums").Scan(&sum); err != nil || sum != 200 {
		t.Errorf("the view counted %d, %v; want 200", sum, err)
	}
}

func TestALargeBatchIsOneInsert(t *testing.T) {
	c := dial(t, engineOf(t))
	exec(t, c, "CREATE TABLE large (n Int64, s String) ENGINE = MergeTree ORDER BY n SETTINGS non_replicated_deduplication_window = 100")
	for range 2 {
		insert(t, c, "large", 0, 300_000, ch.WithSettings(ch.Settings{"insert_deduplication_token": "whole"}))
	}
	if n := count(t, c, "large"); n != 300_000 {
		t.Errorf("got %d rows, want 300000", n)
	}
}

func TestFormatsAndStatementsOfOtherClients(t *testing.T) {
	s := engineOf(t)
	c := dial(t, s)
	exec(t, c, "CREATE TABLE plain (n Int64, s String) ENGINE = MergeTree ORDER BY n")
	exec(t, c, `INSERT INTO plain FORMAT JSONEachRow {"n":1,"s":"one"} {"n":2,"s":"two"}`)
	exec(t, c, "INSERT INTO plain VALUES (3, 'three'), (4, 'fo''ur')")
	exec(t, c, "INSERT INTO plain SELECT n + 10, s FROM plain")
	if n := count(t, c, "plain"); n != 8 {
		t.Errorf("got %d rows, want 8", n)
	}
	exec(t, c, "/* a comment */ ALTER TABLE plain DELETE WHERE n > 10 SETTINGS mutations_sync = 1")
	exec(t, c, "CREATE TABLE other AS plain")
	exec(t, c, "EXCHANGE TABLES plain AND other")
	if n := count(t, c, "plain"); n != 0 {
		t.Errorf("after the exchange: %d rows, want 0", n)
	}
	exec(t, c, "CREATE DATABASE second")
	in := dial(t, s, func(o *ch.Options) { o.Auth.Database = "second" })
	var db string
	if err := in.QueryRow(t.Context(), "SELECT currentDatabase()").Scan(&db); err != nil || db != "second" {
		t.Errorf("got database %q, %v", db, err)
	}
	if err := c.QueryRow(t.Context(), "SELECT currentDatabase()").Scan(&db); err != nil || db != clickhouse.Database {
		t.Errorf("got database %q, %v; want %q", db, err, clickhouse.Database)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	s := engineOf(t)
	c := dial(t, s, func(o *ch.Options) { o.Auth.Password = "wrong" })
	wantCode(t, c.Ping(t.Context()), 516)
	if version, err := dial(t, s).ServerVersion(); err != nil || version.Version.Major < 26 {
		t.Errorf("got version %v, %v", version, err)
	}
}
