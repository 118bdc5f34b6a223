package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/rateguard/rateguard/deploy/adminclient"
)

// settings say which deployment a command is about.
type settings struct {
	adminURL  string
	token     string
	dataDir   string
	workspace string
}

// register adds the flags; their defaults are the environment's, which the help does not show
// for the token.
func (s *settings) register(flags *pflag.FlagSet, getenv func(string) string) {
	flags.StringVar(&s.adminURL, "admin-url", cmp.Or(getenv("RATEGUARD_ADMIN_URL"), "http://127.0.0.1:8081"), "address of the admin API (RATEGUARD_ADMIN_URL)")
	flags.StringVar(&s.dataDir, "data-dir", cmp.Or(getenv("RATEGUARD_DATA_DIR"), "./data"), "folder of a local rateguard up, for its tokens (RATEGUARD_DATA_DIR)")
	flags.StringVarP(&s.workspace, "workspace", "w", getenv("RATEGUARD_WORKSPACE"), "workspace, by id or name; by default the only one (RATEGUARD_WORKSPACE)")
	s.token = getenv("RATEGUARD_ADMIN_TOKEN")
}

// client returns a client with the token of RATEGUARD_ADMIN_TOKEN, else of the data directory.
func (a *app) client() (*adminclient.Client, error) {
	token := a.settings.token
	if token == "" {
		var err error
		if token, err = a.fromDataDir("admin-token"); err != nil {
			return nil, err
		}
	}
	if token == "" {
		return nil, usagef("no admin token: set RATEGUARD_ADMIN_TOKEN, or --data-dir to where `rateguard up` runs")
	}
	return adminclient.New(a.settings.adminURL, token), nil
}

// fromDataDir reads a one-line file of the data directory; empty when there is none.
func (a *app) fromDataDir(name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(a.settings.dataDir, name)) //nolint:gosec // the data folder is the user's choice
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("reading %s: %w", name, err)
	}
	return strings.TrimSpace(string(b)), nil
}

// in returns the client and the id of the workspace that the command is about.
func (a *app) in(ctx context.Context) (*adminclient.Client, string, error) {
	c, err := a.client()
	if err != nil {
		return nil, "", err
	}
	want := a.settings.workspace
	if strings.HasPrefix(want, "ws_") {
		return c, want, nil
	}
	all, err := c.Workspaces(ctx)
	if err != nil {
		return nil, "", err
	}
	var found []string
	for _, w := range all {
		if want == "" || w.Name == want {
			found = append(found, w.ID)
		}
	}
	switch {
	case len(found) == 1:
		return c, found[0], nil
	case len(found) == 0 && want == "":
		return nil, "", errors.New("there is no workspace: make one with `rateguard workspaces create NAME`")
	case len(found) == 0:
		return nil, "", fmt.Errorf("there is no workspace %q", want)
	default:
		return nil, "", usagef("%d workspaces fit: choose one with --workspace", len(found))
	}
}
