// Package file is a bucket in a folder, which may be shared between machines over a file system with working flock, link
// and rename.
//
// An object is the file of its key's name. It is written under a temporary name, synced, and then linked or renamed into
// place, so a crash leaves it whole or absent. The ETag of an object of at most 1 MiB is the SHA-256 of its content, which
// Stat reads. That of a larger one is made of size, inode and the time of modification, which Put sets to the writer's
// clock in nanoseconds; so a large object that is copied or touched from outside gets another ETag. All that is the
// bucket's own lies under .lifeboat, which no key can name.
package file

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/lifeboat-dev/lifeboat/store"
)

const (
	ownDir  = ".lifeboat"
	tempDir = ownDir + "/tmp"
	lockKey = ownDir + "/lock"
	// staleAfter is the age at which a temporary file is taken for one that a crash has left.
	staleAfter = 24 * time.Hour
	lockPause  = 2 * time.Millisecond
)

// Bucket is a folder. All access goes through an os.Root, so no key and no symlink leads out of it.
type Bucket struct {
	root *os.Root
}

var _ store.Bucket = (*Bucket)(nil)

// Open makes the folder where it is missing, and clears it of temporary files that crashes left long ago.
func Open(dir string) (*Bucket, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make bucket folder: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open bucket folder: %w", err)
	}
	b := &Bucket{root: root}
	if err := b.makeDirs(tempDir); err != nil {
		root.Close()
		return nil, fmt.Errorf("prepare bucket folder %s: %w", dir, err)
	}
	b.removeStale()
	return b, nil
}

// Close gives the folder back. The bucket cannot be used afterwards.
func (b *Bucket) Close() error { return b.root.Close() }

// Put implements store.Bucket.
func (b *Bucket) Put(ctx context.Context, key string, body []byte, cond store.Condition) (store.Info, error) {
	if err := store.CheckRequest(ctx, "put", key); err != nil {
		return store.Info{}, err
	}
	info, err := b.put(ctx, key, body, cond)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return store.Info{}, fmt.Errorf("put %s: no room left for bucket folder %s: free space or inodes there, or raise its "+
			"quota: %w", key, b.root.Name(), err)
	}
	if err != nil {
		return store.Info{}, fmt.Errorf("put %s: %w", key, err)
	}
	return info, nil
}

func (b *Bucket) put(ctx context.Context, key string, body []byte, cond store.Condition) (store.Info, error) {
	if err := b.makeDirs(path.Dir(key)); err != nil {
		return store.Info{}, err
	}
	temp := tempDir + "/" + rand.Text()
	defer b.root.Remove(temp) // gone already where it was renamed
	stat, err := b.writeTemp(temp, body)
	if err != nil {
		return store.Info{}, err
	}
	if err := ctx.Err(); err != nil {
		return store.Info{}, err
	}
	if cond.IfAbsent {
		err = b.root.Link(temp, key)
		if errors.Is(err, fs.ErrExist) {
			err = store.ErrPrecondition
		}
	} else {
		err = b.replace(ctx, temp, key, cond)
	}
	if err != nil {
		return store.Info{}, err
	}
	if err := b.syncDir(path.Dir(key)); err != nil {
		return store.Info{}, err
	}
	info := store.Info{Key: key, Size: stat.Size(), Modified: stat.ModTime()}
	info.ETag, err = etag(stat, bytes.NewReader(body))
	return info, err
}

// replace renames temp to key under the bucket's lock, so that nothing comes between comparing and renaming.
func (b *Bucket) replace(ctx context.Context, temp, key string, cond store.Condition) error {
	unlock, err := b.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if cond.IfMatch != "" {
		now, err := b.stat(key)
		if errors.Is(err, fs.ErrNotExist) || err == nil && now.ETag != cond.IfMatch {
			return store.ErrPrecondition
		}
		if err != nil {
			return err
		}
	}
	return b.root.Rename(temp, key)
}

func (b *Bucket) writeTemp(temp string, body []byte) (fs.FileInfo, error) {
	f, err := b.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(body)
	if err == nil { // the kernel's own stamp is too coarse to tell two writes apart
		now := time.Now()
		err = b.root.Chtimes(temp, now, now)
	}
	if err == nil {
		err = f.Sync()
	}
	stat, statErr := f.Stat()
	return stat, errors.Join(err, statErr, f.Close())
}

// Get implements store.Bucket.
func (b *Bucket) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err := store.CheckRequest(ctx, "get", key); err != nil {
		return nil, err
	}
	if offset < 0 {
		return nil, fmt.Errorf("get %s: negative offset: %w", key, store.ErrInvalid)
	}
	f, err := b.open(key)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", key, sentinel(err))
	}
	if length < 0 {
		length = 1<<63 - 1 - offset
	}
	return &rangeReader{SectionReader: io.NewSectionReader(f, offset, length), Closer: f, done: ctx.Err}, nil
}

