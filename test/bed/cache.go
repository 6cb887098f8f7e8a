package bed

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CacheDir is where things that take long to make are kept between runs and checkouts:
// ${LIFEBOAT_CACHE:-${XDG_CACHE_HOME:-~/.cache}}/lifeboat.
func CacheDir() (string, error) {
	base := os.Getenv("LIFEBOAT_CACHE")
	if base == "" {
		var err error
		if base, err = os.UserCacheDir(); err != nil {
			return "", fmt.Errorf("find the cache folder: %w (set LIFEBOAT_CACHE)", err)
		}
	}
	dir := filepath.Join(base, "lifeboat")
	return dir, os.MkdirAll(dir, 0o755)
}

// cached returns the path of an entry of the cache and makes it first where it is missing. make gets a temporary path,
// which is renamed when all is well: an entry that exists is whole, and it never changes. Makers of one entry wait for
// each other.
func cached(ctx context.Context, p *reporter, what, name string, make func(tmp string) error) (string, error) {
	dir, err := CacheDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, name)
	if _, err := os.Lstat(path); err == nil {
		return path, nil
	}
	lock, err := waitLock(ctx, path+".lock", func() { p.say("%s: waiting for another process that makes it", what) })
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	tmp := path + ".tmp"
	if err := os.RemoveAll(tmp); err != nil { // a killed run's
		return "", fmt.Errorf("remove unfinished %s: %w", tmp, err)
	}
	if err := p.long(what, func() error { return make(tmp) }); err != nil {
		return "", errors.Join(err, os.RemoveAll(tmp))
	}
	if err := os.Rename(tmp, path); err != nil {
		return "", fmt.Errorf("publish %s: %w", path, err)
	}
	return path, nil
}

// key names a cache entry by all that went into it.
func key(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:6])
}

// errLocked says that someone else holds a lock.
var errLocked = errors.New("locked by another process")

// tryLock takes a lock file, or returns errLocked. Closing the file (every copy of it) lets go.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil && sameFile(f, path) {
		return f, nil
	}
	if err == nil { // its last holder has removed it between our open and our lock
		f.Close()
		return tryLock(path)
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, errLocked
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

func sameFile(f *os.File, path string) bool {
	ours, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(ours, named)
}

// waitLock takes a lock file; waiting is called once where it has to wait.
func waitLock(ctx context.Context, path string, waiting func()) (*os.File, error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for first := true; ; first = false {
		f, err := tryLock(path)
		if !errors.Is(err, errLocked) {
			return f, err
		}
		if first {
			waiting()
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for lock %s: %w", path, ctx.Err())
		case <-tick.C:
		}
	}
}
