package store_test

import (
	"bytes"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
)

// at is the run of one image, and others of the same length elsewhere.
func at(address uint64, pages int64) store.Run { return store.Run{Address: address, Pages: pages} }

// with is content with the page at a place replaced.
func with(content []byte, place int, by []byte) []byte {
	content = bytes.Clone(content)
	copy(content[place*page:], by)
	return content
}

// step is one generation, and how many blocks it must store.
type step struct {
	name   string
	all    []sample
	stored int64
}

type steps struct {
	name  string
	steps []step
}

func deltas() []steps {
	a, b := random(1, 64*page), random(2, 64*page)
	zeros := make([]byte, 64*page)
	same := []sample{image("1", a, at(1<<20, 64)), file("f", b)}
	return []steps{
		{"unchanged", []step{{"first", same, 128}, {"second", same, 0}, {"third", same, 0}}},
		{"changed pages", []step{
			{"first", same, 128},
			{"one page", []sample{image("1", with(a, 5, b[:page]), at(1<<20, 64)), same[1]}, 1},
			{"back again", same, 1},
		}},
		{"a byte of a page", []step{
			{"first", same, 128},
			{"second", []sample{image("1", with(a, 63, []byte{^a[63*page]}), at(1<<20, 64)), same[1]}, 1},
		}},
		{"zeroed pages", []step{
			{"first", same, 128},
			{"some", []sample{image("1", with(a, 3, zeros[:7*page]), at(1<<20, 64)), same[1]}, 0},
			{"all", []sample{image("1", zeros, at(1<<20, 64)), file("f", zeros)}, 0},
			{"back again", same, 128},
		}},
		{"moved areas are stored again", []step{
			{"first", same, 128},
			{"elsewhere", []sample{image("1", a, at(2<<20, 64)), same[1]}, 64},
			{"by one page", []sample{image("1", a, at(2<<20+page, 64)), same[1]}, 64},
			{"in another task", []sample{image("2", a, at(2<<20, 64)), same[1]}, 64},
			{"as a file", []sample{file("g", a), same[1]}, 64},
		}},
		{"the same content twice is stored twice", []step{
			{"first", []sample{image("1", a, at(1<<20, 64)), image("2", a, at(1<<20, 64)), file("f", a), file("g", a)}, 256},
		}},
		{"areas that grow, shrink and split", []step{
			{"first", []sample{image("1", a[:32*page], at(1<<20, 32))}, 32},
			{"grown at the end", []sample{image("1", a, at(1<<20, 64))}, 32},
			{"cut in the middle", []sample{image("1", append(bytes.Clone(a[:8*page]), a[56*page:]...), at(1<<20, 8), at(1<<20+56*page, 8))}, 0},
		}},
		{"areas that go and come back", []step{
			{"first", []sample{image("1", a, at(1<<20, 64))}, 64},
			{"a part is gone", []sample{image("1", a[:60*page], at(1<<20, 60))}, 0},
			{"back again", []sample{image("1", a, at(1<<20, 64))}, 4},
		}},
		{"files cut, grown and written into", []step{
			{"first", []sample{file("f", a[:32*page+100])}, 33},
			{"cut in a block", []sample{file("f", a[:16*page+100])}, 1},
			{"cut at a block", []sample{file("f", a[:16*page])}, 0},
			{"emptied", []sample{file("f", nil), file("g", a[:page])}, 1},
			{"grown", []sample{file("f", a[:8*page+5]), file("g", a[:page])}, 9},
			{"into the middle", []sample{file("f", with(a[:8*page+5], 4, b[:100])), file("g", a[:page])}, 1},
			{"the last byte", []sample{file("f", with(with(a[:8*page+5], 4, b[:100]), 8, []byte{^a[8*page]})), file("g", a[:page])}, 1},
		}},
		{"a file becomes inline and back", []step{
			{"first", []sample{file("f", a[:page]), file("g", b[:page])}, 2},
			{"inline", []sample{inline("f", a[:page]), file("g", b[:page])}, 0},
			{"back", []sample{file("f", a[:page]), file("g", b[:page])}, 1},
		}},
		{"a path that changes its kind", []step{
			{"file", []sample{file("f", a[:page]), file("g", b[:page])}, 2},
			{"dir", []sample{{entry: store.Entry{Path: "f", Type: store.TypeDir, ModTime: same[1].entry.ModTime}}, file("g", b[:page])}, 0},
			{"file again", []sample{file("f", a[:page]), file("g", b[:page])}, 1},
		}},
	}
}

