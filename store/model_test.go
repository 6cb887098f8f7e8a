package store_test

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
)

// model is what a target ought to hold: pages of tasks by page number, and files.
type model struct {
	rng   *rand.Rand
	tasks map[string]map[uint64][]byte
	files map[string][]byte
	// dirty are the pages written since the last commit.
	dirty map[string]map[uint64]bool
}

// somePage is one of few contents, so that the same comes back, at other places too.
func (m *model) somePage() []byte {
	if seed := byte(m.rng.IntN(12)); seed > 1 {
		return random(seed, page)
	}
	return make([]byte, page)
}

func (m *model) change() {
	task, path := fmt.Sprint(m.rng.IntN(3)), fmt.Sprintf("d/f%d", m.rng.IntN(4))
	if m.tasks[task] == nil {
		m.tasks[task], m.dirty[task] = map[uint64][]byte{}, map[uint64]bool{}
	}
	pages := m.tasks[task]
	// Two areas far from each other, each longer than a chunk of the writer's tables.
	first, n := m.rng.Uint64N(700)+m.rng.Uint64N(2)<<35, m.rng.Uint64N(40)+1
	switch m.rng.IntN(10) {
	case 0, 1, 2: // write
		for i := range n {
			m.set(task, first+i, m.somePage())
		}
	case 3: // unmap
		maps.DeleteFunc(pages, func(p uint64, _ []byte) bool { return p >= first && p < first+4*n })
	case 4: // move
		for i := range n {
			if content, there := pages[first+i]; there {
				delete(pages, first+i)
				m.set(task, first+i+1000, content)
			}
		}
	case 5: // a task ends
		if m.rng.IntN(3) == 0 {
			delete(m.tasks, task)
		}
	case 6: // write a file
		var content []byte
		for range m.rng.IntN(30) {
			content = append(content, m.somePage()...)
		}
		m.files[path] = append(content, random(9, m.rng.IntN(page))...)
	case 7: // into a file
		if f := m.files[path]; len(f) > 0 {
			f = bytes.Clone(f)
			copy(f[m.rng.IntN(len(f)):], m.somePage())
			m.files[path] = f
		}
	case 8: // cut or grow a file
		f := bytes.Clone(m.files[path])
		m.files[path] = append(f[:m.rng.IntN(len(f)+1)], make([]byte, m.rng.IntN(3*page))...)
	case 9:
		delete(m.files, path)
	}
}

func (m *model) set(task string, at uint64, content []byte) {
	m.tasks[task][at], m.dirty[task][at] = content, true
}

// samples is the model as a generation.
func (m *model) samples() []sample {
	var all []sample
	for _, path := range slices.Sorted(maps.Keys(m.files)) {
		s := file(path, m.files[path])
		s.entry.Inline = path == "d/f0"
		all = append(all, s)
	}
	for _, task := range slices.Sorted(maps.Keys(m.tasks)) {
		var runs []store.Run
		var content []byte
		for _, at := range slices.Sorted(maps.Keys(m.tasks[task])) {
			if n := len(runs); n > 0 && runs[n-1].Address+uint64(runs[n-1].Pages)*page == at*page {
				runs[n-1].Pages++
			} else {
				runs = append(runs, store.Run{Address: at * page, Pages: 1})
			}
			content = append(content, m.tasks[task][at]...)
		}
		all = append(all, image(task, content, runs...))
	}
	return all
}

// handIn adds to w, of images all pages or those that are dirty.
func (m *model) handIn(t *testing.T, w *store.Writer, all []sample, onlyDirty bool) {
	t.Helper()
	for _, s := range all {
		if s.task == "" || !onlyDirty {
			require.NoError(t, add(t.Context(), w, []sample{s}))
			continue
		}
		for at := range m.dirty[s.task] {
			if content, there := m.tasks[s.task][at]; there {
				require.NoError(t, w.AddPages(t.Context(), s.task, at*page, content))
			}
		}
		require.NoError(t, w.AddImage(t.Context(), s.entry, s.task, s.runs))
	}
}

