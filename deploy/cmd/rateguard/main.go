// Command rateguard is the operator's command line, and `rateguard up` all of RateGuard in one process.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/rateguard/rateguard/deploy/cli"
	"github.com/rateguard/rateguard/deploy/standalone/child"
)

// version is set by the linker.
var version = "dev"

func main() {
	child.Main() // the embedded engines are re-executions of this binary
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return cli.Run(ctx, cli.Process(buildVersion()), os.Args[1:])
}

// buildVersion falls back to the commit that the toolchain recorded.
func buildVersion() string {
	if version != "dev" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return version + "-" + s.Value[:min(12, len(s.Value))]
		}
	}
	return version
}
