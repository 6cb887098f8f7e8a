package main

import "fmt"

// pageWords are the words of one page of 4 KiB.
const pageWords = 512

// memory is pages whose content follows from a seed, the page's place and the step in which it was last written to, and that step
// from the number of steps: all of it can be proven at any step.
type memory struct {
	seed  uint64
	words []uint64
	// churn is how many pages each step writes to, one after the other.
	churn int
}

func newMemory(seed uint64, mib, churn int) *memory {
	m := &memory{seed: seed, words: make([]uint64, mib<<20/8), churn: churn}
	for page := range m.pages() {
		m.fill(page, 0)
	}
	return m
}

func (m *memory) pages() int { return len(m.words) / pageWords }

// step writes to the pages of step n.
func (m *memory) step(n int) {
	for i := (n - 1) * m.churn; i < n*m.churn; i++ {
		m.fill(i%m.pages(), n)
	}
}

func (m *memory) fill(page, step int) {
	for i := range pageWords {
		m.words[page*pageWords+i] = m.word(page, step, i)
	}
}

// written is the step, n at most, in which a page was last written to; 0 where that was before the first.
func (m *memory) written(page, n int) int {
	writes := n * m.churn
	if writes <= page {
		return 0
	}
	return (writes-1-(writes-1-page)%m.pages())/m.churn + 1
}

// prove says which page is not what it must be after step n.
func (m *memory) prove(n int) error {
	for page := range m.pages() {
		step := m.written(page, n)
		for i := range pageWords {
			if m.words[page*pageWords+i] != m.word(page, step, i) {
				return fmt.Errorf("memory differs from what was put there: page %d after step %d, last written to in step %d", page, n, step)
			}
		}
	}
	return nil
}

// word is a word of a page as SplitMix64 makes them: nothing that compresses.
func (m *memory) word(page, step, i int) uint64 {
	x := m.seed + uint64(page)<<40 ^ uint64(step)<<10 ^ uint64(i)
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
