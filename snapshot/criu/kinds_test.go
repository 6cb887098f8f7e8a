package criu

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fown"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/timerfd"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/store"
)

// kindsContainer starts a container whose root is an overlay and which has a /dev/shm from outside, as under Kubernetes.
func (n *node) kindsContainer(t testing.TB, id, environment string, names ...string) (bundle, root string) {
	t.Helper()
	bundle, root = n.container(t, id, "kinds", n.network)
	shm := filepath.Join("/run/shm", id)
	for _, dir := range []string{"/run/up/" + id, "/run/work/" + id, shm} {
		require.NoError(t, os.MkdirAll(dir, 0o755))
	}
	require.NoError(t, unix.Mount("overlay", root, "overlay", 0, "lowerdir="+root+",upperdir=/run/up/"+id+",workdir=/run/work/"+id))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(root, unix.MNT_DETACH)) })
	file := filepath.Join(bundle, "config.json")
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	var config map[string]any
	require.NoError(t, json.Unmarshal(raw, &config))
	process := config["process"].(map[string]any)
	process["env"] = append(process["env"].([]any), kindsVariable+"="+strings.Join(names, ","), environment)
	config["mounts"] = append(config["mounts"].([]any), map[string]any{
		"destination": "/dev/shm", "type": "bind", "source": shm, "options": []string{"rbind", "rw"},
	})
	raw, err = json.Marshal(config)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, raw, 0o600))
	n.runOCI(t, "run", "--detach", "--bundle", bundle, id)
	n.requireReport(t, root, false)
	return bundle, root
}

// requireReport waits for a report of now, and returns it.
func (n *node) requireReport(t testing.TB, root string, restored bool) kindsReport {
	t.Helper()
	before, err := reportOf(root)
	require.NoError(t, err)
	var now kindsReport
	defer func() {
		if t.Failed() {
			bad, _ := os.ReadFile(filepath.Join(root, "bad"))
			t.Logf("it stands at %+v, was at %+v, and ended with %q", now, before, bad)
		}
	}()
	require.Eventually(t, func() bool {
		now, err = reportOf(root)
		return err == nil && now.Round > before.Round+2 && now.Restored == restored
	}, 20*time.Second, 20*time.Millisecond, "no report")
	return now
}

// withoutMPTCP has Go programs make sockets that CRIU can dump.
const withoutMPTCP = "GODEBUG=multipathtcp=0"

// dumped dumps the frozen container id in either way, into a folder from which it can be restored.
func (n *node) dumped(t testing.TB, id string, lazy bool) (images string) {
	t.Helper()
	s := newStore()
	w := beginGeneration(t, s, nil)
	var taken Taken
	var err error
	if lazy {
		taken, err = n.runc.DumpInto(t.Context(), id, "/run/dump", w.AddPages)
		require.NoError(t, err)
		require.NoError(t, taken.NotLazy)
	} else {
		full, err := n.runc.Dump(t.Context(), id, "/run/dump")
		require.NoError(t, err)
		taken = wholly(full)
	}
	complete(t, w, taken)
	images = filepath.Join(t.TempDir(), "fetched")
	fetch(t, s, images)
	return images
}

// wholly is a full dump as one of which no sink has got anything.
func wholly(full snapshot.Dump) Taken {
	taken := Taken{Dump: full, Stored: map[string][]store.Run{}}
	for _, m := range full.Memory {
		taken.Stored[m.Image] = m.Runs
	}
	return taken
}

