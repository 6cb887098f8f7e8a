package room_test

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/test/bench/room"
)

func TestRoom(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	folder := t.TempDir()
	r, err := room.Open(t.Context(), room.Network, `mount -t tmpfs tmpfs "$1"; echo inside >"$1/file"`, folder)
	require.NoError(t, err)
	output, err := r.Run(t.Context(), "cat", folder+"/file")
	require.NoError(t, err)
	require.Equal(t, "inside\n", string(output))
	require.NoFileExists(t, folder+"/file", "the machine does not see the room's mounts")
	require.FileExists(t, r.Path(folder+"/file"))
	links, err := r.Run(t.Context(), "ip", "-brief", "link")
	require.NoError(t, err)
	require.Len(t, strings.Fields(strings.TrimSpace(string(links)))[0], len("lo"))

	_, err = r.Run(t.Context(), "sh", "-c", "echo why >&2; exit 3")
	require.ErrorContains(t, err, "why")
	left := r.Command(t.Context(), "sleep", "600")
	require.NoError(t, left.Start())
	require.NoError(t, r.Close())
	require.Error(t, left.Wait(), "it ended with the room")
	require.True(t, errors.Is(syscall.Kill(r.PID(), 0), syscall.ESRCH))
}

func TestRoomThatCannotBeMade(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	_, err := room.Open(t.Context(), 0, "echo why >&2; exit 3")
	require.ErrorContains(t, err, "why")
}
