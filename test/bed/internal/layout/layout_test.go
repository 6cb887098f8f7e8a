package layout

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSuffixTellsFoldersApart(t *testing.T) {
	require.Equal(t, Suffix("/a/build/bed"), Suffix("/a/build/bed"))
	require.NotEqual(t, Suffix("/a/build/bed"), Suffix("/b/build/bed"))
	require.NotEqual(t, CgroupName(Suffix("/a"), "a"), CgroupName(Suffix("/a"), "b"))
}

func TestDirValidate(t *testing.T) {
	for _, c := range []struct{ name, dir, fault string }{
		{"ordinary", "/work/build/bed", ""},
		{"relative", "build/bed", "absolute"},
		{"too long for a unix socket", "/" + strings.Repeat("x", 100), "too long"},
		{"colon ends a lower layer", "/work/a:b", "mount options"},
		{"comma ends a mount option", "/work/a,b", "mount options"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := Dir(c.dir).Validate()
			if c.fault == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.fault)
		})
	}
}

func TestParseStat(t *testing.T) {
	const rest = "S 1 2 3 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 99 7"
	for _, c := range []struct {
		name, line string
		want       stat
		fault      string
	}{
		{"plain", "7 (etcd) " + rest, stat{state: 'S', flags: 4194560, started: 4242}, ""},
		{"brackets and spaces in the name", "7 (a) R (b c) " + rest, stat{state: 'S', flags: 4194560, started: 4242}, ""},
		{"cut off", "7 (etcd) S 1 2", stat{}, "too short"},
		{"empty", "", stat{}, "too short"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseStat(c.line)
			if c.fault != "" {
				require.ErrorContains(t, err, c.fault)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}

func TestProcess(t *testing.T) {
	self, err := FindProcess(os.Getpid())
	require.NoError(t, err)
	require.True(t, self.Alive())
	require.False(t, self.Gone())
	other := Process{PID: self.PID, Started: self.Started + 1} // the pid was used before
	require.False(t, other.Alive())
	require.True(t, other.Gone())
	require.False(t, Process{}.Alive())
}

func TestState(t *testing.T) {
	dir := Dir(t.TempDir())
	_, err := ReadState(dir)
	require.ErrorIs(t, err, ErrNoState)

	want := State{Suffix: "0a0b0c0d", Supervisor: Process{PID: 7, Started: 8}, Ready: true, APIPort: 9}
	require.NoError(t, WriteJSON(dir.State(), want))
	got, err := ReadState(dir)
	require.NoError(t, err)
	require.Equal(t, want, got)
	left, err := filepath.Glob(dir.Path("*"))
	require.NoError(t, err)
	require.Equal(t, []string{dir.State()}, left, "no temporary file stays")

	require.NoError(t, os.WriteFile(dir.State(), []byte("{"), 0o600))
	_, err = ReadState(dir)
	require.ErrorContains(t, err, "parse "+dir.State())
}