// Random operations against a plain map: every generation is read back whole, and bases come from memory and from the
// bucket by turns. Packs that no generation from the last on needs are deleted, as a reaper with no patience would.
func TestModel(t *testing.T) {
	for i, codec := range codecs {
		t.Run(codec.String(), func(t *testing.T) {
			m := &model{
				rng: rand.New(rand.NewPCG(7, uint64(i))), tasks: map[string]map[uint64][]byte{}, files: map[string][]byte{},
				dirty: map[string]map[uint64]bool{},
			}
			bucket := mem.New()
			s := store.New(bucket, testRing)
			var base *store.Base
			number := int64(0)
			for op := 1; op <= 300; op++ {
				m.change()
				if op%5 != 0 {
					continue
				}
				number++
				base = m.generation(t, s, bucket, number, base, codec)
			}
		})
	}
}

func (m *model) generation(t *testing.T, s *store.Store, bucket store.Bucket, number int64, base *store.Base, codec store.Codec) *store.Base {
	t.Helper()
	all := m.samples()
	opts := store.WriteOptions{Base: base, Codec: codec}
	if number%6 == 0 { // a try that comes to nothing leaves base and bucket as they were
		w, err := s.Begin(t.Context(), target, meta(number, 0), opts)
		require.NoError(t, err)
		m.handIn(t, w, all, base != nil)
		require.NoError(t, w.AddPages(t.Context(), "0", 0, random(200, 8*page)))
		w.Abort(t.Context())
	}
	if number%13 == 0 {
		opts.Base = nil
	}
	if number > 1 { // the base that is in the bucket is as good
		var news []int
		fromBucket, err := s.Base(t.Context(), target)
		require.NoError(t, err)
		for _, base := range []*store.Base{base, fromBucket} {
			w, err := s.Begin(t.Context(), target, meta(number, 0), store.WriteOptions{Base: base})
			require.NoError(t, err)
			m.handIn(t, w, all, true)
			news = append(news, w.NewBlocks())
			w.Abort(t.Context())
		}
		require.Equal(t, news[0], news[1])
	}
	w, err := s.Begin(t.Context(), target, meta(number, 0), opts)
	require.NoError(t, err)
	m.handIn(t, w, all, opts.Base != nil && number%2 == 0)
	gen, err := w.Commit(t.Context())
	require.NoError(t, err)
	requireGeneration(t, s, number, 0, all)

	r, err := s.Open(t.Context(), target, number, 0)
	require.NoError(t, err)
	for key := range objects(t, bucket, target.Prefix()+"packs/") {
		if !slices.Contains(r.PackKeys(), key) {
			require.NoError(t, bucket.Delete(t.Context(), key))
		}
	}
	m.requirePages(t, r)
	clear(m.dirty)
	for task := range m.tasks {
		m.dirty[task] = map[uint64]bool{}
	}
	fromBucket, err := s.Base(t.Context(), target)
	require.NoError(t, err)
	requireNothingNew(t, s, number+1, all, w.Base(), fromBucket)
	require.LessOrEqual(t, gen.NewBlocks, gen.Blocks)
	return cmp.Or(map[bool]*store.Base{true: fromBucket}[number%2 == 0], w.Base())
}

// requireNothingNew asks that the same generation once more costs nothing, with either base.
func requireNothingNew(t *testing.T, s *store.Store, number int64, all []sample, bases ...*store.Base) {
	t.Helper()
	for _, base := range bases {
		w, err := s.Begin(t.Context(), target, meta(number, 0), store.WriteOptions{Base: base})
		require.NoError(t, err)
		require.NoError(t, add(t.Context(), w, all))
		require.Zero(t, w.NewBlocks())
		w.Abort(t.Context())
	}
}

// requirePages compares single pages.
func (m *model) requirePages(t *testing.T, r *store.Reader) {
	t.Helper()
	src, err := r.Pages(t.Context())
	require.NoError(t, err)
	defer src.Close()
	got := make([]byte, page)
	for task, pages := range m.tasks {
		for at, want := range pages {
			if m.rng.IntN(4) == 0 {
				require.NoError(t, src.ReadPage(t.Context(), task, at*page, got))
				require.True(t, bytes.Equal(want, got), "page %#x of task %s", at*page, task)
			}
		}
		for range 10 {
			at := m.rng.Uint64N(800)
			if _, there := pages[at]; !there {
				require.ErrorIs(t, src.ReadPage(t.Context(), task, at*page, got), store.ErrNotFound)
			}
		}
	}
}
