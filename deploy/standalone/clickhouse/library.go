package clickhouse

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/rateguard/rateguard/deploy/standalone/fetch"
)

// The engine: ClickHouse built as a library, one package a platform.
const (
	libraryVersion = "26.7.3-stable.1"
	libraryFile    = "libchdb.so"
	libraryEntry   = "package/" + libraryFile
	maxLibrary     = 1 << 30
)

// build is a pinned package of one platform.
type build struct{ pkg, tarballSHA256, librarySHA256 string }

// builds are the platforms that the digests are known of.
var builds = map[string]build{
	"linux/amd64": {
		pkg:           "@chdb/lib-linux-x64-gnu",
		tarballSHA256: "c0d32b129e988f2b9a9a31c9141aecf5e1e2453f9a079efc4d36ab8e3f92b2ad",
		librarySHA256: "36ad4e999882821ef13cf2d0f52c93f48e6ee1b4498b35a201c23ce4b8d15bf5",
	},
}

// ErrNoLibrary says that the engine is not there and could not be fetched.
var ErrNoLibrary = errors.New("no ClickHouse engine: install npm so that it can be fetched once (178 MB), or set RATEGUARD_CLICKHOUSE_URL to a server")

// findLibrary returns the engine's file, fetched into the cache when it is not there.
func findLibrary(ctx context.Context, cfg Config) (string, error) {
	if cfg.Library != "" {
		return cfg.Library, nil
	}
	b, ok := builds[runtime.GOOS+"/"+runtime.GOARCH]
	if !ok {
		return "", fmt.Errorf("no embedded ClickHouse for %s/%s: set RATEGUARD_CLICKHOUSE_URL to a server", runtime.GOOS, runtime.GOARCH)
	}
	cache, err := fetch.CacheDir(cfg.CacheDir)
	if err != nil {
		return "", err
	}
	dir, err := fetch.Once(ctx, cache, "chdb-"+libraryVersion, func(dir string) error { return b.fetch(ctx, cfg.Progress, dir) })
	if err != nil {
		return "", errors.Join(ErrNoLibrary, err)
	}
	return filepath.Join(dir, libraryFile), nil
}

func (b build) fetch(ctx context.Context, progress fetch.Progress, dir string) error {
	tarball, err := fetch.NPM(ctx, progress, b.pkg, libraryVersion, dir)
	if err != nil {
		return err
	}
	if err := fetch.Verify(tarball, b.tarballSHA256); err != nil {
		return err
	}
	progress.Say("unpacking the ClickHouse engine")
	if err := b.unpack(tarball, filepath.Join(dir, libraryFile)); err != nil {
		return fmt.Errorf("unpacking the ClickHouse engine: %w", err)
	}
	return os.Remove(tarball)
}

// unpack takes the library out of the tarball.
func (b build) unpack(tarball, to string) error {
	f, err := os.Open(tarball) //nolint:gosec // G304: a path of ours
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("no %s in the package", libraryEntry)
		}
		if err != nil {
			return err
		}
		if h.Name != libraryEntry {
			continue
		}
		sum, err := fetch.Copy(to, t, 0o755, maxLibrary)
		if err != nil {
			return err
		}
		if sum != b.librarySHA256 {
			return fmt.Errorf("%s has the SHA-256 %s, expected %s", libraryFile, sum, b.librarySHA256)
		}
		return nil
	}
}