// What programs have beside memory is after a restore as it was, or gone in a way that they are told of.
func TestKindsForReal(t *testing.T) {
	if !inside(t) {
		return
	}
	n := newNode(t)
	names := slices.Sorted(maps.Keys(allKinds))
	names = slices.DeleteFunc(names, func(name string) bool { return name == refusedKind })
	for id, lazy := range map[string]bool{"lazy": true, "full": false} {
		t.Run(id, func(t *testing.T) {
			bundle, root := n.kindsContainer(t, id, withoutMPTCP, names...)
			for _, goesOn := range []bool{true, false} { // a dump that leaves it running, and the last
				report := n.requireReport(t, root, false)
				for name, state := range report.State {
					require.Empty(t, state, name)
				}
				require.NoError(t, n.runc.Pause(t.Context(), id))
				images := n.dumped(t, id, lazy)
				require.Len(t, linksIn(t, root, "/run/shm/"+id), 2, "the restore needs them among the files")
				if goesOn {
					require.NoError(t, n.runc.Resume(t.Context(), id))
					require.Empty(t, linksIn(t, root, "/run/shm/"+id), "the program sees them")
					continue
				}
				require.NoError(t, os.Remove(n.runc.linkNote(id))) // the files are restored as they were when they were read
				n.kill(t, id)
				require.NoError(t, os.WriteFile(filepath.Join(root, "restored"), nil, 0o600))
				n.runOCI(t, "restore", "--detach", "--no-subreaper", "--file-locks", "--image-path", images,
					"--work-path", t.TempDir(), "--bundle", bundle, id)
			}
			report := n.requireReport(t, root, true)
			require.Len(t, report.State, len(names))
			for name, state := range report.State {
				if name == "TCP" {
					require.Equal(t, "closed", state, name)
				} else {
					require.Empty(t, state, name)
				}
			}
		})
	}
}

// refusedKind is lost by CRIU, and nothing mends it.
const refusedKind = "eventfd with EFD_SEMAPHORE"

func linksIn(t testing.TB, root, shm string) []string {
	t.Helper()
	var links []string
	for _, pattern := range []string{root + "/linked/link_remap*", shm + "/link_remap*"} {
		found, err := filepath.Glob(pattern)
		require.NoError(t, err)
		links = append(links, found...)
	}
	return links
}

func TestWhatIsRefusedForReal(t *testing.T) {
	if !inside(t) {
		return
	}
	n := newNode(t)
	for _, c := range []struct {
		name, kind, environment, says string
		is                            error
	}{
		{"semaphore", refusedKind, withoutMPTCP, "SemaphoreEventfd: eventfd with EFD_SEMAPHORE in program", ErrRefused},
		{"mptcp", "listener", "GODEBUG=multipathtcp=1", "MPTCP: multipath TCP sockets in program", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, root := n.kindsContainer(t, c.name, c.environment, c.kind)
			require.NoError(t, n.runc.Pause(t.Context(), c.name))
			s := newStore()
			w := beginGeneration(t, s, nil)
			defer w.Abort(context.WithoutCancel(t.Context()))
			_, err := n.runc.DumpInto(t.Context(), c.name, "/run/dump", w.AddPages)
			require.ErrorContains(t, err, c.says)
			if c.is != nil {
				require.ErrorIs(t, err, c.is)
			}
			require.NoError(t, n.runc.stillFrozen(t.Context(), c.name))
			require.NoError(t, n.runc.Resume(t.Context(), c.name))
			n.requireReport(t, root, false)
		})
	}
}

func TestRearm(t *testing.T) {
	entry := func(value, interval, ticks uint64, flags uint32) *timerfd.TimerfdEntry {
		return &timerfd.TimerfdEntry{
			Id: proto.Uint32(1), Flags: proto.Uint32(0), Fown: &fown.FownEntry{}, Clockid: proto.Uint32(1), Ticks: &ticks, SettimeFlags: &flags,
			Vsec: proto.Uint64(0), Vnsec: &value, Isec: proto.Uint64(0), Insec: &interval,
		}
	}
	for _, c := range []struct {
		name  string
		timer *timerfd.TimerfdEntry
		want  uint64
	}{
		{"expired and unread", entry(0, 7, 3, 0), 7},
		{"due", entry(5, 7, 0, 0), 5},
		{"read late", entry(5, 7, 1, 0), 5},
		{"once", entry(0, 0, 1, 0), 0},
		{"disarmed", entry(0, 7, 0, 0), 0},
		{"absolute", entry(0, 7, 1, unix.TFD_TIMER_ABSTIME), 0},
	} {
		require.Equal(t, c.want != c.timer.GetVnsec(), rearm(c.timer), c.name)
		require.Equal(t, c.want, c.timer.GetVnsec(), c.name)
	}
	require.False(t, rearm(nil))
}
