package criu

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Only a log that says that CRIU has begun, and not that it goes into a task, lets it be killed.
func TestEarly(t *testing.T) {
	const begun, into = "Dumping processes (pid: 5 comm: a)\n(00.1) SEIZE 5 (comm a): success\n", "Dumping task (pid: 5 comm: a)\n"
	for _, c := range []struct {
		name, log string
		want      bool
	}{
		{"nothing yet", "", false},
		{"begun", begun, true},
		{"in a task", begun + into, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			work := t.TempDir()
			require.False(t, early(work), "no log")
			require.NoError(t, os.WriteFile(filepath.Join(work, dumpLog), []byte(c.log), 0o600))
			require.Equal(t, c.want, early(work))
		})
	}
}
