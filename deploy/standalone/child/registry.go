package child

import (
	"fmt"
	"os"
	"sync"
)

// roleVariable names the child that this process is; unset in an ordinary process.
const roleVariable = "RATEGUARD_CHILD"

// Func is the whole life of a child that is a re-execution of the running binary. It returns
// the process's exit status.
type Func func(in *os.File) int

// registry holds the children that this binary can become. It is filled by init functions,
// before main, and only read later; mu guards it against a careless late Register.
var registry = struct {
	mu    sync.Mutex
	funcs map[string]Func
}{funcs: map[string]Func{}}

// Register says what the process does when it is started as the child of that name. It is
// called from init.
func Register(name string, run Func) {
	registry.mu.Lock()
	defer registry.mu.Unlock()
	registry.funcs[name] = run
}

// Main turns this process into the child that its parent asked for and never returns then; in
// an ordinary process it does nothing. It must be the first call of main and of TestMain.
func Main() {
	name := os.Getenv(roleVariable)
	if name == "" {
		return
	}
	registry.mu.Lock()
	run := registry.funcs[name]
	registry.mu.Unlock()
	if run == nil {
		fmt.Fprintf(os.Stderr, "this binary has no child %q\n", name)
		os.Exit(2)
	}
	// The child's own children must not take its role.
	if err := os.Unsetenv(roleVariable); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	os.Exit(run(os.Stdin))
}
