package criu

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/pagemap"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/snapshot/memory"
	"github.com/lifeboat-dev/lifeboat/store"
)

// modelPage is a page of a modelled task: its content is made of a number.
type modelPage struct {
	content uint64
	dirty   bool
}

func (p modelPage) bytes() []byte {
	return binary.LittleEndian.AppendUint64(make([]byte, 0, store.BlockSize), p.content)[:store.BlockSize]
}

// model is a container whose tasks write as the generator says, and a CRIU that dumps it by the rules of generate_iovs in
// criu/mem.c and check_pagehole_in_parent in criu/page-xfer.c.
type model struct {
	t     *testing.T
	rng   *rand.Rand
	tasks map[string]map[uint64]modelPage
	next  uint64
}

func (m *model) task(name string) map[uint64]modelPage {
	if m.tasks[name] == nil {
		m.tasks[name] = map[uint64]modelPage{}
	}
	return m.tasks[name]
}

// live has tasks come, go, map, unmap and write.
func (m *model) live() {
	for range m.rng.IntN(30) {
		name := "mem/" + strconv.Itoa(1+m.rng.IntN(3))
		address := uint64(0x10+m.rng.IntN(40)) * store.BlockSize
		switch m.rng.IntN(12) {
		case 0:
			delete(m.tasks, name)
		case 1, 2:
			delete(m.task(name), address)
		case 3:
			name = "shm/0"
			fallthrough
		default:
			m.next++
			m.task(name)[address] = modelPage{m.next, true}
		}
	}
}

// dump writes images, with the pages that are not dirty left to parent where there is one, and cleans all pages. It fails
// where the parent misses one.
func (m *model) dump(images, parent string) (ok bool) {
	ok = true
	require.NoError(m.t, os.WriteFile(filepath.Join(images, "inventory.img"), []byte("now"), 0o600))
	id := uint32(0)
	for _, name := range slices.Sorted(maps.Keys(m.tasks)) {
		id++
		file := "pagemap-" + strings.TrimPrefix(name, "mem/") + ".img"
		above := map[uint64]bool{}
		if name == "shm/0" {
			file = "pagemap-shmem-77.img"
		} else if parent != "" {
			above = m.covered(filepath.Join(parent, file))
		}
		var entries []*pagemap.PagemapEntry
		var content []byte
		for _, address := range slices.Sorted(maps.Keys(m.tasks[name])) {
			page := m.tasks[name][address]
			flags := uint32(flagPresent)
			if len(above) > 0 && !page.dirty {
				ok = ok && above[address]
				flags = flagParent
			} else {
				content = append(content, page.bytes()...)
			}
			entries = append(entries, newEntry(address, 1, flags))
			m.tasks[name][address] = modelPage{page.content, false}
		}
		writePagemap(m.t, images, file, id, 0, entries...)
		require.NoError(m.t, os.WriteFile(filepath.Join(images, fmt.Sprintf("pages-%d.img", id)), content, 0o600))
	}
	return ok
}

// covered are the pages that a parent has for CRIU, which opens the image of pages as well.
func (m *model) covered(path string) map[uint64]bool {
	if _, err := os.Stat(path); err != nil {
		return nil
	}
	image, runs, err := readPagemap(path)
	require.NoError(m.t, err)
	require.FileExists(m.t, filepath.Join(filepath.Dir(path), image))
	all := map[uint64]bool{}
	for _, run := range runs {
		for n := range uint64(run.Pages) {
			all[run.Address+n*store.BlockSize] = true
		}
	}
	return all
}

// mirror is what a sink has got.
type mirror map[string]map[uint64]uint64

func (got mirror) take(_ context.Context, task string, address uint64, pages []byte) error {
	if got[task] == nil {
		got[task] = map[uint64]uint64{}
	}
	for ; len(pages) > 0; pages, address = pages[store.BlockSize:], address+store.BlockSize {
		got[task][address] = binary.LittleEndian.Uint64(pages)
	}
	return nil
}

