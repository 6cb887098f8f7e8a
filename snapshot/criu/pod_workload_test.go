package criu

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// pairFolder is a volume that the containers of a pod share.
const pairFolder = "/shared"

// pair is one of two containers, "main" or "side". It counts in a file of the shared volume, and holds that the file has what
// its memory says, and that the other's count never goes back: a cut through both is consistent.
func pair(name string) {
	other := map[string]string{"main": "side", "side": "main"}[name]
	own := must(os.Create(filepath.Join(pairFolder, name)))
	check(os.WriteFile("/own-layer", []byte(name), 0o600))
	check(os.WriteFile("/dev/shm/"+name, []byte(name), 0o600))
	seen := 0
	for count := 1; ; count++ {
		must(own.WriteAt(fmt.Appendf(nil, countFormat, count), 0))
		now := countIn(filepath.Join(pairFolder, other))
		bad := ""
		if now < seen {
			bad = fmt.Sprintf("%s counts %d after %d", other, now, seen)
		}
		if got := countIn(filepath.Join(pairFolder, name)); got != count {
			bad = fmt.Sprintf("own file says %d, memory %d", got, count)
		}
		if bad != "" {
			check(os.WriteFile(filepath.Join(pairFolder, "bad-"+name), []byte(bad), 0o600))
		}
		seen = now
		nap(5e5)
	}
}

// countIn reads a count, 0 where there is none yet.
func countIn(path string) int {
	text, _ := os.ReadFile(path)
	count, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return count
}
