package soak

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// tree is a folder of which is known what files it has, and what they have.
type tree struct {
	folder string
	files  map[string]*content
	made   uint64
}

// content is a file's, in blocks of a page. Hard links share one.
type content struct {
	versions []uint32
	seed     uint64
	open     *os.File // where it is kept open
}

const (
	mostFiles  = 12
	mostBlocks = 40
)

// newTree takes over what there is in a folder of an image: files lower-N of one block.
func newTree(folder string) *tree {
	t := &tree{folder: folder, files: map[string]*content{}}
	for _, name := range must(filepath.Glob(filepath.Join(folder, "lower-*"))) {
		t.files[filepath.Base(name)] = &content{versions: []uint32{1}, seed: lowerSeed}
	}
	return t
}

// lowerSeed is that of files in the image.
const lowerSeed = 7

func (t *tree) path(name string) string { return filepath.Join(t.folder, name) }

func (t *tree) any(rng *rand.Rand) string {
	names := slices.Sorted(maps.Keys(t.files))
	return names[rng.IntN(len(names))]
}

// step changes one file.
func (t *tree) step(rng *rand.Rand) {
	if len(t.files) == 0 || len(t.files) < mostFiles && rng.IntN(3) == 0 {
		t.create(rng)
		return
	}
	name := t.any(rng)
	c := t.files[name]
	switch rng.IntN(8) {
	case 0:
		check(os.Remove(t.path(name)))
		delete(t.files, name)
		if !slices.Contains(slices.Collect(maps.Values(t.files)), c) && c.open != nil {
			check(c.open.Close())
		}
	case 1:
		to := t.name()
		check(os.Rename(t.path(name), t.path(to)))
		delete(t.files, name)
		t.files[to] = c
	case 2:
		to := t.name()
		check(os.Link(t.path(name), t.path(to)))
		t.files[to] = c
	case 3:
		c.versions = c.versions[:rng.IntN(len(c.versions)+1)]
		check(os.Truncate(t.path(name), int64(len(c.versions)*page)))
	case 4:
		more := rng.IntN(mostBlocks - len(c.versions) + 1) // a hole
		c.versions = append(c.versions, make([]uint32, more)...)
		check(os.Truncate(t.path(name), int64(len(c.versions)*page)))
	default:
		c.write(t.path(name), rng)
	}
}

func (t *tree) name() string {
	t.made++
	return fmt.Sprint("file-", t.made)
}

func (t *tree) create(rng *rand.Rand) {
	name := t.name()
	c := &content{seed: rng.Uint64()}
	f := must(os.Create(t.path(name)))
	if rng.IntN(4) == 0 {
		c.open = f
	} else {
		check(f.Close())
	}
	t.files[name] = c
	c.write(t.path(name), rng)
}

// write gives one block a new version, in place or at the end.
func (c *content) write(path string, rng *rand.Rand) {
	n := rng.IntN(min(len(c.versions)+1, mostBlocks))
	if n == len(c.versions) {
		c.versions = append(c.versions, 0)
	}
	f := c.open
	if f == nil {
		f = must(os.OpenFile(path, os.O_WRONLY, 0))
		defer f.Close()
	}
	c.versions[n]++
	block := make([]byte, page)
	fill(block, c.seed, n, c.versions[n])
	must(f.WriteAt(block, int64(n*page)))
}

// prove compares the folder and every file with what they have to have. Files of mapped memory are the areas'. Links of CRIU's
// are seen where it was killed in a dump, until the next agent is there: requireClean looks for those.
func (t *tree) prove(want []byte) string {
	for _, entry := range must(os.ReadDir(t.folder)) {
		if mine := t.files[entry.Name()] != nil; !mine && !isMapped(entry.Name()) && !isLink(entry.Name()) {
			return fmt.Sprintf("%s should not be there", t.path(entry.Name()))
		}
	}
	for name, c := range t.files {
		have, err := os.ReadFile(t.path(name))
		if err != nil || len(have) != len(c.versions)*page {
			return fmt.Sprintf("%s has %d bytes and not %d: %v", t.path(name), len(have), len(c.versions)*page, err)
		}
		for n, version := range c.versions {
			fill(want, c.seed, n, version)
			if !bytes.Equal(want, have[n*page:(n+1)*page]) {
				return fmt.Sprintf("%s: block %d of %d is not its version %d", t.path(name), n, len(c.versions), version)
			}
		}
	}
	return ""
}

func isMapped(name string) bool { return strings.HasPrefix(name, "mapped-") }

func isLink(name string) bool { return strings.HasPrefix(name, "link_remap.") }