// requireSame holds that got has each of the pages, as they are.
func (m *model) requireSame(got mirror) {
	m.t.Helper()
	for task, pages := range m.tasks {
		for address, page := range pages {
			require.Equal(m.t, page.content, got[task][address], "%s %#x", task, address)
		}
	}
}

// read is a reading of the modelled tasks.
func (m *model) read(ctx context.Context, wanted []memory.Wanted, sink memory.Sink) (stats memory.Stats, _ error) {
	for _, want := range wanted {
		for _, run := range want.Runs {
			for n := range uint64(run.Pages) {
				page, exists := m.tasks[want.Task][run.Address+n*store.BlockSize]
				require.True(m.t, exists)
				require.NoError(m.t, sink(ctx, want.Task, run.Address+n*store.BlockSize, page.bytes()))
				stats.PagesRead++
			}
		}
	}
	return stats, nil
}

// requireWhole holds that a dump's images and what its sink has got are the container, and that it reads as a full dump.
func (m *model) requireWhole(taken Taken, got mirror) {
	m.t.Helper()
	pages := 0
	for _, memory := range taken.Memory {
		image, err := os.ReadFile(filepath.Join(taken.Images, memory.Image))
		require.NoError(m.t, err)
		for _, run := range taken.Stored[memory.Image] {
			size := run.Pages * store.BlockSize
			require.NoError(m.t, got.take(m.t.Context(), memory.Task, run.Address, image[:size]))
			image = image[size:]
		}
		require.Empty(m.t, image)
		name := "pagemap-" + strings.TrimPrefix(memory.Task, "mem/") + ".img"
		if memory.Task == "shm/0" {
			name = "pagemap-shmem-77.img"
		}
		_, runs, err := readPagemap(filepath.Join(taken.Images, name))
		require.NoError(m.t, err, "it is no full dump")
		require.Equal(m.t, memory.Runs, runs)
		pages += int(bytesOf(runs) / store.BlockSize)
	}
	m.requireSame(got)
	for _, all := range m.tasks {
		pages -= len(all)
	}
	require.Zero(m.t, pages, "it has pages that the container has not")
}

// Random rounds and dumps of random containers: whatever rounds have failed at, a dump is what the container has, and CRIU
// finds in the kept parent all that it leaves to it, unless a round was cut off.
func TestChainsOfRoundsAndDumps(t *testing.T) {
	const containers, steps = 20, 20
	dumps := 0
	for seed := range uint64(containers) {
		m := &model{t: t, rng: rand.New(rand.NewPCG(seed, 0)), tasks: map[string]map[uint64]modelPage{}}
		i := &Incremental{Runc: &Runc{HostRoot: "/"}, Dir: filepath.Join(t.TempDir(), "rounds")}
		had, cutOff := mirror{}, false
		for range steps {
			m.live()
			folder, forRounds := i.parent(modelled.ID, modelled.PID)
			switch m.rng.IntN(12) {
			default:
				if !forRounds {
					folder = ""
				}
				m.round(i, folder, had)
				cutOff = false
			case 0: // CRIU was killed, and had cleared the bits
				m.dump(t.TempDir(), "")
				i.miss(modelled.ID, true)
				cutOff = true
			case 1, 2, 3:
				if folder == "" {
					continue // a full dump
				}
				if m.dumpOn(i, folder, had) {
					dumps++
					cutOff = false
					continue
				}
				require.True(t, cutOff, "CRIU misses pages in the parent")
				i.Forget(modelled.ID)
			}
		}
		require.NoError(t, i.Clear())
		require.NoDirExists(t, i.Dir)
	}
	require.Greater(t, dumps, containers)
}

var (
	modelled = snapshot.Container{ID: "c1", PID: 17}
	errFull  = errors.New("the bucket is full")
)

