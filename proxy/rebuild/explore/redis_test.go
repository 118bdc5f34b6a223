package explore_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	glua "github.com/yuin/gopher-lua"
	"github.com/yuin/gopher-lua/parse"

	"github.com/rateguard/rateguard/proxy/lua"
)

// nowUS is the one instant at which all of an exploration happens: nothing in the protocol is decided by time.
const nowUS = int64(1_795_000_000_000_000)

// keys is the whole of a Redis: hashes by field; a string is a hash with the one field "".
type keys map[string]map[string]string

// text is a canonical form: equal keys have equal text.
func (k keys) text() string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(k)) {
		fmt.Fprintf(&b, "%s\x01", key)
		for _, field := range slices.Sorted(maps.Keys(k[key])) {
			fmt.Fprintf(&b, "%s\x02%s\x03", field, k[key][field])
		}
	}
	return b.String()
}

// server is one Redis: what it holds, by number, and its identity.
type server struct {
	keys   int32
	replid uint8
}

func (s server) identity() string {
	return strings.Repeat("0", 39) + strconv.FormatInt(int64(s.replid), 16)
}

// call is a script with its keys and arguments, as they go over the wire.
type call struct {
	script *lua.Script
	keys   []string
	args   []string
}

// result is what a call does to a server.
type result struct {
	keys   int32
	values []any
}

type memo struct {
	on   server
	call int32
}

// engine runs the production scripts on servers that are values: what one call does to one state is computed once. It implements lua.Evaluator.
type engine struct {
	vm     *glua.LState
	protos map[*lua.Script]*glua.FunctionProto
	// edits are what a mutation changes in the text of scripts.
	edits map[string]string

	states []keys
	named  map[string]int32
	calls  []call
	known  map[string]int32
	done   map[memo]result

	// on is where the next Eval runs; nil: the call is only noted in sent.
	on   *server
	sent int32

	// touched are the keys that the script which runs has made its own.
	current keys
	touched map[string]bool
	running server
}

// errNoted is the answer to a call that was only noted.
var errNoted = fmt.Errorf("only noted: %w", context.DeadlineExceeded)

func newEngine(edits map[string]string) *engine {
	e := &engine{
		vm: glua.NewState(), protos: map[*lua.Script]*glua.FunctionProto{}, edits: edits,
		named: map[string]int32{}, known: map[string]int32{}, done: map[memo]result{},
	}
	e.state(keys{}) // 0 is empty
	lib := e.vm.NewTable()
	lib.RawSetString("call", e.vm.NewFunction(e.command))
	lib.RawSetString("pcall", e.vm.NewFunction(e.command))
	e.vm.SetGlobal("redis", lib)
	return e
}

func (e *engine) state(k keys) int32 {
	text := k.text()
	n, ok := e.named[text]
	if !ok {
		n = int32(len(e.states))
		e.states = append(e.states, k)
		e.named[text] = n
	}
	return n
}

// Eval implements lua.Evaluator.
func (e *engine) Eval(_ context.Context, script *lua.Script, names []string, args func(lua.Times) []any) (lua.Reply, error) {
	c := call{script: script, keys: names}
	for _, a := range args(lua.Times{}) {
		c.args = append(c.args, fmt.Sprint(a))
	}
	id := script.SHA() + "\x00" + strings.Join(c.keys, "\x01") + "\x00" + strings.Join(c.args, "\x01")
	n, ok := e.known[id]
	if !ok {
		n = int32(len(e.calls))
		e.calls = append(e.calls, c)
		e.known[id] = n
	}
	if e.on == nil {
		e.sent = n
		return lua.Reply{}, errNoted
	}
	values := slices.Clone(e.run(e.on, n))
	if len(names) >= 3 && len(values) >= 4 && values[0].(int64) <= 1 {
		values[2], values[3] = "", "" // or the callers would remember lives, which is state of theirs
	}
	return lua.Reply{Values: values, RedisUS: nowUS}, nil
}

// run executes a call on a server, and changes that.
func (e *engine) run(on *server, n int32) []any {
	at := memo{*on, n}
	r, ok := e.done[at]
	if !ok {
		r = e.execute(*on, &e.calls[n])
		e.done[at] = r
	}
	on.keys = r.keys
	return r.values
}

func (e *engine) execute(on server, c *call) result {
	e.current, e.touched, e.running = maps.Clone(e.states[on.keys]), map[string]bool{}, on
	names, args := e.vm.NewTable(), e.vm.NewTable()
	for _, k := range c.keys {
		names.Append(glua.LString(k))
	}
	for _, a := range c.args {
		args.Append(glua.LString(a))
	}
	e.vm.SetGlobal("KEYS", names)
	e.vm.SetGlobal("ARGV", args)
	e.vm.Push(e.vm.NewFunctionFromProto(e.proto(c.script)))
	if err := e.vm.PCall(0, 1, nil); err != nil {
		panic(fmt.Sprintf("script %s%v %v: %v", c.script.Source()[:60], c.keys, c.args, err))
	}
	values := answer(e.vm.Get(-1))
	e.vm.Pop(1)
	if len(e.touched) == 0 {
		return result{on.keys, values}
	}
	return result{e.state(e.current), values}
}

