package criu

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pagemap"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/stats"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/store"
)

const present, lazy = flagPresent, 1 << 1

// entry is what CRIU before 4.2 writes of pages.
func entry(address uint64, pages, flags uint32) *pagemap.PagemapEntry {
	return &pagemap.PagemapEntry{Vaddr: &address, NrPages: &pages, Flags: &flags}
}

// newEntry is what CRIU 4.2 writes.
func newEntry(address uint64, pages, flags uint32) *pagemap.PagemapEntry {
	e := entry(address, 0, flags)
	e.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, fieldPages, protowire.VarintType), uint64(pages)))
	return e
}

// writePagemap writes a pagemap through crit, and pages that many into the image that it names.
func writePagemap(t *testing.T, dir, name string, id uint32, pages int, entries ...*pagemap.PagemapEntry) {
	t.Helper()
	image := crit.CriuImage{Magic: "PAGEMAP", Entries: []*crit.CriuEntry{{Message: &pagemap.PagemapHead{PagesId: &id}}}}
	for _, e := range entries {
		image.Entries = append(image.Entries, &crit.CriuEntry{Message: e})
	}
	f, err := os.Create(filepath.Join(dir, name))
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, crit.New(nil, f, "", false, false).Encode(&image))
	content := make([]byte, pages*os.Getpagesize())
	require.NoError(t, os.WriteFile(filepath.Join(dir, "pages-"+string(rune('0'+id))+".img"), content, 0o600))
}

func runs(pairs ...uint64) []store.Run {
	var out []store.Run
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, store.Run{Address: pairs[i], Pages: int64(pairs[i+1])})
	}
	return out
}

func TestMemory(t *testing.T) {
	for _, c := range []struct {
		name  string
		write func(t *testing.T, dir string)
		want  []snapshot.Memory
	}{
		{
			name: "processes and shared memory",
			write: func(t *testing.T, dir string) {
				writePagemap(t, dir, "pagemap-17.img", 3, 2, newEntry(0x7000, 2, present))
				writePagemap(t, dir, "pagemap-2.img", 2, 1, newEntry(0x4000, 1, present|lazy))
				writePagemap(t, dir, "pagemap-shmem-10114.img", 4, 1, newEntry(0, 1, present))
				writePagemap(t, dir, "pagemap-shmem-999.img", 1, 1, newEntry(0x2000, 1, present))
			},
			want: []snapshot.Memory{
				{Image: "pages-2.img", Task: "mem/2", Runs: runs(0x4000, 1)},
				{Image: "pages-3.img", Task: "mem/17", Runs: runs(0x7000, 2)},
				{Image: "pages-1.img", Task: "shm/0", Runs: runs(0x2000, 1)},
				{Image: "pages-4.img", Task: "shm/1", Runs: runs(0, 1)},
			},
		},
		{
			name: "entries that go on one after the other are one run",
			write: func(t *testing.T, dir string) {
				writePagemap(t, dir, "pagemap-1.img", 1, 6,
					newEntry(0x1000, 2, present), newEntry(0x3000, 3, present|lazy), newEntry(0x8000, 1, present))
			},
			want: []snapshot.Memory{{Image: "pages-1.img", Task: "mem/1", Runs: runs(0x1000, 5, 0x8000, 1)}},
		},
		{
			name: "older CRIU",
			write: func(t *testing.T, dir string) {
				old := entry(0x9000, 1, 0)
				old.Flags = nil
				writePagemap(t, dir, "pagemap-1.img", 1, 3, entry(0x1000, 2, present), old)
			},
			want: []snapshot.Memory{{Image: "pages-1.img", Task: "mem/1", Runs: runs(0x1000, 2, 0x9000, 1)}},
		},
		{
			name: "more pages than the image has",
			write: func(t *testing.T, dir string) {
				writePagemap(t, dir, "pagemap-1.img", 1, 1, newEntry(0x1000, 2, present))
			},
		},
		{
			name: "two that name the same image",
			write: func(t *testing.T, dir string) {
				writePagemap(t, dir, "pagemap-1.img", 1, 1, newEntry(0x1000, 1, present))
				writePagemap(t, dir, "pagemap-2.img", 1, 1, newEntry(0x1000, 1, present))
			},
		},
		{
			name: "not in the order of addresses",
			write: func(t *testing.T, dir string) {
				writePagemap(t, dir, "pagemap-1.img", 1, 2, newEntry(0x2000, 1, present), newEntry(0x1000, 1, present))
			},
		},
		{
			name:  "no pages",
			write: func(t *testing.T, dir string) { writePagemap(t, dir, "pagemap-1.img", 1, 0) },
		},
		{
			name: "no pagemaps",
			write: func(t *testing.T, dir string) {
				require.NoError(t, os.WriteFile(filepath.Join(dir, "pagemap-1.img"), []byte("what is this"), 0o600))
				require.NoError(t, os.WriteFile(filepath.Join(dir, "pagemap-2.img"), nil, 0o600))
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			c.write(t, dir)
			got, err := memoryOf(dir)
			require.NoError(t, err)
			require.ElementsMatch(t, c.want, got)
		})
	}
}

func TestMemoryRefusesDumpsThatAreNotFull(t *testing.T) {
	inParent := newEntry(0x5000, 1, present)
	inParent.InParent = proto.Bool(true)
	for _, c := range []struct {
		name  string
		entry *pagemap.PagemapEntry
	}{
		{"in the parent", newEntry(0x5000, 1, flagParent)},
		{"in the parent, as older CRIU says it", inParent},
		{"to be fetched later", newEntry(0x5000, 1, lazy)},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			writePagemap(t, dir, "pagemap-1.img", 1, 1, newEntry(0x1000, 1, present), c.entry)
			_, err := memoryOf(dir)
			require.ErrorContains(t, err, "pagemap-1.img: the pages at 0x5000 are not in this dump")
		})
	}
}

func TestDumpTellsMemory(t *testing.T) {
	r, dir := fakeRunc(t, `checkpoint) cp made/* $2; cp stats-dump $4;;`)
	setStatus(t, dir, "paused")
	made := filepath.Join(dir, "made")
	require.NoError(t, os.Mkdir(made, 0o700))
	writePagemap(t, made, "pagemap-1.img", 1, 2, newEntry(0x1000, 2, present))
	f, err := os.Create(filepath.Join(dir, crit.StatsDump))
	require.NoError(t, err)
	defer f.Close()
	counted := &stats.StatsEntry{Dump: &stats.DumpStatsEntry{
		FreezingTime: proto.Uint32(0), FrozenTime: proto.Uint32(0), MemdumpTime: proto.Uint32(0), MemwriteTime: proto.Uint32(0),
		PagesScanned: proto.Uint64(2), PagesSkippedParent: proto.Uint64(0), PagesWritten: proto.Uint64(2), PagesLazy: proto.Uint64(0),
	}}
	image := crit.CriuImage{Magic: "STATS", Entries: []*crit.CriuEntry{{Message: counted}}}
	require.NoError(t, crit.New(nil, f, "", false, false).Encode(&image))

	dump, err := r.Dump(t.Context(), "c1", filepath.Join(dir, "dump"))
	require.NoError(t, err)
	require.EqualValues(t, 2*os.Getpagesize(), dump.RSSBytes)
	require.Equal(t, []snapshot.Memory{{Image: "pages-1.img", Task: "mem/1", Runs: runs(0x1000, 2)}}, dump.Memory)
}