// round takes a round, which fails now and then. had is what sinks have got.
func (m *model) round(i *Incremental, folder string, had mirror) {
	images := filepath.Join(i.folder(modelled.ID), "round")
	require.NoError(m.t, remake(images))
	require.True(m.t, m.dump(images, folder), "CRIU misses pages in the parent")
	fails := m.rng.IntN(6) == 0
	scan, err := i.handOn(m.t.Context(), modelled, images, memory.NewLimit(1000),
		func(ctx context.Context, task string, address uint64, pages []byte) (time.Duration, error) {
			if fails {
				return 0, errFull
			}
			return 0, had.take(ctx, task, address, pages)
		})
	_, forRounds := i.parent(modelled.ID, modelled.PID)
	require.Equal(m.t, err == nil, forRounds)
	if err != nil {
		require.ErrorIs(m.t, err, errFull)
		return
	}
	m.requireSame(had)
	require.NoDirExists(m.t, images)
	if folder == "" {
		require.Zero(m.t, scan.Unread)
	}
}

// dumpOn takes a dump that builds on a round, unless CRIU would not.
func (m *model) dumpOn(i *Incremental, folder string, had mirror) bool {
	images, got := m.t.TempDir(), mirror{}
	if !m.dump(images, folder) {
		return false
	}
	require.NoError(m.t, os.Symlink(folder, filepath.Join(images, "parent")))
	taken, err := i.complete(m.t.Context(), modelled.ID, modelled.PID, images, m.read, got.take)
	require.NoError(m.t, err)
	m.requireWhole(taken, got)
	require.NoFileExists(m.t, filepath.Join(images, "parent"))
	for task, pages := range got {
		for address, content := range pages {
			require.NoError(m.t, had.take(m.t.Context(), task, address, modelPage{content: content}.bytes()))
		}
	}
	return true
}

func TestPagesInTheParent(t *testing.T) {
	older := newEntry(0x3000, 1, present)
	older.Flags, older.InParent = nil, &[]bool{true}[0]
	dir := t.TempDir()
	writePagemap(t, dir, "pagemap-5.img", 1, 2,
		newEntry(0x1000, 1, present), newEntry(0x2000, 1, flagParent), older, newEntry(0x4000, 1, present|lazy))
	read, err := pageMaps(dir, flagParent)
	require.NoError(t, err)
	require.Equal(t, runs(0x2000, 2), read[0].absent)
	require.Equal(t, runs(0x1000, 1, 0x4000, 1), read[0].present)
	require.NoError(t, read[0].flatten())
	_, flat, err := readPagemap(filepath.Join(dir, "pagemap-5.img"))
	require.NoError(t, err)
	require.Equal(t, runs(0x1000, 4), flat)
}

