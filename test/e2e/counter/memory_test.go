package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMemoryIsProvenAtEachStep(t *testing.T) {
	for _, churn := range []int{0, 1, 100, 300, 1000} { // of 256 pages
		m := newMemory(7, 1, churn)
		for n := range 20 {
			if n > 0 {
				m.step(n)
			}
			require.NoError(t, m.prove(n), "churn %d, step %d", churn, n)
		}
		m.words[5*pageWords+9] ^= 1
		require.ErrorContains(t, m.prove(19), "page 5 after step 19")
	}
}

func TestAPageOfAnEarlierStepIsFound(t *testing.T) {
	m := newMemory(7, 1, 10)
	for n := 1; n <= 30; n++ { // the pages of step 1 are written to once more in steps 26 and 27
		m.step(n)
	}
	m.fill(3, 1)
	require.ErrorContains(t, m.prove(30), "page 3 after step 30, last written to in step 26")
}