func (e *engine) proto(s *lua.Script) *glua.FunctionProto {
	if p := e.protos[s]; p != nil {
		return p
	}
	source := s.Source()
	for from, to := range e.edits {
		source = strings.ReplaceAll(source, from, to)
	}
	chunk, err := parse.Parse(strings.NewReader(source), "script")
	if err == nil {
		var p *glua.FunctionProto
		if p, err = glua.Compile(chunk, "script"); err == nil {
			e.protos[s] = p
			return p
		}
	}
	panic(err)
}

// answer is a script's value as a client gets it.
func answer(v glua.LValue) []any {
	t, ok := v.(*glua.LTable)
	if !ok {
		return []any{native(v)}
	}
	var out []any
	for i := 1; i <= t.Len(); i++ {
		out = append(out, native(t.RawGetInt(i)))
	}
	return out
}

func native(v glua.LValue) any {
	switch v := v.(type) {
	case glua.LNumber:
		return int64(v)
	case glua.LString:
		return string(v)
	case glua.LBool:
		if v {
			return int64(1)
		}
	}
	return nil
}

// write returns the hash of a key, for changing it.
func (e *engine) write(key string) map[string]string {
	if !e.touched[key] {
		e.touched[key] = true
		h := maps.Clone(e.current[key])
		if h == nil {
			h = map[string]string{}
		}
		e.current[key] = h
	}
	return e.current[key]
}

// clean removes a key that has nothing left.
func (e *engine) clean(key string) {
	if len(e.current[key]) == 0 {
		delete(e.current, key)
	}
}

func value(h map[string]string, field string) glua.LValue {
	if v, ok := h[field]; ok {
		return glua.LString(v)
	}
	return glua.LFalse
}

// command is redis.call, of the commands that scripts about budgets use.
func (e *engine) command(l *glua.LState) int {
	args := make([]string, l.GetTop())
	for i := range args {
		args[i] = l.ToString(i + 1)
	}
	l.Push(e.do(args[0], args[1:]))
	return 1
}

func (e *engine) do(name string, a []string) glua.LValue {
	list := func(values ...glua.LValue) glua.LValue {
		t := e.vm.NewTable()
		for _, v := range values {
			t.Append(v)
		}
		return t
	}
	number := func(n int) glua.LValue { return glua.LNumber(n) }
	switch name {
	case "TIME":
		return list(glua.LString(strconv.FormatInt(nowUS/1e6, 10)), glua.LString(strconv.FormatInt(nowUS%1e6, 10)))
	case "INFO":
		return glua.LString("role:master\r\nmaster_replid:" + e.running.identity() + "\r\n")
	case "GET":
		return value(e.current[a[0]], "")
	case "SET":
		delete(e.touched, a[0])
		delete(e.current, a[0])
		e.write(a[0])[""] = a[1]
		return list()
	case "EXISTS":
		return number(min(1, len(e.current[a[0]])))
	case "MGET":
		var out []glua.LValue
		for _, k := range a {
			out = append(out, value(e.current[k], ""))
		}
		return list(out...)
	case "SISMEMBER":
		_, ok := e.current[a[0]][a[1]]
		return number(map[bool]int{true: 1}[ok])
	case "PEXPIRE":
		return number(min(1, len(e.current[a[0]])))
	}
	return e.hash(name, a, list)
}

func (e *engine) hash(name string, a []string, list func(...glua.LValue) glua.LValue) glua.LValue {
	h, n := e.current[a[0]], 0
	var out []glua.LValue
	switch name {
	case "HGET":
		return value(h, a[1])
	case "HMGET":
		for _, f := range a[1:] {
			out = append(out, value(h, f))
		}
		return list(out...)
	case "HKEYS", "HGETALL":
		for _, f := range slices.Sorted(maps.Keys(h)) {
			out = append(out, glua.LString(f))
			if name == "HGETALL" {
				out = append(out, glua.LString(h[f]))
			}
		}
		return list(out...)
	case "HSET", "HSETNX":
		for i := 1; i+1 < len(a); i += 2 {
			if _, there := h[a[i]]; !there {
				n++
			} else if name == "HSETNX" {
				continue
			}
			e.write(a[0])[a[i]] = a[i+1]
		}
	case "HDEL":
		for _, f := range a[1:] {
			if _, there := e.current[a[0]][f]; there {
				n++
				delete(e.write(a[0]), f)
			}
		}
		e.clean(a[0])
	case "HINCRBY":
		was, _ := strconv.Atoi(h[a[1]])
		by, _ := strconv.Atoi(a[2])
		n = was + by
		e.write(a[0])[a[1]] = strconv.Itoa(n)
	default:
		panic("no such command here: " + name)
	}
	return glua.LNumber(n)
}
