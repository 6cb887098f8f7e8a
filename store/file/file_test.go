package file_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/file"
	"github.com/lifeboat-dev/lifeboat/store/storetest"
)

func open(t *testing.T, dir string) *file.Bucket {
	t.Helper()
	bucket, err := file.Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, bucket.Close()) })
	return bucket
}

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Bucket { return open(t, filepath.Join(t.TempDir(), "made/for/us")) })
}

// Two processes on one folder share nothing but the files.
func TestContractAcrossBuckets(t *testing.T) {
	dir := t.TempDir()
	first, second := open(t, dir), open(t, dir)
	info, err := first.Put(t.Context(), "key", []byte("one"), store.Condition{IfAbsent: true})
	require.NoError(t, err)
	_, err = second.Put(t.Context(), "key", []byte("two"), store.Condition{IfMatch: info.ETag})
	require.NoError(t, err)
	_, err = first.Put(t.Context(), "key", []byte("three"), store.Condition{IfMatch: info.ETag})
	require.ErrorIs(t, err, store.ErrPrecondition)
}

func TestSymlinksDoNotLeadOut(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600))
	bucket := open(t, dir)
	require.NoError(t, os.Symlink(outside, filepath.Join(dir, "link")))
	_, err := bucket.Get(t.Context(), "link/secret", 0, -1)
	require.Error(t, err)
	_, err = bucket.Put(t.Context(), "link/new", []byte("x"), store.Condition{})
	require.Error(t, err)
	require.NoFileExists(t, filepath.Join(outside, "new"))
}

func TestTemporaryFilesOfCrashesGo(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	temp := filepath.Join(dir, ".lifeboat", "tmp")
	for _, name := range []string{"old", "young"} {
		require.NoError(t, os.WriteFile(filepath.Join(temp, name), []byte("half an obj"), 0o600))
	}
	long := time.Now().Add(-48 * time.Hour)
	require.NoError(t, os.Chtimes(filepath.Join(temp, "old"), long, long))
	bucket := open(t, dir)
	require.NoFileExists(t, filepath.Join(temp, "old"))
	require.FileExists(t, filepath.Join(temp, "young"))
	for info, err := range bucket.List(t.Context(), "") {
		require.NoError(t, err)
		require.Fail(t, "a temporary file shows", info.Key)
	}
}

// Stat of a large object reads none of it: the ETag is that of Put all the same, also in another process.
func TestLargeETags(t *testing.T) {
	dir := t.TempDir()
	first, second := open(t, dir), open(t, dir)
	cases := []struct {
		name   string
		size   int
		hashed bool
	}{{"largest that is hashed", 1 << 20, true}, {"smallest that is not", 1<<20 + 1, false}}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			body := make([]byte, c.size)
			info, err := first.Put(t.Context(), "key", body, store.Condition{})
			require.NoError(t, err)
			stat, err := second.Stat(t.Context(), "key")
			require.NoError(t, err)
			require.Equal(t, info, stat)
			again, err := second.Put(t.Context(), "key", body, store.Condition{IfMatch: info.ETag})
			require.NoError(t, err)
			require.Equal(t, c.hashed, again.ETag == info.ETag)
		})
	}
}

func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small file system")
	}
	dir := t.TempDir()
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"))
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, 0)) })
	bucket, err := file.Open(dir)
	require.NoError(t, err)
	defer bucket.Close()
	_, err = bucket.Put(t.Context(), "key", make([]byte, 3<<20), store.Condition{})
	require.NoError(t, err)

	_, err = bucket.Put(t.Context(), "key", make([]byte, 3<<20+1), store.Condition{})
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.ErrorContains(t, err, "put key: no room left for bucket folder "+dir+": free space")
	stat, err := bucket.Stat(t.Context(), "key")
	require.NoError(t, err)
	require.Equal(t, int64(3<<20), stat.Size, "the object that was there is as it was")
	left, err := os.ReadDir(filepath.Join(dir, ".lifeboat", "tmp"))
	require.NoError(t, err)
	require.Empty(t, left, "what did not fit takes no room")

	require.NoError(t, bucket.Delete(t.Context(), "key"), "room is made without any")
	_, err = bucket.Put(t.Context(), "key", make([]byte, 3<<20+1), store.Condition{})
	require.NoError(t, err)
}

// The kernel stamps files some milliseconds apart, and inodes are used again: two large objects must not share an ETag.
func TestTheWritersClockStampsObjects(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		bucket := open(t, dir)
		<-time.After(123456789 * time.Nanosecond)
		info, err := bucket.Put(t.Context(), "key", nil, store.Condition{})
		require.NoError(t, err)
		require.True(t, time.Now().Equal(info.Modified), "%s", info.Modified)
	})
}
