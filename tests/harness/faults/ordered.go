package faults

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// childRole names, in the environment of a child of this program, what it is.
const childRole = "RATEGUARD_FAULTS_CHILD"

// roles are what a child can be; each returns its exit code.
var roles = map[string]func() int{"broker": broker, "gate": gate, "proxy": proxyOnDisk} //nolint:gochecknoglobals // a table

// Ordered is a child that runs this very binary and does what it is told.
type Ordered struct {
	*Child

	orders  *os.File
	answers *bufio.Reader
}

// startOrdered starts a child in a role.
func startOrdered(tb testing.TB, role, log string, env []string) *Ordered {
	tb.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(tb.Context()), os.Args[0])
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatalf("starting a %s: %v", role, err)
	}
	in, orders, err := os.Pipe()
	if err != nil {
		tb.Fatalf("starting a %s: %v", role, err)
	}
	cmd.Stdin = in
	o := &Ordered{Child: start(tb, log, append([]string{childRole + "=" + role}, env...), cmd), orders: orders, answers: bufio.NewReader(out)}
	_ = in.Close()
	tb.Cleanup(func() { _ = orders.Close() })
	return o
}

// order tells the child a word and returns its answer.
func (o *Ordered) order(word string) string {
	o.tb.Helper()
	if _, err := fmt.Fprintln(o.orders, word); err != nil {
		o.tb.Fatalf("ordering %q: %v", word, err)
	}
	return o.answer()
}

// must is order where the answer is the word.
func (o *Ordered) must(word string) {
	o.tb.Helper()
	if got := o.order(word); got != word {
		o.tb.Fatalf("ordered %q, and the answer is %q", word, got)
	}
}

func (o *Ordered) answer() string {
	o.tb.Helper()
	line, err := o.answers.ReadString('\n')
	if err != nil {
		o.tb.Fatalf("waiting for a child: %v", err)
	}
	return strings.TrimSpace(line)
}

// obey is the child's side: it answers each order until there are no more.
func obey(do func(word string) (answer string)) {
	for orders := bufio.NewScanner(os.Stdin); orders.Scan(); {
		_, _ = fmt.Println(do(orders.Text()))
	}
}