// It makes no difference whether the base is the one in memory or the one that is read from the bucket.
func TestOnlyWhatChangedIsStored(t *testing.T) {
	for _, c := range deltas() {
		for _, base := range []string{"memory", "bucket"} {
			t.Run(c.name+", base from "+base, func(t *testing.T) {
				s := store.New(mem.New(), testRing)
				var opts store.WriteOptions
				for i, step := range c.steps {
					gen, next, err := writeDelta(t.Context(), s, meta(int64(i+1), 0), step.all, opts)
					require.NoError(t, err, step.name)
					require.Equal(t, step.stored, gen.NewBlocks, step.name)
					require.Equal(t, int64(i+1), next.Head().Number)
					if opts.Base = next; base == "bucket" {
						opts.Base, err = s.Base(t.Context(), target)
						require.NoError(t, err, step.name)
					}
				}
				for i, step := range c.steps {
					requireGeneration(t, s, int64(i+1), 0, step.all)
				}
			})
		}
	}
}

// What the table remembers of an area that went away is of no use once the pack that held it has died, nor is it taken
// for content.
func TestAreasComeBackAfterTheirPackDied(t *testing.T) {
	for _, reaped := range []bool{false, true} {
		bucket := mem.New()
		s := store.New(bucket, testRing)
		lasting, fleeting := random(1, 8*page), random(2, 8*page)
		both := []sample{image("1", append(bytes.Clone(lasting), fleeting...), at(1<<20, 8), at(1<<20+16*page, 8))}
		one := []sample{image("1", lasting, at(1<<20, 8))}

		_, base, err := writeDelta(t.Context(), s, meta(1, 0), one, store.WriteOptions{})
		require.NoError(t, err)
		_, base, err = writeDelta(t.Context(), s, meta(2, 0), both, store.WriteOptions{Base: base})
		require.NoError(t, err)
		_, base, err = writeDelta(t.Context(), s, meta(3, 0), one, store.WriteOptions{Base: base})
		require.NoError(t, err)
		r, err := s.Open(t.Context(), target, 3, 0)
		require.NoError(t, err)
		require.Len(t, r.PackKeys(), 1, "nothing of the second pack is left")
		if reaped {
			for key := range objects(t, bucket, target.Prefix()+"packs/") {
				if key != r.PackKeys()[0] {
					require.NoError(t, bucket.Delete(t.Context(), key))
				}
			}
		}
		w, err := s.Begin(t.Context(), target, meta(4, 0), store.WriteOptions{Base: base})
		require.NoError(t, err)
		err = w.AddImage(t.Context(), both[0].entry, "1", both[0].runs)
		require.ErrorIs(t, err, store.ErrInvalid, "its pages are nowhere")
		w.Abort(t.Context())
		gen, _, err := writeDelta(t.Context(), s, meta(4, 0), both, store.WriteOptions{Base: base})
		require.NoError(t, err)
		require.Equal(t, int64(8), gen.NewBlocks)
		requireGeneration(t, s, 4, 0, both)
	}
}

// A base names packs that something has deleted meanwhile: the commit says so, and does not take place.
func TestPackOfTheBaseIsGone(t *testing.T) {
	bucket := mem.New()
	s := store.New(bucket, testRing)
	all := []sample{image("1", random(1, 8*page), at(1<<20, 8))}
	_, base, err := writeDelta(t.Context(), s, meta(1, 0), all, store.WriteOptions{})
	require.NoError(t, err)
	for key := range objects(t, bucket, target.Prefix()+"packs/") {
		require.NoError(t, bucket.Delete(t.Context(), key))
	}
	_, _, err = writeDelta(t.Context(), s, meta(2, 0), all, store.WriteOptions{Base: base})
	require.ErrorIs(t, err, store.ErrPackMissing)
	_, err = s.Base(t.Context(), target)
	require.ErrorIs(t, err, store.ErrPackMissing)
	_, err = write(t.Context(), s, 2, 0, all) // a generation without a base is the mend
	require.NoError(t, err)
	requireGeneration(t, s, 2, 0, all)
}

