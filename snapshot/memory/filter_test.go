package memory

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
)

const present = uint64(wordPresent)

// learned is a task of which the first four pages of address 0x200000 on are known, in frames 10 to 13.
func learned() *knownTask {
	k := &knownTask{groups: map[uint64]*pageGroup{}, areas: map[uint64]extent{0x200000: {0x300000, "rw-p"}}}
	k.order()
	for n := range uint64(4) {
		k.learn(0x200000+n*4096, present|10+n, content(n))
	}
	return k
}

func content(n uint64) []byte {
	page := make([]byte, pageSize)
	page[0] = byte(n)
	return page
}

// tableOf answers with words from address 0x200000 on, and 0 beyond them.
func tableOf(table []uint64) wordReader {
	return func(s span, words []uint64) error {
		for i := range words {
			words[i] = 0
			if at := int(s.start-0x200000)/pageSize + i; at < len(table) {
				words[i] = table[at]
			}
		}
		return nil
	}
}

func TestSift(t *testing.T) {
	for _, c := range []struct {
		name  string
		table []uint64
		// read are the pages, of six, that must be read.
		read           []int
		dirty, cleared bool
	}{
		{name: "nothing was written to", table: []uint64{present | 10, present | 11, present | 12, present | 13}, read: []int{4, 5}},
		{
			name: "written to", table: []uint64{present | 10, present | 11 | wordSoftDirty, present | 12, present | 13},
			read: []int{1, 4, 5}, dirty: true,
		},
		{name: "in another frame: moved there, dropped, swapped in, merged", table: []uint64{present | 11, present | 10, present | 12, present | 99}, read: []int{0, 1, 3, 4, 5}},
		{name: "swapped out", table: []uint64{wordSwapped | 10, present | 11, present | 12, present | 13}, read: []int{0, 4, 5}},
		{name: "a file's now", table: []uint64{present | wordFile | 10, present | 11, present | 12, present | 13}, read: []int{0, 4, 5}},
		{name: "gone", table: []uint64{present | 10, 0, present | 12, present | 13}, read: []int{1, 4, 5}},
		{name: "frames are not told", table: []uint64{present, present, present, present}, read: []int{0, 1, 2, 3, 4, 5}},
		{name: "a frame beyond what is kept", table: []uint64{present | 1<<32 | 10, present | 11, present | 12, present | 13}, read: []int{0, 4, 5}},
		{name: "never read", table: []uint64{present | 10, present | 11, present | 12, present | 13, present | 14, present | 15}, read: []int{4, 5}},
	} {
		t.Run(c.name, func(t *testing.T) {
			// Room for fewer words than there are pages.
			got, err := learned().sift(tableOf(c.table), []span{{0x200000, 0x206000}}, make([]uint64, 4))
			require.NoError(t, err)
			var read []int
			for _, s := range got.unread {
				for at := s.start; at < s.end; at += 4096 {
					read = append(read, int(at-0x200000)/4096)
				}
			}
			require.Equal(t, c.read, read)
			require.EqualValues(t, 6-len(c.read), got.cleanPages)
			require.Equal(t, c.dirty, got.dirty)
			require.Equal(t, c.cleared, got.cleared)
		})
	}
	_, err := learned().sift(func(span, []uint64) error { return errors.New("no") }, []span{{0x200000, 0x201000}}, make([]uint64, 4))
	require.Error(t, err)
}

func TestWhatWasWrittenToIsReadFromThenOn(t *testing.T) {
	k := learned()
	require.True(t, k.wrote(0x201000, present|wordSoftDirty|11, content(9)), "it has changed")
	require.False(t, k.wrote(0x202000, present|wordSoftDirty|12, content(2)), "it has what it had")
	require.True(t, k.wrote(0x300000, present|wordSoftDirty|50, content(2)), "it was not known")
	marked := present | wordSoftDirty
	got, err := k.sift(tableOf([]uint64{present | 10, marked | 11, marked | 12, present | 13}), []span{{0x200000, 0x204000}}, make([]uint64, 9))
	require.NoError(t, err)
	require.Equal(t, []span{{0x201000, 0x203000}}, got.unread)
	require.False(t, got.cleared)
	got, err = k.sift(tableOf([]uint64{present | 10, present | 11, marked | 12, present | 13}), []span{{0x200000, 0x204000}}, make([]uint64, 9))
	require.NoError(t, err)
	require.Equal(t, []span{{0x201000, 0x203000}}, got.unread, "a mark that went away is not believed")
	require.True(t, got.cleared)
}

