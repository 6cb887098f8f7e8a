package process

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const line = "7 (a) b (c) S 1 7 7 0 -1 4194304 1 2 3 4 150 50 0 0 20 0 1 0 1 1 1"

func TestParseCPU(t *testing.T) {
	used, err := parseCPU(line)
	require.NoError(t, err)
	require.Equal(t, 2*time.Second, used)
	for _, spoilt := range []string{"", "7 (a) S 1 2"} {
		_, err := parseCPU(spoilt)
		require.Error(t, err, spoilt)
	}
}

func TestParseParent(t *testing.T) {
	name, parent, err := parseParent(line)
	require.NoError(t, err)
	require.Equal(t, "a) b (c", name)
	require.Equal(t, 1, parent)
	for _, spoilt := range []string{"", "7 (a)", "7 (a) S x"} {
		_, _, err := parseParent(spoilt)
		require.Error(t, err, spoilt)
	}
}

func TestParseStatus(t *testing.T) {
	const text = "Name:\ta\nVmHWM:\t     2048 kB\nVmRSS:\t 4 kB\n"
	bytes, err := parseStatus(text, "VmHWM")
	require.NoError(t, err)
	require.EqualValues(t, 2<<20, bytes)
	_, err = parseStatus(text, "VmPin")
	require.Error(t, err)
}

func TestOfThisProcess(t *testing.T) {
	resident, err := Resident(os.Getpid())
	require.NoError(t, err)
	require.Positive(t, resident)
	_, err = First("no container has this as its ID")
	require.ErrorContains(t, err, "no process")
}
