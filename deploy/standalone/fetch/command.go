package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// ErrNoTool says that the package manager for a download is not installed.
var ErrNoTool = errors.New("not installed")

// run runs a package manager and says every few seconds that it still works.
func run(ctx context.Context, progress Progress, what, dir, tool string, args ...string) error {
	path, err := exec.LookPath(tool)
	if err != nil {
		return fmt.Errorf("%s: %w", tool, ErrNoTool)
	}
	cmd := exec.CommandContext(ctx, path, args...) //nolint:gosec // G204: fixed arguments
	cmd.Dir = dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	progress.Say("fetching %s with %s", what, tool)
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", tool, err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	ticker := time.NewTicker(reportInterval)
	defer ticker.Stop()
	for {
		select {
		case err := <-done:
			if err != nil {
				return fmt.Errorf("fetching %s with %s: %w\n%s", what, tool, err, lastLines(out.String(), 10))
			}
			progress.Say("fetched %s in %s", what, time.Since(begin).Round(100*time.Millisecond))
			return nil
		case <-ticker.C:
			progress.Say("fetching %s: %s so far", what, time.Since(begin).Round(time.Second))
		}
	}
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// Maven copies the artifact group:name:version into dir.
func Maven(ctx context.Context, progress Progress, artifact, dir string) error {
	return run(ctx, progress, artifact, dir, "mvn", "-q", "-B", "dependency:copy", "-Dartifact="+artifact, "-DoutputDirectory="+dir)
}
