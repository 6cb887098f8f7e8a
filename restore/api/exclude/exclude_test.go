package exclude_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/restore/api/exclude"
)

func TestMatch(t *testing.T) {
	const all = "layer:tmp/cache/**, volume:scratch,volume:data/*.tmp,shm:**,layer:**/__pycache__,layer:var/**/x/*.log"
	patterns, err := exclude.Parse(all)
	require.NoError(t, err)
	for path, want := range map[string]bool{
		"layers/main":                      false,
		"layers/main/tmp/cache":            false,
		"layers/main/tmp/cache/a":          true,
		"layers/main/tmp/cache/a/b/c":      true,
		"layers/main/tmp/cached":           false,
		"layers/main/tmp":                  false,
		"volumes/scratch":                  true,
		"volumes/scratch2":                 false,
		"volumes/data":                     false,
		"volumes/data/a.tmp":               true,
		"volumes/data/sub/a.tmp":           false,
		"volumes/tmp/cache/a":              false,
		"shm":                              false,
		"shm/a":                            true,
		"layers/main/__pycache__":          true,
		"layers/main/usr/lib/__pycache__":  true,
		"layers/main/usr/lib/__pycache__x": false,
		"layers/main/var/x/1.log":          true,
		"layers/main/var/a/x/b/x/1.log":    true,
		"layers/main/var/a/x/b/1.log":      false,
		"images/main/core-1.img":           false,
		"layers/side/tmp/cache/a":          true,
		"layers":                           false,
	} {
		require.Equal(t, want, patterns.Match(path), path)
	}
	none, err := exclude.Parse(" ")
	require.NoError(t, err)
	require.False(t, none.Match("layers/main/a"))
}

func TestBadPatternsAreRefused(t *testing.T) {
	for _, c := range []struct{ name, value, cause string }{
		{"no tree", "tmp/cache", "begin it with layer:"},
		{"empty", "layer:a,,layer:b", `pattern 2, ""`},
		{"another tree", "disk:a", `unknown tree "disk"`},
		{"images", "images:**", `unknown tree "images"`},
		{"no volume", "volume:", "write volume:<name>"},
		{"pattern for a volume", "volume:*", "write volume:<name>"},
		{"no path", "layer:", "write **"},
		{"no path in a volume", "volume:a/", "write **"},
		{"absolute", "layer:/tmp/x", "write tmp/x"},
		{"leads out", "layer:a/../../x", "not clean"},
		{"root", "shm:.", "not clean"},
		{"part of a name", "layer:a**/b", "use * within a name"},
		{"open bracket", "layer:a[", "close the bracket"},
		{"too many", strings.Repeat("layer:a,", 65) + "layer:b", "at most 64"},
	} {
		t.Run(c.name, func(t *testing.T) {
			patterns, err := exclude.Parse(c.value)
			require.ErrorIs(t, err, exclude.ErrInvalid)
			require.ErrorContains(t, err, c.cause)
			require.False(t, patterns.Match("layers/main/a"), "nothing is left out by half")
		})
	}
	_, err := exclude.Parse("x,y")
	require.ErrorContains(t, err, "pattern 1")
	require.ErrorContains(t, err, "pattern 2", "all faults are told")
}
