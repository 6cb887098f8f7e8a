package bench

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParsePeak(t *testing.T) {
	kib, err := parsePeak("VmPeak:\t  999 kB\nVmHWM:\t    1234 kB\nVmRSS:\t 1 kB\n")
	require.NoError(t, err)
	require.Equal(t, 1234, kib)
	for _, spoilt := range []string{"", "VmHWM:\t 12 MB\n", "VmHWM:\t x kB\n"} {
		_, err := parsePeak(spoilt)
		require.Error(t, err, spoilt)
	}
}

func TestCompareSums(t *testing.T) {
	before := []byte("aaaabbbbcccc")
	tests := []struct {
		name                 string
		after                string
		compared, mismatches int
	}{
		{"same", "aaaabbbbcccc", 3, 0},
		{"one differs", "aaaabXbbcccc", 3, 1},
		{"one is missing", "aaaabbbb", 3, 1},
		{"one is new", "aaaabbbbccccd", 4, 1},
		{"nothing came", "", 3, 3},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			compared, mismatches := compareSums(before, []byte(test.after))
			require.Equal(t, test.compared, compared)
			require.Equal(t, test.mismatches, mismatches)
		})
	}
}

func TestStampPages(t *testing.T) {
	const pages = 200
	first, second := make([]byte, pages*pageSize), make([]byte, pages*pageSize)
	stampPages(first, 1000, 0)
	stampPages(second, 1000, 1)
	seen, changed := map[uint64]bool{}, 0
	for at := 0; at < len(first); at += pageSize {
		seen[binary.LittleEndian.Uint64(first[at:])] = true
		if string(first[at:at+pageSize]) != string(second[at:at+pageSize]) {
			changed++
		}
	}
	require.Len(t, seen, pages, "all pages differ")
	require.Equal(t, pages/100, changed)
}

func TestWorst(t *testing.T) {
	value, bound := worst([]float64{3, 4, 9}, []float64{4, 4, 10})
	require.InDelta(t, 4.0, value, 0)
	require.InDelta(t, 4.0, bound, 0)
}

func TestPutsAllowed(t *testing.T) {
	require.InDelta(t, 4.0, putsAllowed(1), 0)
	require.InDelta(t, 4.0, putsAllowed(packSize), 0)
	require.InDelta(t, 5.0, putsAllowed(packSize+1), 0)
}

func TestFolderSize(t *testing.T) {
	folder := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(folder, "a", "b"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "a", "b", "c"), make([]byte, 10), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "d"), make([]byte, 5), 0o600))
	require.NoError(t, os.Symlink("d", filepath.Join(folder, "e")))
	size, err := folderSize(folder)
	require.NoError(t, err)
	require.EqualValues(t, 15, size)
	_, err = folderSize(filepath.Join(folder, "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestMemoryBound(t *testing.T) {
	require.InDelta(t, 64+2*(85+224), memoryBound(16), 0, "16 GiB are 4 Mi blocks of 56 bytes")
}

func TestParts(t *testing.T) {
	require.ErrorContains(t, Run(t.Context(), Options{Parts: []string{"stor"}}), "handover, restore, scale, snapshot, store")
}

func TestMakePages(t *testing.T) {
	const size = 8 << 20
	pages := makePages(size)
	require.Len(t, pages, size)
	zero := make([]byte, pageSize)
	zeros := 0
	for at := 0; at < size; at += pageSize {
		if bytes.Equal(pages[at:at+pageSize], zero) {
			zeros++
		}
	}
	require.InDelta(t, 1.0/3, float64(zeros)*pageSize/size, 0.05)
}
