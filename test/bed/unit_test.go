package bed

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/lifeboat-dev/lifeboat/test/bed/internal/layout"
)

func TestTarget(t *testing.T) {
	for _, c := range []struct{ name, endpoint, want string }{
		{"port", "http://127.0.0.1:9000", "127.0.0.1:9000"},
		{"slash", "http://127.0.0.1:9000/", "127.0.0.1:9000"},
		{"no port", "http://127.0.0.1", "127.0.0.1:80"},
		{"TLS", "https://127.0.0.1:9000", ""},
		{"path", "http://127.0.0.1:9000/bucket", ""},
		{"no scheme", "127.0.0.1:9000", ""},
		{"empty", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := target(c.endpoint)
			require.Equal(t, c.want, got)
			require.Equal(t, c.want == "", err != nil)
		})
	}
}

func TestMissingPackages(t *testing.T) {
	all := func(string) (string, error) { return "/usr/bin/x", nil }
	require.Empty(t, missingPackages(all))
	some := func(command string) (string, error) {
		if command == "gcc" || command == "nsenter" || command == "unshare" {
			return "", os.ErrNotExist
		}
		return "/usr/bin/x", nil
	}
	require.Equal(t, []string{"gcc", "libc6-dev", "util-linux"}, missingPackages(some))
}

func TestDownKeepsAFolderThatIsNoBed(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "thesis.txt"), nil, 0o644))
	require.ErrorContains(t, isOurs(layout.Dir(dir)), "not a bed's")
	require.NoError(t, isOurs(layout.Dir(filepath.Join(dir, "missing"))))
	require.NoError(t, os.WriteFile(layout.Dir(dir).Marker(), nil, 0o644))
	require.NoError(t, isOurs(layout.Dir(dir)))
}

func TestCached(t *testing.T) {
	t.Setenv("LIFEBOAT_CACHE", t.TempDir())
	p := newReporter(io.Discard)
	var made atomic.Int32
	makeFile := func(tmp string) error {
		made.Add(1)
		return os.WriteFile(tmp, []byte("whole"), 0o644)
	}

	_, err := cached(t.Context(), p, "making x", "x", func(tmp string) error {
		require.NoError(t, os.WriteFile(tmp, []byte("half"), 0o644))
		return errors.New("out of luck")
	})
	require.ErrorContains(t, err, "making x: out of luck")

	var g errgroup.Group
	for range 4 {
		g.Go(func() error {
			path, err := cached(t.Context(), p, "making x", "x", makeFile)
			if err != nil {
				return err
			}
			b, err := os.ReadFile(path)
			if string(b) != "whole" {
				return errors.Join(err, errors.New("half an entry"))
			}
			return err
		})
	}
	require.NoError(t, g.Wait())
	require.EqualValues(t, 1, made.Load(), "made once")
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := tryLock(path)
	require.NoError(t, err)
	_, err = tryLock(path)
	require.ErrorIs(t, err, errLocked)
	require.NoError(t, os.Remove(path)) // as Down does before it lets go
	second, err := tryLock(path)
	require.NoError(t, err)
	require.NoError(t, errors.Join(first.Close(), second.Close()))
}