// Rounds of pre-dump: the Writer stays open, later pages win, and what no image names is left out.
func TestRoundsInOneWriter(t *testing.T) {
	for _, codec := range codecs {
		s := store.New(mem.New(), testRing)
		memory := random(1, 128*page)
		var base *store.Base
		for number := int64(1); number <= 3; number++ {
			w, err := s.Begin(t.Context(), target, meta(number, 0), store.WriteOptions{Base: base, Codec: codec})
			require.NoError(t, err)
			require.NoError(t, w.AddPages(t.Context(), "1", 1<<30, memory))
			require.NoError(t, w.AddPages(t.Context(), "gone", 1<<30, random(7, 20*page)))
			for round := range byte(5) {
				i := int(round) * 11
				copy(memory[i*page:], random(byte(number)*10+round, 3*page))
				copy(memory[100*page:], random(byte(number)*10+100+round, page))
				require.NoError(t, w.AddPages(t.Context(), "1", 1<<30, memory))
			}
			last := image("1", memory[:120*page], at(1<<30, 120))
			require.NoError(t, w.AddImage(t.Context(), last.entry, "1", last.runs))
			clear(memory[110*page : 112*page])
			require.NoError(t, w.AddPages(t.Context(), "1", 1<<30+110*page, memory[110*page:112*page]), "after the image")
			gen, err := w.Commit(t.Context())
			require.NoError(t, err)
			require.Equal(t, int64(120), gen.Blocks)
			base = w.Base()
			requireGeneration(t, s, number, 0, []sample{last})
		}
	}
}

func TestConcurrentAddPages(t *testing.T) {
	for _, codec := range codecs {
		s := store.New(mem.New(), testRing)
		const tasks, perTask = 4, 1500
		memory := make([][]byte, tasks)
		for i := range memory {
			memory[i] = random(byte(i+1), perTask*page)
		}
		var base *store.Base
		for number := int64(1); number <= 2; number++ {
			w, err := s.Begin(t.Context(), target, meta(number, 0), store.WriteOptions{Base: base, Codec: codec})
			require.NoError(t, err)
			var running sync.WaitGroup
			for g := range 8 { // two for each task, who hand in the same pages partly
				running.Go(func() {
					task := g % tasks
					first, last := 0, perTask*2/3
					if g >= tasks {
						first, last = perTask/3, perTask
					}
					for i := first; i < last; i += 7 {
						n := min(7, last-i)
						err := w.AddPages(t.Context(), string(rune('a'+task)), uint64(i)*page, memory[task][i*page:(i+n)*page])
						if err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			running.Wait()
			var all []sample
			for i, content := range memory {
				all = append(all, image(string(rune('a'+i)), content, at(0, perTask)))
				require.NoError(t, w.AddImage(t.Context(), all[i].entry, all[i].task, all[i].runs))
			}
			gen, err := w.Commit(t.Context())
			require.NoError(t, err)
			requireGeneration(t, s, number, 0, all)
			if number == 1 {
				require.Equal(t, int64(tasks*perTask), gen.NewBlocks)
			} else {
				require.Equal(t, int64(tasks), gen.NewBlocks)
			}
			base = w.Base()
			for i := range memory {
				copy(memory[i][500*page:], random(byte(50+i), page))
			}
		}
	}
}

// A frame that its codec does not make shorter is stored raw.
func TestIncompressibleIsStoredRaw(t *testing.T) {
	content := random(1, 64*page)
	var sizes []int64
	for _, codec := range codecs {
		s := store.New(mem.New(), testRing)
		all := []sample{file("f", content)}
		gen, _, err := writeDelta(t.Context(), s, meta(1, 0), all, store.WriteOptions{Codec: codec})
		require.NoError(t, err)
		requireGeneration(t, s, 1, 0, all)
		r, err := s.Open(t.Context(), target, 1, 0)
		require.NoError(t, err)
		sizes = append(sizes, r.PackBytes())
		require.Equal(t, int64(64), gen.NewBlocks)
	}
	require.Equal(t, []int64{sizes[0], sizes[0], sizes[0]}, sizes)
}

// The codec is the writer's choice; generations of one target may have different ones.
func TestCodecsMix(t *testing.T) {
	s := store.New(mem.New(), testRing)
	content := bytes.Repeat([]byte("like text "), 64*page/10+1)[:64*page]
	var base *store.Base
	var all []sample
	for i, codec := range codecs {
		all = append(all, image(codec.String(), content, at(uint64(i)<<30, 64)))
		_, next, err := writeDelta(t.Context(), s, meta(int64(i+1), 0), all, store.WriteOptions{Base: base, Codec: codec})
		require.NoError(t, err)
		base = next
		requireGeneration(t, s, int64(i+1), 0, all)
	}
	for _, codec := range codecs {
		parsed, err := store.ParseCodec(codec.String())
		require.NoError(t, err)
		require.Equal(t, codec, parsed)
	}
	_, err := store.ParseCodec("lz4")
	require.ErrorIs(t, err, store.ErrInvalid)
	require.Equal(t, "codec 3", store.Codec(3).String())
}
