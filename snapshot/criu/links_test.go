package criu

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
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

func TestLinksAreDropped(t *testing.T) {
	name := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.WriteFile(name, nil, 0o600))
	var l links
	require.NoError(t, l.drop("c1"))
	l.made = map[string][]string{"c1": {name, name + "-gone", "/proc/4194304/root/x"}, "c2": {"/kept"}}
	require.NoError(t, l.drop("c1"))
	require.NoFileExists(t, name)
	require.Equal(t, map[string][]string{"c2": {"/kept"}}, l.made)
	require.NoError(t, l.restore(t.TempDir(), "c1", os.Getpid()), "images that name none")
}
