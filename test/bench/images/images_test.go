package images_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pagemap"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/lifeboat-dev/lifeboat/test/bench/images"
)

// page is one of the address, filled with a byte.
type page struct {
	address uint64
	fill    byte
}

// writeSpace writes a pagemap, one run a page, and its pages image.
func writeSpace(t *testing.T, folder, task string, id uint32, flags uint32, pages ...page) {
	t.Helper()
	image := &crit.CriuImage{Magic: "PAGEMAP", Entries: []*crit.CriuEntry{{Message: &pagemap.PagemapHead{PagesId: &id}}}}
	var content []byte
	for _, p := range pages {
		one := uint32(1)
		image.Entries = append(image.Entries, &crit.CriuEntry{Message: &pagemap.PagemapEntry{Vaddr: &p.address, NrPages: &one, Flags: &flags}})
		content = append(content, bytes.Repeat([]byte{p.fill}, images.PageSize)...)
	}
	f, err := os.Create(filepath.Join(folder, "pagemap-"+task+".img"))
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, crit.New(nil, f, "", false, false).Encode(image))
	name := filepath.Join(folder, "pages-"+string(rune('0'+id))+".img")
	require.NoError(t, os.WriteFile(name, content, 0o600))
}

func open(t *testing.T, folder string) *images.Set {
	t.Helper()
	set, err := images.Open(folder)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, set.Close()) })
	return set
}

const full = 1 << 2

func TestOpen(t *testing.T) {
	folder := t.TempDir()
	writeSpace(t, folder, "16", 1, full, page{0x1000, 'a'}, page{0x5000, 'b'})
	writeSpace(t, folder, "shmem-7", 2, full, page{0, 'c'})
	require.NoError(t, os.WriteFile(filepath.Join(folder, "pstree.img"), nil, 0o600))
	set := open(t, folder)
	require.Equal(t, []string{"pagemap-16.img", "pagemap-shmem-7.img", "pstree.img"}, set.Others)
	require.EqualValues(t, 3*images.PageSize, set.PageBytes())
	require.Len(t, set.Spaces, 2)
	require.Equal(t, "16", set.Spaces[0].Task)
	require.Equal(t, "pages-1.img", set.Spaces[0].File)
	require.Equal(t, []images.Run{{Address: 0x1000, Pages: 1}, {Address: 0x5000, Pages: 1}}, set.Spaces[0].Runs)
	require.Equal(t, "shmem-7", set.Spaces[1].Task)
}

func TestPagesAreCountedAsCRIU4Does(t *testing.T) {
	folder := t.TempDir()
	writeSpace(t, folder, "16", 1, full)
	id, address, flags, none := uint32(1), uint64(0x1000), uint32(full), uint32(0)
	entry := &pagemap.PagemapEntry{Vaddr: &address, NrPages: &none, Flags: &flags}
	entry.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 5, protowire.VarintType), 2))
	f, err := os.Create(filepath.Join(folder, "pagemap-16.img"))
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, crit.New(nil, f, "", false, false).Encode(&crit.CriuImage{Magic: "PAGEMAP", Entries: []*crit.CriuEntry{
		{Message: &pagemap.PagemapHead{PagesId: &id}}, {Message: entry},
	}}))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "pages-1.img"), make([]byte, 2*images.PageSize), 0o600))
	require.Equal(t, []images.Run{{Address: 0x1000, Pages: 2}}, open(t, folder).Spaces[0].Runs)
}

func TestOpenRefuses(t *testing.T) {
	tests := []struct {
		name, want string
		spoil      func(t *testing.T, folder string)
	}{
		{"pages without a map", "no pagemap for pages-9.img", func(t *testing.T, folder string) {
			require.NoError(t, os.WriteFile(filepath.Join(folder, "pages-9.img"), nil, 0o600))
		}},
		{"fewer pages than the map says", "says 8192", func(t *testing.T, folder string) {
			require.NoError(t, os.Truncate(filepath.Join(folder, "pages-1.img"), images.PageSize))
		}},
		{"a part of a chain", "want a full dump", func(t *testing.T, folder string) {
			writeSpace(t, folder, "17", 2, 1, page{0x1000, 'a'})
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			folder := t.TempDir()
			writeSpace(t, folder, "16", 1, full, page{0x1000, 'a'}, page{0x5000, 'b'})
			test.spoil(t, folder)
			_, err := images.Open(folder)
			require.ErrorContains(t, err, test.want)
		})
	}
}

func TestChanged(t *testing.T) {
	before, after := t.TempDir(), t.TempDir()
	writeSpace(t, before, "16", 1, full, page{0x1000, 'a'}, page{0x2000, 'b'}, page{0x3000, 'c'}, page{0x9000, 'd'})
	writeSpace(t, after, "16", 1, full, page{0, 'n'}, page{0x1000, 'a'}, page{0x3000, 'C'}, page{0x9000, 'd'}, page{0xa000, 'e'})
	writeSpace(t, after, "17", 2, full, page{0x1000, 'a'})
	var seen []byte
	require.NoError(t, images.Changed(open(t, before), open(t, after), func(page []byte) error {
		require.Len(t, page, images.PageSize)
		seen = append(seen, page[0])
		return nil
	}))
	require.Equal(t, "nCea", string(seen), "new, changed, new at the end, of another task")
}