func TestAreasThatChangedAreNotTrusted(t *testing.T) {
	same := []uint64{present | 10, present | 11, present | 12, present | 13}
	for _, c := range []struct {
		name, maps string
		clean      int64
	}{
		{"as it was", "200000-300000 rw-p 00000000 00:00 0\n300000-400000 r--p 00000000 00:00 0\n", 4},
		{"it has grown", "200000-301000 rw-p 00000000 00:00 0\n", 0},
		{"it begins before", "1ff000-300000 rw-p 00000000 00:00 0\n", 0},
		{"protected otherwise", "200000-300000 r--p 00000000 00:00 0\n", 0},
		{"a file's", "200000-300000 rw-p 00000000 08:01 77 /x\n", 0},
		{"gone", "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := learned()
			k.refresh(strings.NewReader(c.maps))
			for range 2 { // it is not trusted again when it is as it was
				got, err := k.sift(tableOf(same), []span{{0x200000, 0x204000}}, make([]uint64, 9))
				require.NoError(t, err)
				require.Equal(t, c.clean, got.cleanPages)
				k.refresh(strings.NewReader("200000-300000 rw-p 00000000 00:00 0\n"))
			}
		})
	}
}

func TestTrim(t *testing.T) {
	k := learned()
	for n := range uint64(600) {
		k.learn(0x400000+n*4096, present|1000+n, content(n))
	}
	k.trim([]store.Run{{Address: 0x201000, Pages: 2}, {Address: 0x400000, Pages: 512}, {Address: 0x601000, Pages: 1}, {Address: 0x900000, Pages: 3}})
	for _, c := range []struct {
		address uint64
		known   bool
	}{{0x200000, false}, {0x201000, true}, {0x202000, true}, {0x203000, false}, {0x400000, true}, {0x5ff000, true}, {0x600000, false},
		{0x601000, true}, {0x602000, false}, {0x900000, false}} {
		was, _ := k.record(c.address)
		require.Equal(t, c.known, was.frame != 0, "%#x", c.address)
	}
}

func TestJudge(t *testing.T) {
	const address = 0x201000
	marked := present | wordSoftDirty
	for _, c := range []struct {
		name          string
		pass          pass
		before, after uint64
		content       uint64
		want          passed
	}{
		{"as it was", passCheck, present | 11, present | 11, 1, passed{}},
		{"changed without a mark", passCheck, present | 11, present | 11, 7, passed{missed: 1}},
		{"written to while it was read", passCheck, present | 11, marked | 11, 7, passed{read: 1, changed: 1}},
		{"replaced while it was read", passCheck, present | 11, present | 12, 7, passed{read: 1, changed: 1}},
		{"written to with what it had", passDirty, marked | 11, marked | 11, 1, passed{read: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := &look{pass: c.pass, task: learned(), trusted: true}
			var got passed
			l.judge(&got, address, c.before, c.after, content(c.content))
			require.Equal(t, c.want, got)
		})
	}
	for _, c := range []struct {
		name          string
		before, after uint64
		learnt        bool
	}{
		{"still", present | 60, present | 60, true},
		{"marked before it was read", marked | 60, marked | 60, false},
		{"marked while it was read", present | 60, marked | 60, false},
		{"moved while it was read", present | 60, present | 61, false},
		{"gone after it was read", present | 60, 0, false},
		{"swapped", wordSwapped | 60, wordSwapped | 60, false},
	} {
		t.Run("first read, "+c.name, func(t *testing.T) {
			l := &look{pass: passFresh, trusted: true, task: &knownTask{groups: map[uint64]*pageGroup{}}}
			l.judge(&passed{}, address, c.before, c.after, content(1))
			was, _ := l.task.record(address)
			require.Equal(t, c.learnt, was.frame != 0)
		})
	}
}

func TestPasses(t *testing.T) {
	filters := NewFilters()
	f := filters.Of("c")
	now := time.Now()
	next := func(want pass, found passed, used time.Duration) {
		t.Helper()
		require.Equal(t, want, f.begin(now))
		if want == passFresh {
			f.tasks, f.used = map[string]*knownTask{"mem/1": learned()}, used
		}
		f.sum = found
		require.Equal(t, found.missed, f.end(want, used))
	}
	next(passFresh, passed{}, 0)
	next(passDirty, passed{read: 1000, changed: 1000, dirty: true}, time.Second)
	next(passDirty, passed{read: 1000, changed: 500, dirty: true}, time.Second)
	next(passFresh, passed{}, time.Second)
	next(passDirty, passed{read: 1000, changed: 500, dirty: true}, time.Second)
	for range 3 {
		next(passFresh, passed{}, time.Second)
	}
	now = now.Add(DefaultCheckEvery)
	next(passCheck, passed{dirty: true}, 2*time.Second)
	next(passDirty, passed{read: 10, changed: 1, dirty: true}, 2*time.Second)
	next(passDirty, passed{}, 2*time.Second)
	require.False(t, f.trusted(), "it has run and written nothing")
	next(passFresh, passed{}, 2*time.Second)
	next(passDirty, passed{cleared: true, dirty: true}, 2*time.Second)
	require.False(t, f.trusted(), "a mark went away")
	next(passFresh, passed{}, 2*time.Second)
	next(passDirty, passed{}, 2*time.Second)
	require.True(t, f.trusted(), "it has not run")
	now = now.Add(DefaultCheckEvery)
	next(passCheck, passed{missed: 1, dirty: true}, 2*time.Second)
	require.False(t, f.trusted())
	next(passPlain, passed{}, 2*time.Second)
	filters.Forget("c")
	require.Same(t, f, filters.Of("c"), "it is not trusted again")
}
