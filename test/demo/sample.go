package demo

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// sampleEvery is the pause between two looks at the processes.
const sampleEvery = 50 * time.Millisecond

// sampler looks at the job's processes on this machine, which holds all nodes of the bed, and tells the nodes apart by
// the pod whose cgroup a process is in.
type sampler struct {
	mu      sync.Mutex
	nodeOf  map[types.UID]string
	samples []Sample
}

// watch adds a pod to look out for.
func (s *sampler) watch(pod types.UID, node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nodeOf == nil {
		s.nodeOf = map[types.UID]string{}
	}
	s.nodeOf[pod] = node
}

// run takes samples until ctx ends.
func (s *sampler) run(ctx context.Context) {
	ticker := time.NewTicker(sampleEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.take()
		}
	}
}

func (s *sampler) take() {
	s.mu.Lock()
	defer s.mu.Unlock()
	sample := Sample{At: time.Now(), Running: map[string]int{}}
	for _, process := range jobProcesses("/proc") {
		if node := s.node(process.cgroups); node != "" && !process.frozen("/sys/fs/cgroup") {
			sample.Running[node]++
		}
	}
	s.samples = append(s.samples, sample)
}

func (s *sampler) node(cgroups string) string {
	for uid, node := range s.nodeOf {
		if strings.Contains(cgroups, string(uid)) || strings.Contains(cgroups, strings.ReplaceAll(string(uid), "-", "_")) {
			return node
		}
	}
	return ""
}

func (s *sampler) taken() []Sample {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Sample{}, s.samples...)
}

// process is one process of the job; cgroups is the content of its /proc/PID/cgroup.
type process struct {
	cgroups string
}

// jobProcesses finds the processes whose command line names the job's script. One that ends meanwhile is left out.
func jobProcesses(proc string) []process {
	files, err := filepath.Glob(filepath.Join(proc, "[0-9]*", "cmdline"))
	if err != nil {
		return nil
	}
	var found []process
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(line, []byte(ScriptPath+"\x00")) {
			continue
		}
		cgroups, err := os.ReadFile(filepath.Join(filepath.Dir(file), "cgroup"))
		if err == nil {
			found = append(found, process{cgroups: string(cgroups)})
		}
	}
	return found
}

// frozen asks the process's freezer: of cgroup v1 where it has one, else of cgroup v2.
func (p process) frozen(root string) bool {
	unified := ""
	for line := range strings.Lines(p.cgroups) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		switch parts[1] {
		case "freezer":
			state, err := os.ReadFile(filepath.Join(root, "freezer", parts[2], "freezer.state"))
			return err == nil && !strings.HasPrefix(string(state), "THAWED")
		case "":
			unified = parts[2]
		}
	}
	events, err := os.ReadFile(filepath.Join(root, unified, "cgroup.events"))
	return err == nil && strings.Contains(string(events), "frozen 1")
}
