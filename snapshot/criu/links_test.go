package criu

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/snapshot"
)

func TestNamelessFiles(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "a")
	open := func(other string) *os.File {
		f, err := os.Create(name)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, f.Close()) })
		if other != "" {
			require.NoError(t, os.Link(name, filepath.Join(dir, other)))
		}
		require.NoError(t, os.Remove(name))
		return f
	}
	open("")
	found, err := nameless(os.Getpid())
	require.NoError(t, err)
	require.NotContains(t, found, name, "it has no other name, and is CRIU's ghost file")

	f := open("b")
	found, err = nameless(os.Getpid())
	require.NoError(t, err)
	require.Equal(t, filepath.Join("/proc", strconv.Itoa(os.Getpid()), "fd", strconv.Itoa(int(f.Fd()))), found[name])

	open("c")
	_, err = nameless(os.Getpid())
	require.ErrorContains(t, err, "two open files had the name "+name)
}

// Links of a dump go before the container runs, and before the next dump, also those of an agent that was killed.
func TestLinksAreDropped(t *testing.T) {
	r, dir := fakeRunc(t, "")
	r.ConfigFile = filepath.Join(dir, "criu.conf")
	folder := filepath.Join(dir, "data")
	require.NoError(t, os.MkdirAll(folder, 0o755))
	name := func(file string) string { return filepath.Join(folder, file) }
	for _, file := range []string{"gone", "link_remap.7", "link_remap.x", "other"} {
		require.NoError(t, os.WriteFile(name(file), nil, 0o600))
	}
	f, err := os.Open(name("gone"))
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, os.Link(name("gone"), name("kept")))
	require.NoError(t, os.Remove(name("gone")))
	require.NoError(t, r.noteLinks("c1", os.Getpid()))
	require.NoError(t, r.dropLinks(t.Context(), "c2"))
	require.FileExists(t, name("link_remap.7"))

	setStatus(t, dir, "gone")
	require.NoError(t, r.dropLinks(t.Context(), "c1"))
	require.NoFileExists(t, r.linkNote("c1"), "the container has ended")
	require.FileExists(t, name("link_remap.7"))

	require.NoError(t, removeLinks("/proc/self/root", []string{folder, folder + "-gone"}))
	require.NoFileExists(t, name("link_remap.7"))
	for _, file := range []string{"kept", "link_remap.x", "other"} {
		require.FileExists(t, name(file))
	}
	require.NoError(t, removeLinks("/proc/4194304/root", []string{folder}), "the container has ended")
	require.NoError(t, restoreLinks(t.TempDir(), os.Getpid()), "images that name none")
}

func TestNoContainerStaysFrozenForItsLinks(t *testing.T) {
	r, dir := fakeRunc(t, "")
	r.ConfigFile = filepath.Join(dir, "criu.conf")
	setStatus(t, dir, "paused")
	require.NoError(t, os.MkdirAll(r.linkNote("c1"), 0o700)) // no note can be read there
	require.NoError(t, r.Resume(t.Context(), "c1"))
	status, err := r.Status(t.Context(), "c1")
	require.NoError(t, err)
	require.Equal(t, snapshot.StatusRunning, status)
	_, err = r.prepare(t.Context(), "c1")
	require.ErrorContains(t, err, "remove links of a dump", "the next dump says why")
}