func TestDamagedRoundsAreRefused(t *testing.T) {
	for _, c := range []struct {
		name  string
		write func(t *testing.T, dir string)
	}{
		{"lazy", func(t *testing.T, dir string) { writePagemap(t, dir, "pagemap-1.img", 1, 0, newEntry(0x1000, 1, lazy)) }},
		{"lazy and in the parent", func(t *testing.T, dir string) {
			writePagemap(t, dir, "pagemap-1.img", 1, 0, newEntry(0x1000, 1, lazy|flagParent))
		}},
		{"present and in the parent", func(t *testing.T, dir string) {
			writePagemap(t, dir, "pagemap-1.img", 1, 1, newEntry(0x1000, 1, present|flagParent))
		}},
		{"nowhere", func(t *testing.T, dir string) { writePagemap(t, dir, "pagemap-1.img", 1, 0, newEntry(0x1000, 1, 0)) }},
		{"twice", func(t *testing.T, dir string) {
			writePagemap(t, dir, "pagemap-1.img", 1, 1, newEntry(0x1000, 2, flagParent), newEntry(0x2000, 1, present))
		}},
		{"shared memory in the parent", func(t *testing.T, dir string) {
			writePagemap(t, dir, "pagemap-shmem-1.img", 1, 0, newEntry(0x1000, 1, flagParent))
		}},
		{"fewer pages than named", func(t *testing.T, dir string) {
			writePagemap(t, dir, "pagemap-1.img", 1, 1, newEntry(0x1000, 2, present), newEntry(0x5000, 1, flagParent))
		}},
		{"more pages than named", func(t *testing.T, dir string) {
			writePagemap(t, dir, "pagemap-1.img", 1, 2, newEntry(0x1000, 1, present), newEntry(0x5000, 1, flagParent))
		}},
		{"no image", func(t *testing.T, dir string) {
			writePagemap(t, dir, "pagemap-1.img", 1, 1, newEntry(0x1000, 1, present))
			require.NoError(t, os.Remove(filepath.Join(dir, "pages-1.img")))
		}},
		{"an image that is another's", func(t *testing.T, dir string) {
			writePagemap(t, dir, "pagemap-1.img", 1, 1, newEntry(0x1000, 1, present))
			writePagemap(t, dir, "pagemap-2.img", 1, 1, newEntry(0x1000, 1, present))
		}},
		{"cut off", func(t *testing.T, dir string) {
			writePagemap(t, dir, "pagemap-1.img", 1, 1, newEntry(0x1000, 1, present))
			require.NoError(t, os.Truncate(filepath.Join(dir, "pagemap-1.img"), 15))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			c.write(t, dir)
			i := &Incremental{Runc: &Runc{HostRoot: "/"}, Dir: t.TempDir()}
			_, err := i.complete(t.Context(), "c1", 17, dir, nil, nil)
			require.Error(t, err)
			_, err = i.handOn(t.Context(), snapshot.Container{ID: "c1", PID: 17}, dir, memory.NewLimit(1), nil)
			require.Error(t, err)
			folder, _ := i.parent("c1", 17)
			require.Empty(t, folder)
		})
	}
}

// That CRIU has not found the parent is no error to it: the dump is a full one, and says so.
func TestDumpWithoutItsParentIsFull(t *testing.T) {
	dir := t.TempDir()
	writePagemap(t, dir, "pagemap-1.img", 1, 2, newEntry(0x1000, 2, present))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "inventory.img"), nil, 0o600))
	i := &Incremental{Runc: &Runc{HostRoot: "/"}, Dir: t.TempDir()}
	none := func(_ context.Context, wanted []memory.Wanted, _ memory.Sink) (memory.Stats, error) {
		require.Empty(t, wanted)
		return memory.Stats{}, nil
	}
	taken, err := i.complete(t.Context(), "c1", 17, dir, none, nil)
	require.NoError(t, err)
	require.ErrorIs(t, taken.NotLazy, errNoRound)
	require.Equal(t, runs(0x1000, 2), taken.Stored["pages-1.img"])
	folder, forRounds := i.parent("c1", 17)
	require.NotEmpty(t, folder)
	require.True(t, forRounds)
	folder, _ = i.parent("c1", 18)
	require.Empty(t, folder, "another process is another container")
}

// Without a round before there is a full dump.
func TestFirstDumpIsFull(t *testing.T) {
	r, dir := fakeRunc(t, `checkpoint) exit 1;;`)
	setStatus(t, dir, "paused")
	i := &Incremental{Runc: r, Dir: t.TempDir()}
	_, err := i.DumpInto(t.Context(), "c1", filepath.Join(dir, "dump"), nil)
	require.ErrorIs(t, err, errNoRound)
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(calls), " checkpoint "))
	require.NotContains(t, string(calls), "--parent-path")
}

