package standalone_test

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	goredis "github.com/redis/go-redis/v9"

	"github.com/rateguard/rateguard/deploy/standalone/postgres"
	"github.com/rateguard/rateguard/deploy/standalone/redis"
)

// revivable is an engine that is a process of its own.
type revivable interface {
	PID() int
	Done() <-chan struct{}
	Err() error
}

// murder kills an engine's process and waits until another one works in its place.
func murder(t *testing.T, s revivable, works func(context.Context) error) {
	t.Helper()
	pid := s.PID()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := errors.New("the old process")
		if s.PID() != pid {
			if err = works(ctx); err == nil {
				return
			}
		}
		select {
		case <-s.Done():
			t.Fatalf("it was given up: %v", s.Err())
		case <-ctx.Done():
			t.Fatalf("it does not come back: %v", err)
		case <-ticker.C:
		}
	}
}

func TestADeadPostgresComesBackWithItsData(t *testing.T) {
	s, err := postgres.Start(t.Context(), postgres.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	do := func(ctx context.Context, sql string) error {
		c, err := pgx.Connect(ctx, s.URL())
		if err != nil {
			return err
		}
		_, err = c.Exec(ctx, sql)
		return errors.Join(err, c.Close(ctx))
	}
	if err := do(t.Context(), "CREATE TABLE kept AS SELECT 1"); err != nil {
		t.Fatal(err)
	}
	murder(t, s, func(ctx context.Context) error { return do(ctx, "INSERT INTO kept VALUES (2)") })
}

func TestADeadRedisComesBackWithItsData(t *testing.T) {
	s, err := redis.Start(t.Context(), redis.Config{Dir: t.TempDir(), NoFallback: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	options, err := goredis.ParseURL(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	c := goredis.NewClient(options)
	if err := c.Set(t.Context(), "kept", "1", 0).Err(); err != nil {
		t.Fatal(err)
	}
	murder(t, s, func(ctx context.Context) error { return c.Get(ctx, "kept").Err() })
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestWithoutRedisAStandInServesAndSaysSo(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := redis.Start(t.Context(), redis.Config{Dir: t.TempDir(), NoFallback: true}); !errors.Is(err, redis.ErrNoBinary) {
		t.Errorf("got %v, want ErrNoBinary", err)
	}
	said := ""
	s, err := redis.Start(t.Context(), redis.Config{Dir: t.TempDir(), Progress: func(line string) { said += line }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if said == "" || s.Persistent() {
		t.Errorf("said %q, persistent %t; want a warning and false", said, s.Persistent())
	}
	options, err := goredis.ParseURL(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	c := goredis.NewClient(options)
	if err := c.Set(t.Context(), "short", "1", 50*time.Millisecond).Err(); err != nil {
		t.Fatal(err)
	}
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-ticker.C {
		if err := c.Get(t.Context(), "short").Err(); errors.Is(err, goredis.Nil) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a key with a time to live stays for ever")
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