// rangeReader reads a part of a file and stops when the context of its Get ends.
type rangeReader struct {
	*io.SectionReader
	io.Closer
	done func() error
}

// Read implements io.Reader.
func (r *rangeReader) Read(p []byte) (int, error) {
	if err := r.done(); err != nil {
		return 0, err
	}
	return r.SectionReader.Read(p)
}

// Stat implements store.Bucket.
func (b *Bucket) Stat(ctx context.Context, key string) (store.Info, error) {
	if err := store.CheckRequest(ctx, "stat", key); err != nil {
		return store.Info{}, err
	}
	info, err := b.stat(key)
	if err != nil {
		return store.Info{}, fmt.Errorf("stat %s: %w", key, sentinel(err))
	}
	return info, nil
}

func (b *Bucket) stat(key string) (store.Info, error) {
	f, err := b.open(key)
	if err != nil {
		return store.Info{}, err
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		return store.Info{}, err
	}
	info := store.Info{Key: key, Size: stat.Size(), Modified: stat.ModTime()}
	info.ETag, err = etag(stat, f)
	return info, err
}

// open refuses folders: they are no objects.
func (b *Bucket) open(key string) (*os.File, error) {
	f, err := b.root.Open(key)
	if err != nil {
		return nil, err
	}
	stat, err := f.Stat()
	if err == nil && !stat.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// List implements store.Bucket. It leaves ETag empty.
func (b *Bucket) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		found, err := b.list(ctx, prefix)
		for _, info := range found {
			if !yield(info, nil) {
				return
			}
		}
		if err != nil {
			yield(store.Info{}, fmt.Errorf("list %s: %w", prefix, err))
		}
	}
}

func (b *Bucket) list(ctx context.Context, prefix string) ([]store.Info, error) {
	start := "."
	if cut := strings.LastIndexByte(prefix, '/'); cut > 0 {
		start = prefix[:cut]
		if err := store.ValidateKey(start); err != nil {
			return nil, err
		}
	}
	var found []store.Info
	err := fs.WalkDir(b.root.FS(), start, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // deleted meanwhile, or nothing there at all
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case name == ownDir:
			return fs.SkipDir
		case entry.IsDir() || !strings.HasPrefix(name, prefix):
			return nil
		}
		stat, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && stat.Mode().IsRegular() {
			found = append(found, store.Info{Key: name, Size: stat.Size(), Modified: stat.ModTime()})
		}
		return err
	})
	slices.SortFunc(found, func(a, b store.Info) int { return strings.Compare(a.Key, b.Key) })
	return found, err
}

// Delete implements store.Bucket. Folders that become empty stay.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	if err := store.CheckRequest(ctx, "delete", key); err != nil {
		return err
	}
	if err := b.remove(ctx, key); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

func (b *Bucket) remove(ctx context.Context, key string) error {
	unlock, err := b.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := b.root.Remove(key); err != nil {
		return err
	}
	return b.syncDir(path.Dir(key))
}

// lock takes the bucket's lock, on all machines that share the folder.
func (b *Bucket) lock(ctx context.Context) (unlock func(), err error) {
	f, err := b.root.OpenFile(lockKey, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock the bucket: %w", err)
		}
		select {
		case <-time.After(lockPause):
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("lock the bucket: %w", ctx.Err())
		}
	}
}

// makeDirs makes a folder and its parents, each durable before there is anything in it.
func (b *Bucket) makeDirs(dir string) error {
	if stat, err := b.root.Stat(dir); err == nil && stat.IsDir() {
		return nil
	}
	if err := b.makeDirs(path.Dir(dir)); err != nil {
		return err
	}
	if err := b.root.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return b.syncDir(path.Dir(dir))
}

func (b *Bucket) syncDir(dir string) error {
	f, err := b.root.Open(dir)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	return nil
}

// removeStale is best effort: what it leaves harms nothing but free space.
func (b *Bucket) removeStale() {
	entries, _ := fs.ReadDir(b.root.FS(), tempDir)
	for _, entry := range entries {
		if stat, err := entry.Info(); err == nil && time.Since(stat.ModTime()) > staleAfter {
			_ = b.root.Remove(tempDir + "/" + entry.Name())
		}
	}
}

// hashedSize is the largest object whose ETag is a hash: HEAD, keys, most manifests. Packs are never compared by ETag, and
// hashing them would double the CPU time of a write.
const hashedSize = 1 << 20

// etag differs between any two contents that a key ever had. content is read for small objects only.
func etag(stat fs.FileInfo, content io.Reader) (string, error) {
	if stat.Size() > hashedSize {
		system, ok := stat.Sys().(*syscall.Stat_t)
		if !ok {
			return "", errors.New("the file system shows no inode numbers")
		}
		return fmt.Sprintf("%x-%x-%x", stat.Size(), system.Ino, stat.ModTime().UnixNano()), nil
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, content); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func sentinel(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return store.ErrNotFound
	}
	return err
}