func TestChoose(t *testing.T) {
	const lazyFlags, crunFlags = "--lazy-pages --parent-path --file-locks --link-remap --tcp-skip-in-flight", "--parent-path --file-locks"
	for _, c := range []struct {
		name, flags, features string
		wanted, way           Way
		reason                string
	}{
		{"all there is", lazyFlags, "uffd-noncoop mem_dirty_track", Auto, Lazy, "can"},
		{"no lazy dump", crunFlags, "uffd-noncoop mem_dirty_track", Auto, Tracked, "has no --lazy-pages"},
		{"no lazy dump by CRIU", lazyFlags, "mem_dirty_track", Auto, Tracked, "uffd-noncoop"},
		{"nothing", crunFlags, "uffd-noncoop", Auto, Full, "mem_dirty_track"},
		{"lazy wanted", lazyFlags, "uffd-noncoop", Lazy, Lazy, "can"},
		{"lazy wanted and not there", crunFlags, "mem_dirty_track", Lazy, Full, "has no --lazy-pages"},
		{"criu wanted", lazyFlags, "uffd-noncoop mem_dirty_track", Tracked, Tracked, "asked for"},
		{"criu wanted and not there", lazyFlags, "uffd-noncoop", Tracked, Full, "mem_dirty_track"},
		{"full wanted", lazyFlags, "uffd-noncoop mem_dirty_track", Full, Full, "asked for"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, dir := fakeRunc(t, `checkpoint) echo "`+c.flags+`";;`)
			r.CRIUDir = dir
			check := `case " ` + c.features + ` " in *" $3 "*) exit 0;; esac; echo "$3 is OFF"; exit 1`
			require.NoError(t, os.WriteFile(filepath.Join(dir, "criu"), []byte("#!/bin/bash\n"+check), 0o755))
			choice, err := r.Choose(t.Context(), c.wanted)
			require.NoError(t, err)
			require.Equal(t, c.way, choice.Way)
			require.Contains(t, choice.Reason, c.reason)
			require.Equal(t, c.flags == crunFlags, !slices.Contains(r.dumpFlags(), "--link-remap"))
		})
	}
	r, _ := fakeRunc(t, `checkpoint) exit 1;;`)
	_, err := r.Choose(t.Context(), Auto)
	require.ErrorContains(t, err, "what it can do")
	_, err = r.Choose(t.Context(), "cruise")
	require.ErrorContains(t, err, "cruise")
}

func TestEngineDumpsInFullWhereThatWasChosen(t *testing.T) {
	r, dir := fakeRunc(t, `checkpoint) exit 1;;`)
	setStatus(t, dir, "paused")
	sink := func(context.Context, string, uint64, []byte) error { return nil }
	_, err := Engine{Runc: r, Choice: Choice{Full, "asked for"}}.Dump(t.Context(), "c1", filepath.Join(dir, "dump"), sink)
	require.Error(t, err)
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	require.NoError(t, err)
	require.NotContains(t, string(calls), "--lazy-pages")
}

// A call of which nobody is traced ends with its context, and its children with it.
func TestCallEndsWithItsContext(t *testing.T) {
	r, dir := fakeRunc(t, "")
	c, err := begin(r.hostCommand(context.Background(), true, "sh", "-c", "sleep 600 & echo $! > "+dir+"/child; wait"))
	require.NoError(t, err)
	var child []byte
	require.Eventually(t, func() bool {
		child, _ = os.ReadFile(filepath.Join(dir, "child"))
		return len(child) > 0
	}, 10*time.Second, time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, c.finish(ctx, os.Getpid(), nil), context.Canceled)
	require.Eventually(t, func() bool {
		state, err := os.ReadFile("/proc/" + strings.TrimSpace(string(child)) + "/stat")
		return err != nil || strings.Contains(string(state), ") Z ")
	}, 10*time.Second, time.Millisecond, "its child outlived the call")
}

func TestOrdersThatAreNone(t *testing.T) {
	require.ErrorContains(t, PreDump("{"), "decode order")
	require.ErrorContains(t, PreDump(`{"PID":1,"Images":"/nowhere","Work":"/nowhere"}`), "/nowhere")
}
