package fetch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// maxTarball bounds a download.
const maxTarball = 1 << 30

// NPM brings the tarball of package@version into dir and returns its path: with npm, and
// without it by HTTP from the registry that npm's settings name.
func NPM(ctx context.Context, progress Progress, pkg, version, dir string) (string, error) {
	err := run(ctx, progress, pkg+"@"+version, dir, "npm", "pack", pkg+"@"+version, "--silent", "--pack-destination", dir)
	if errors.Is(err, ErrNoTool) {
		return download(ctx, progress, pkg, version, dir)
	}
	if err != nil {
		return "", err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
	if err != nil || len(files) != 1 {
		return "", fmt.Errorf("fetching %s: npm pack left %d tarballs", pkg, len(files))
	}
	return files[0], nil
}

// download asks the registry itself.
func download(ctx context.Context, progress Progress, pkg, version, dir string) (string, error) {
	registry, err := registry()
	if err != nil {
		return "", fmt.Errorf("fetching %s: %w", pkg, err)
	}
	base := pkg[strings.LastIndex(pkg, "/")+1:]
	address := strings.TrimRight(registry, "/") + "/" + pkg + "/-/" + base + "-" + version + ".tgz"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", fmt.Errorf("fetching %s: %w", pkg, err)
	}
	progress.Say("fetching %s", pkg+"@"+version)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", fmt.Errorf("fetching %s: %w", pkg, err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("fetching %s: %s answered %s", pkg, req.URL.Host, res.Status)
	}
	path := filepath.Join(dir, base+"-"+version+".tgz")
	body := &counter{r: res.Body, total: res.ContentLength, what: pkg, progress: progress, next: time.Now().Add(reportInterval)}
	if _, err := Copy(path, body, 0o644, maxTarball); err != nil {
		return "", fmt.Errorf("fetching %s: %w", pkg, err)
	}
	return path, nil
}

// registry returns the address of npm's registry from its environment variable or its
// settings files, the nearest first. RateGuard has none of its own.
func registry() (string, error) {
	for _, name := range []string{"npm_config_registry", "NPM_CONFIG_REGISTRY"} {
		if v := os.Getenv(name); v != "" {
			return v, nil
		}
	}
	files := []string{".npmrc"}
	if home, err := os.UserHomeDir(); err == nil {
		files = append(files, filepath.Join(home, ".npmrc"))
	}
	files = append(files, "/etc/npmrc", "/usr/local/etc/npmrc")
	for _, file := range files {
		if v := registryOf(file); v != "" {
			return v, nil
		}
	}
	return "", errors.New("npm is not installed and no registry is configured: install npm, or set npm_config_registry to the address of a registry")
}

// registryOf reads the one line of an .npmrc that says where packages are.
func registryOf(file string) string {
	f, err := os.Open(file) //nolint:gosec // G304: npm's own settings files
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	for s := bufio.NewScanner(f); s.Scan(); {
		key, value, ok := strings.Cut(s.Text(), "=")
		if !ok || strings.TrimSpace(key) != "registry" {
			continue
		}
		value = strings.Trim(strings.TrimSpace(value), `"'`)
		if u, err := url.Parse(value); err == nil && u.Host != "" {
			return value
		}
	}
	return ""
}

// counter says how far a download is.
type counter struct {
	r        io.Reader
	n, total int64
	what     string
	progress Progress
	next     time.Time
}

// Read passes bytes on and reports now and then.
func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if now := time.Now(); now.After(c.next) {
		c.next = now.Add(reportInterval)
		if c.total > 0 {
			c.progress.Say("fetching %s: %d of %d MB", c.what, c.n>>20, c.total>>20)
		} else {
			c.progress.Say("fetching %s: %d MB", c.what, c.n>>20)
		}
	}
	return n, err
}
